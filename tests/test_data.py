"""Corpora, token files and batches: against brute force, and against all that can go wrong on the way."""

import bz2
import codecs
import gzip
import hashlib
import io
import itertools
import json
import lzma
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_minimal.cli import main
from llama_minimal.data import (
    Batches,
    Document,
    LongDocument,
    TokenFile,
    cache_folder,
    documents,
    download,
    encode_corpus,
    read_corpus_info,
    sequential_batches,
    text_files,
)
from llama_minimal.data import document as document_module
from llama_minimal.data import encoding as encoding_module
from llama_minimal.data.document import text_documents
from llama_minimal.data.splitting import last_place
from llama_minimal.tokenizer import Tokenizer

BYTES = Tokenizer()
patient = settings(deadline=None)


# --- corpora ---


def test_the_python_docs():
    docs = list(documents("python-docs"))
    assert len(docs) > 70
    assert sum(len(document.text) for document in docs) > 400_000
    assert [document.name for document in docs] == sorted(document.name for document in docs)
    assert docs == list(documents("python-docs"))


def test_the_python_source():
    names = [document.name for document in itertools.islice(documents("python-source"), 300)]
    assert names == sorted(names)
    assert "argparse.py" in names
    assert "asyncio/__init__.py" in names
    assert not [name for name in names if {"site-packages", "test", "tests"} & set(name.split("/"))]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    for name, text in {
        "b.txt": "\ufeffbé\r\n",
        "a.md": "# a",
        "empty.py": " \n",
        "sub/c.jsonl": '{"text": "one"}\n\n{"text": "two", "id": 2}\n{"text": ""}\n',
        "sub/skipped.csv": "1,2",
        "sub/.hidden/d.txt": "hidden",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return tmp_path


def test_files_folders_and_globs(folder, monkeypatch):
    jsonl = [("one", "c.jsonl:1"), ("two", "c.jsonl:3")]
    assert list(documents(folder)) == [
        Document("a.md", "# a"),
        Document("b.txt", "bé\r\n"),
        *(Document(f"sub/{name}", text) for text, name in jsonl),
    ]
    assert list(documents(folder / "b.txt")) == [Document("b.txt", "bé\r\n")]
    assert list(documents(str(folder / "sub/c.jsonl"))) == [Document(name, text) for text, name in jsonl]
    assert [document.text for document in documents(f"{folder}/**/*.[mt]*")] == ["# a", "bé\r\n", "hidden"]
    monkeypatch.chdir(folder)
    assert list(documents("*.txt")) == [Document("b.txt", "bé\r\n")]


def test_sources_that_are_refused(folder):
    (folder / "latin.txt").write_bytes("é".encode("latin-1") + b"abc")
    (folder / "late.jsonl").write_bytes(b'{"text": "x"}\n{"text": "\xe9"}\n')
    (folder / "broken.jsonl").write_text('{"text": "x"}\n{"txt": "y"}\n')
    (folder / "half.jsonl").write_text('{"text": "\\ud800"}\n')
    (folder / "bare").mkdir()
    for source, kind, message in (
        ("python-dosc", ValueError, "known are python-docs, python-source"),
        ("missing.txt", FileNotFoundError, "no file or folder missing.txt"),
        (folder / "missing", FileNotFoundError, "no file or folder"),
        (f"{folder}/*.zip", FileNotFoundError, "no file matches"),
        (folder / "bare", ValueError, "holds no .txt, .md"),
        (folder / "empty.py", ValueError, "holds no text"),
        (folder / "latin.txt", ValueError, r"latin\.txt is not UTF-8: byte 0xe9 at offset 0 \(line 1\); convert"),
        (folder / "late.jsonl", ValueError, r"byte 0xe9 at offset 24 \(line 2\)"),
        (
            folder / "broken.jsonl",
            ValueError,
            r'broken\.jsonl, line 2, has no field "text"; its fields are: "txt";',
        ),
        (folder / "half.jsonl", ValueError, "Unicode string"),
        ("ftp://host/file.txt", ValueError, "not an http or https address"),
        ("file:///etc/passwd", ValueError, "not an http or https address"),
    ):
        with pytest.raises(kind, match=message):
            list(documents(source))


TEXT = "Grüße vom Fluß.\r\n红帽子 🦙\n" * 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["", "gz", "bz2", "xz"])
def test_encodings_and_compression_are_read(tmp_path, monkeypatch, encoding, pack):
    monkeypatch.setattr(text_files, "_HEAD_BYTES", 7)  # within a character
    monkeypatch.setattr(text_files, "_CHUNK_BYTES", 5)
    mark = "" if encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    (tmp_path / "a.TXT").write_bytes(pack((mark + TEXT).encode(encoding)))
    lines = "".join(json.dumps({"text": f"{TEXT} {i}"}, ensure_ascii=False) + "\n" for i in range(3))
    (tmp_path / "b.JsonL.gz").write_bytes(pack((mark + lines).encode(encoding)))
    found = [Document("a.TXT", TEXT), *(Document(f"b.JsonL.gz:{i + 1}", f"{TEXT} {i}") for i in range(3))]
    assert list(documents(tmp_path)) == found
    assert list(documents(tmp_path / "a.TXT")) == found[:1]


def zip_with(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "<w:p>hello</w:p>")
    return buffer.getvalue()


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return buffer.getvalue()


OTHERS = {
    "a zip archive, not text; unpack": zip_with("a.txt"),
    "a Word document": zip_with("word/document.xml"),
    "an Excel workbook": zip_with("xl/workbook.xml"),
    "a PDF, not text; save it as plain text": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "a Parquet table, not text; write its texts as JSON lines": b"PAR1\x15\x04\x15\x00\x15" + bytes(20) + b"PAR1",
    "a zstd file": b"(\xb5/\xfd\x04\x00abc",
    "a gzip file": gzip.compress(gzip.compress(b"text")),
    "a tar archive": tar(),
    "a tar archive, not text": gzip.compress(tar()),
    "an SQLite database": b"SQLite format 3\x00\x10\x00",
    "looks like UTF-16LE without a byte order mark; convert it first, with iconv -f UTF-16LE": "hé llo\n".encode(
        "utf-16-le"
    ),
    "looks like UTF-16BE": "hello\n".encode("utf-16-be"),
    "looks like UTF-32LE": "hello\n".encode("utf-32-le"),
    "looks like UTF-32BE": "hello\n".encode("utf-32-be"),
    "binary data": np.arange(300, dtype="<i8").tobytes(),
    "is binary data, not text: a zero byte": b"\x00" + b"\xff\xfe\xfd" * 20,
    "mark of UTF-16 but is not that: byte 0x[0-9a-f]+ at offset 6": codecs.BOM_UTF16_LE + b"a\x00b\x00c",
    "damaged or cut short": gzip.compress(TEXT.encode())[:-9],
    "damaged or cut short: it cannot": lzma.compress(TEXT.encode())[:-20],
    "cannot be unpacked": bz2.compress(TEXT.encode())[:-9] + b"123456789",
    "cut short: it cannot be unpacked": gzip.compress(TEXT.encode())[:-8] + b"12345678",
}


@pytest.mark.parametrize("message", OTHERS)
def test_what_is_not_text_is_named(tmp_path, message):
    (tmp_path / "a.txt").write_bytes(OTHERS[message])
    with pytest.raises(ValueError, match=message) as error:
        list(documents(tmp_path / "a.txt"))
    assert str(tmp_path / "a.txt") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["PAR1S is a city", "GIF89 is a format", "a\0b" + "c" * 99, "BZh9, a word", "MZ"])
def test_texts_that_look_like_something_else_are_texts(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert list(documents(tmp_path / "a.txt")) == [Document("a.txt", text)]


def test_a_field_of_another_name(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "hello", "id": 1}\n\ufeff{"content": "ho", "text": null}\n', encoding="utf-8")
    assert [document.text for document in documents(path, text_field="content")] == ["hello", "ho"]
    for line, field, message in (
        (
            '{"content": "x", "id": 1}',
            "text",
            r'line 1, has no field "text"; its fields are: "content", "id"; .*--text-f',
        ),
        ("{}", "body", 'has no field "body"; its fields are: none'),
        ('{"text": 5}', "text", 'has a field "text" that is not a Unicode string'),
        ('{"text": null}', "text", "not a Unicode string"),
        ('["text"]', "text", r'is not a JSON object, such as \{"text": ...\}'),
        ('"text"', "text", "is not a JSON object"),
        ("{'text': 'x'}", "text", "line 1, is not valid JSON"),
        ("[" * 100_000, "text", "is not valid JSON"),
        ('{"text": "cut', "text", "is not valid JSON"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            list(documents(path, text_field=field))


# --- documents within a file ---

SEPARATED = (
    "\n\nOne.\n\nStill one.\n<|endoftext|>\r\n\n  Two, not <|endoftext|> here.\r\n <|endoftext|> \n<|endoftext|>\nThree"
)


def test_a_line_may_separate_documents(tmp_path):
    path = tmp_path / "a.txt"
    texts = ["One.\n\nStill one.", "  Two, not <|endoftext|> here.", "", "Three"]
    for end in ("", "\n", "\n<|endoftext|>", "\n<|endoftext|>\n"):
        path.write_text(SEPARATED + end, newline="")
        found = [Document(f"a.txt:{i + 1}", text) for i, text in enumerate(texts) if text]
        assert list(documents(path, separator="<|endoftext|>")) == found
    with pytest.warns(UserWarning, match=r"no line is '\*\*\*', so every file is one document"):
        assert len(list(documents(path, separator="***"))) == 1
    for bad in ("", " \n", "a\nb"):
        with pytest.raises(ValueError, match="must be one line that is not empty"):
            documents(path, separator=bad)


LINES = ["", "a", " b ", "--", "-- ", "--x", "\r", "--\r", "c\u2028--", "dddddd--"]
lines = st.lists(st.sampled_from(LINES), max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines, st.integers(1, 9), st.integers(0, 6), st.integers(4, 9))
def test_separating_equals_going_line_by_line(monkeypatch, lines, size, long, longest):
    monkeypatch.setattr(document_module, "_LONG", long)
    monkeypatch.setattr(document_module, "_LONGEST_SEPARATOR", longest)  # "-- " and "--\r" are shorter
    text = "\n".join(lines)
    expected, part = [], []
    for line in text.split("\n"):
        if line.strip(" \t").removesuffix("\r").strip(" \t") == "--":
            expected, part = [*expected, part], []
        else:
            part.append(line)
    expected = ["\n".join(part).strip("\r\n") for part in [*expected, part]]

    def read():
        yield from (text[i : i + size] for i in range(0, len(text), size))

    found = list(text_documents("a", read, "--"))
    assert [document.text for document in found if document.text] == [text for text in expected if text]
    assert all(isinstance(document, LongDocument) == (len(document.text) > long) for document in found)
    (whole,) = text_documents("a", read, None)
    assert whole.text == text


def test_a_long_line_is_not_held_whole_where_lines_separate_documents():
    """All of it would be in memory at once, however long the text."""
    parts = ["<|endoftext|>\n", *(["a" * (1 << 18)] * 8), "<|endoftext|>\nb\n<|endo", "ftext|>", "\nc"]
    given = 0

    def read():
        nonlocal given
        for part in parts:
            given += len(part)
            yield part

    taken, found = 0, {}
    for number, part in document_module._separated(read(), "<|endoftext|>"):
        taken += len(part)
        assert given - taken < 1 << 19
        found[number] = found.get(number, "") + part
    assert list(found.values()) == ["", "a" * (1 << 21) + "<|endoftext|>\nb\n", "c\n"]


def test_lines_of_json_have_a_second_suffix(tmp_path):
    (tmp_path / "a.ndjson").write_text('{"body": "one"}\n{"body": "two"}\n')
    (tmp_path / "b.txt").write_text("three")
    assert [document.text for document in documents(tmp_path / "a.ndjson", text_field="body")] == ["one", "two"]
    assert [document.text for document in documents(tmp_path, text_field="body")] == ["one", "two", "three"]


def test_options_that_no_file_heeds_are_told(tmp_path):
    (tmp_path / "b.txt").write_text("three")
    with pytest.raises(ValueError, match="text_field='body' is for files of JSON lines"):
        list(documents(tmp_path / "b.txt", text_field="body"))
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a line of JSON is a document anyway
        assert len(list(documents(tmp_path / "a.jsonl", separator="--"))) == 1


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    """What a shell makes of a variable that is not set."""
    (tmp_path / "b.txt").write_text("three")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is empty"):
        documents("")
    assert len(list(documents("."))) == 1


def test_of_very_many_fields_a_few_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({f"field {i}": i for i in range(1000)}))
    with pytest.raises(ValueError, match=r'"field 0", .*"field 29" and 970 more; name') as error:
        list(documents(tmp_path / "a.jsonl"))
    assert len(str(error.value)) < 1000


def test_stories_come_back_from_plain_text(tmp_path):
    for suffix in ("txt", "jsonl"):
        main(["corpus", "valley", "--stories", "40", "--out", str(tmp_path / f"stories.{suffix}")])
    plain, lines = (
        [document.text for document in documents(tmp_path / f"stories.{suffix}", separator="* * *")]
        for suffix in ("txt", "jsonl")
    )
    assert plain == lines
    assert len(plain) == 40


TRAIN = (
    "train --dim 16 --n-layers 1 --n-heads 2 --max-seq-len 32 --seq-len 16 --batch-size 2 --warmup-steps 1 --steps 2 "
    "--samples 0 --vocab-size 300"
).split()


def test_the_commands_read_documents_so(tmp_path, capsys):
    stories = [f"Story {i}: the ferry left at {i} o'clock.\nNobody saw who rang the bell." for i in range(60)]
    plain, lines, run = tmp_path / "a.txt", tmp_path / "a.jsonl", tmp_path / "run"
    plain.write_text("\n<|endoftext|>\n".join(stories))
    lines.write_text("".join(json.dumps({"body": story}) + "\n" for story in stories))
    separated = ["--corpus", str(plain), "--document-separator", "<|endoftext|>"]
    main([*TRAIN, *separated, "--pattern", "llama3", "--out", str(run)])
    info = read_corpus_info(run / "data")
    assert info.train.documents + info.validation.documents == 60
    assert Tokenizer.load(run).pattern == "llama3"
    main([*TRAIN, "--corpus", str(lines), "--text-field", "body", "--pattern", "llama3", "--out", str(tmp_path / "b")])
    assert content(tmp_path / "b" / "data") == content(run / "data")
    capsys.readouterr()
    main(["evaluate", str(run), *separated])
    first = capsys.readouterr().out
    main(["evaluate", str(run), "--corpus", str(lines), "--text-field", "body"])
    assert capsys.readouterr().out == first
    n_tokens = sum(len(Tokenizer.load(run).encode(story, bos=True)) for story in stories)
    assert f"{n_tokens - 1:,}" in first


# --- downloads ---

PAGES = {"/story.txt": b"Once upon a time. " * 20_000, "/lines.jsonl": b'{"text": "a"}\n{"text": "b"}\n'}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "ftp://localhost/story.txt")
            self.end_headers()
        elif self.path not in PAGES and self.path != "/cut.txt":
            self.send_error(404)
        else:
            content = PAGES.get(self.path, b"cut")
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + 100 * (self.path == "/cut.txt")))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_a_web_text_is_fetched_once(server, tmp_path):
    calls, url = [], f"{server.url}/story.txt?v=1"
    PAGES["/story.txt?v=1"] = PAGES["/story.txt"]
    for _ in range(2):
        (document,) = documents(url, cache_dir=tmp_path / "cache", progress=lambda *call: calls.append(call))
        assert document == Document(url, PAGES["/story.txt"].decode())
    assert server.asked.count("/story.txt?v=1") == 1
    assert calls[-1] == (360_000, 360_000)
    assert len(calls) > 2
    path = download(url, cache_dir=tmp_path / "cache")
    note = json.loads(path.with_name(path.name + ".json").read_text())
    assert note["url"] == url
    assert (note["bytes"], note["sha256"]) == (360_000, hashlib.sha256(PAGES["/story.txt"]).hexdigest())
    assert len(list(documents(f"{server.url}/lines.jsonl", cache_dir=tmp_path))) == 2


def test_a_changed_copy_is_noticed(server, tmp_path):
    path = download(f"{server.url}/story.txt", cache_dir=tmp_path)
    path.write_bytes(b"tampered")
    with pytest.raises(ValueError, match="delete it and it is fetched again"):
        documents(f"{server.url}/story.txt", cache_dir=tmp_path)
    path.unlink()
    assert download(f"{server.url}/story.txt", cache_dir=tmp_path).read_bytes() == PAGES["/story.txt"]


@pytest.mark.parametrize(
    ("page", "message"),
    [("cut.txt", "ended after 3 of 103 bytes"), ("missing.txt", "answered 404 Not Found"), ("away", "ftp")],
)
def test_a_failed_transfer_leaves_nothing(server, tmp_path, page, message):
    with pytest.raises(ConnectionError, match=message):
        documents(f"{server.url}/{page}", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_host(tmp_path):
    with pytest.raises(ConnectionError, match="failed after 0 bytes"):
        download("http://127.0.0.1:9/x.txt", cache_dir=tmp_path)


def test_where_downloads_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LLAMA_MINIMAL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / ".cache" / "llama_minimal"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "llama_minimal"
    monkeypatch.setenv("LLAMA_MINIMAL_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


# --- token files ---


def read_texts(folder, split, tokenizer=BYTES):
    tokens = TokenFile.open(folder, split).tokens
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    parts = np.split(tokens, ends + 1)[:-1]
    assert all(part[0] == tokenizer.bos_id for part in parts)
    return [tokenizer.decode(part) for part in parts]


def some_documents(n=40):
    return [Document(f"{i}.txt", f"text {i} é\n" * (i + 1)) for i in range(n)]


def test_the_corpus_comes_back_split_by_document(tmp_path):
    docs, calls = some_documents(), []
    info = encode_corpus(iter(docs), BYTES, tmp_path, progress=lambda *call: calls.append(call))
    train, validation = read_texts(tmp_path, "train"), read_texts(tmp_path, "validation")
    assert Counter(train) + Counter(validation) == Counter(document.text for document in docs)
    assert 0 < len(validation) < 15
    assert info == read_corpus_info(tmp_path)
    for split, found, counts in (("train", train, info.train), ("validation", validation, info.validation)):
        opened = TokenFile.open(tmp_path, split)
        n_bytes = sum(len(text.encode()) for text in found)
        assert (opened.n_documents, opened.n_bytes, opened.n_tokens) == (len(found), n_bytes, n_bytes + 2 * len(found))
        assert (counts.documents, counts.bytes, counts.tokens) == (len(found), n_bytes, opened.n_tokens)
        assert (opened.vocab_size, opened.tokenizer_sha256) == (259, BYTES.fingerprint)
        assert not opened.tokens.flags.writeable
    assert calls == [(info.train.bytes + info.validation.bytes, None)]


def test_the_split_depends_on_seed_and_text_alone(tmp_path):
    def validation(docs, seed):
        encode_corpus(docs, BYTES, tmp_path, validation_fraction=0.3, seed=seed)
        return set(read_texts(tmp_path, "validation"))

    docs = some_documents(100)
    first = validation(docs, 0)
    assert 20 <= len(first) <= 40
    assert validation(reversed(docs), 0) == first
    assert validation([Document("x", document.text) for document in docs], 0) == first
    assert validation(docs[:50], 0) == first & {document.text for document in docs[:50]}
    assert validation(docs, 1) != first
    # A change of the split would silently mix validation text into the training of resumed runs.
    assert sorted(int(text.split()[1]) for text in first)[:5] == [0, 3, 4, 6, 7]


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_each_split_has_a_document(tmp_path, fraction):
    for n in (2, 5):
        info = encode_corpus(some_documents(n), BYTES, tmp_path, validation_fraction=fraction)
        assert {info.train.documents, info.validation.documents} == {1, n - 1}
        n_bytes = sum(len(document.text.encode()) for document in some_documents(n))
        assert info.train.bytes + info.validation.bytes == n_bytes
        texts = read_texts(tmp_path, "train") + read_texts(tmp_path, "validation")
        assert sorted(texts) == sorted(document.text for document in some_documents(n))


@settings(deadline=None, max_examples=40)
@given(st.text("ab\n", min_size=2, max_size=300), st.floats(0.01, 0.99))
def test_one_document_is_cut_near_its_end(tmp_path_factory, text, fraction):
    folder = tmp_path_factory.mktemp("one", numbered=True)
    encode_corpus([Document("one", text)], BYTES, folder, validation_fraction=fraction)
    (head,), (tail,) = read_texts(folder, "train"), read_texts(folder, "validation")
    assert head + tail == text
    assert abs(len(tail) / len(text) - fraction) <= fraction / 2 + 2 / len(text)


def test_one_document_is_cut_between_paragraphs(tmp_path):
    text = "\n\n".join(f"paragraph {i}\nof two lines" for i in range(40))
    encode_corpus([Document("one", text)], BYTES, tmp_path)
    (tail,) = read_texts(tmp_path, "validation")
    assert tail.startswith("paragraph 35\n")


def test_large_vocabularies_take_four_bytes(tmp_path):
    wide = Tokenizer([(a, b) for a in range(256) for b in range(256)][: 65_536 - 259])
    for tokenizer, dtype in ((wide, "<u2"), (Tokenizer([*wide.merges, (255, 255)]), "<u4")):
        encode_corpus(some_documents(), tokenizer, tmp_path)
        assert TokenFile.open(tmp_path).tokens.dtype == np.dtype(dtype)
        assert len(read_texts(tmp_path, "train", tokenizer)) > 20


def same_corpus(folder, docs, tokenizer=BYTES, **options):
    """Encode documents in memory and in chunks, and compare every byte of what is written."""
    long = [LongDocument(document.name, partial(in_pieces, document.text)) for document in docs]
    for name, some in (("memory", docs), ("chunks", long)):
        encode_corpus(iter(some), tokenizer, folder / name, **options)
    assert content(folder / "memory") == content(folder / "chunks")


def in_pieces(text):
    yield from (text[i : i + 7] for i in range(0, len(text), 7))


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.999])
def test_long_documents_give_the_same_files(tmp_path, fraction):
    tokenizer = Tokenizer.train([document.text for document in some_documents()], vocab_size=300)
    for n in (1, 2, 5, 40):
        same_corpus(tmp_path / str(n), some_documents(60)[-n:], tokenizer, validation_fraction=fraction, seed=n)


@settings(deadline=None, max_examples=60)
@given(st.text("ab\n", min_size=2, max_size=300), st.floats(0.01, 0.99))
def test_a_long_document_is_cut_where_a_short_one_is(tmp_path_factory, text, fraction):
    folder = tmp_path_factory.mktemp("one", numbered=True)
    same_corpus(folder, [Document("one", text)], validation_fraction=fraction)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_last_place_is_that_of_the_whole_text(size):
    for text in map("".join, itertools.product("a\n", repeat=6)):
        chunks = [text[i : i + size] for i in range(0, len(text), size)]
        for found, start, end in itertools.product(("\n", "\n\n"), range(7), range(8)):
            assert last_place(chunks, found, start, end) == text.rfind(found, start, end)


def test_a_long_file_is_read_in_chunks(tmp_path):
    line = "The ferry left at noon; 渡船在中午离开。\n"
    text = line * (5_000_000 // len(line))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8", newline="")
    (document,) = documents(tmp_path / "long.txt")
    assert isinstance(document, LongDocument)
    chunks = list(document.chunks())
    assert max(map(len, chunks)) < 2_000_000
    assert "".join(chunks) == document.text == text
    assert Tokenizer.train(chunks, vocab_size=300).merges == Tokenizer.train([text], vocab_size=300).merges
    with (tmp_path / "long.txt").open("ab") as file:
        file.write(b"\xff")
    with pytest.raises(ValueError, match=f"byte 0xff at offset {len(text.encode())}"):
        list(documents(tmp_path / "long.txt"))


PEAK = """
import resource, sys
from llama_minimal.data import documents, encode_corpus
from llama_minimal.tokenizer import HuggingFaceTokenizer, Tokenizer
tokenizer = {tokenizer}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
encode_corpus(documents(sys.argv[1] + "/long.txt"), tokenizer, sys.argv[1] + "/out")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in another unit elsewhere")
@pytest.mark.parametrize("tokenizer", ["Tokenizer.load(sys.argv[1])", "HuggingFaceTokenizer(sys.argv[1])"])
def test_the_memory_for_a_long_file_does_not_grow_with_it(tmp_path, tokenizer):
    (tmp_path / "long.txt").write_text("The ferry left at noon, and nobody saw who rang the bell.\n" * 200_000)
    Tokenizer.train([(tmp_path / "long.txt").read_text()[:10_000]], vocab_size=400).save(tmp_path)
    command = [sys.executable, "-c", PEAK.format(tokenizer=tokenizer), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    # In one piece, its 12 MB took over 200 MB.
    assert int(done.stdout) < 80_000


@pytest.mark.parametrize("size", [100, 1000, 1850])  # the last leaves a group of one document
def test_groups_and_tokenizers_without_special_tokens(tmp_path, monkeypatch, size):
    plain, calls = Tokenizer(special_tokens=[]), []
    encode_corpus(some_documents(), plain, tmp_path / "whole")
    monkeypatch.setattr(encoding_module, "_GROUP_CHARACTERS", size)
    encode_corpus(some_documents(), plain, tmp_path / "groups", progress=lambda *call: calls.append(call))
    assert len(calls) > 1
    assert calls == sorted(calls)
    assert content(tmp_path / "whole") == content(tmp_path / "groups")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failing_documents():
    yield from some_documents(5)
    raise KeyboardInterrupt


def test_an_interrupted_encoding_keeps_the_former_corpus(tmp_path, monkeypatch):
    encode_corpus(some_documents(), BYTES, tmp_path)
    before = content(tmp_path)
    monkeypatch.setattr(encoding_module, "_GROUP_CHARACTERS", 10)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(failing_documents(), BYTES, tmp_path)
    assert content(tmp_path) == before

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        encode_corpus(some_documents(7), BYTES, tmp_path)
    assert content(tmp_path) == before


def test_a_crash_between_two_files_is_noticed(tmp_path, monkeypatch):
    encode_corpus(some_documents(), BYTES, tmp_path)
    replace, calls = Path.replace, itertools.count()

    def crash(self, target):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(some_documents(7), BYTES, tmp_path)
    with pytest.raises(FileNotFoundError, match="no encoded corpus"):
        TokenFile.open(tmp_path)


@pytest.mark.parametrize("docs", [[], [Document("tiny", "x")]])
def test_corpora_that_are_too_small(tmp_path, docs):
    with pytest.raises(ValueError, match=r"no documents|too few"):
        encode_corpus(docs, BYTES, tmp_path)
    with pytest.raises(ValueError, match="text has no tokens"):
        encode_corpus([Document("a", "a"), Document("empty", "")], Tokenizer(special_tokens=[]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_token_files_are_refused(tmp_path):
    encode_corpus(some_documents(), BYTES, tmp_path)
    for fraction in (0, 1, -1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            encode_corpus(some_documents(), BYTES, tmp_path, validation_fraction=fraction)
    with pytest.raises(ValueError, match="not one of train, validation"):
        TokenFile.open(tmp_path, "test")
    path = tmp_path / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train\.bin has \d+ bytes, but corpus\.json promises"):
        TokenFile.open(tmp_path)
    index = tmp_path / "corpus.json"
    good = json.loads(index.read_text())
    for change in ({"train": None}, {"train": {"documents": 1}}, {"dtype": "float32"}, {"extra": 1}):
        index.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match="encode the corpus again"):
            TokenFile.open(tmp_path)
    index.unlink()
    with pytest.raises(FileNotFoundError, match="encode one first"):
        TokenFile.open(tmp_path)


# --- batches ---

sizes = st.tuples(st.integers(1, 12), st.integers(1, 9)).flatmap(
    lambda size: st.tuples(st.just(size[0]), st.just(size[1]), st.integers(size[0] + 1, 200))
)


@patient
@given(sizes, st.integers(0, 3))
def test_an_epoch_shows_each_window_once(size, seed):
    seq_len, batch_size, n_tokens = size
    tokens = np.arange(n_tokens, dtype=np.uint16)
    batches = Batches(tokens, batch_size=batch_size, seq_len=seq_len, seed=seed)
    n = batches.windows_per_epoch
    rows = []
    for step in range(-(-3 * n // batch_size)):
        inputs, targets = batches.batch(step)
        assert inputs.shape == targets.shape == (batch_size, seq_len)
        assert inputs.dtype == targets.dtype == np.int64
        assert (targets == inputs + 1).all()
        rows += list(inputs)
    for epoch in range(3):
        seen = np.concatenate(rows[epoch * n : (epoch + 1) * n])
        assert len(set(seen)) == len(seen) == n * seq_len
        assert seen.max() - seen.min() == len(seen) - 1
        assert n_tokens - len(seen) <= 2 * seq_len


def test_epochs_differ_in_order_and_offset():
    batches = Batches(np.arange(1000), batch_size=61, seq_len=16)
    assert batches.windows_per_epoch == 61
    firsts = [batches.batch(epoch)[0][:, 0] for epoch in range(20)]
    assert len({int(first.min()) for first in firsts}) > 8
    assert {int(first.min()) for first in firsts} <= set(range(16))
    assert not (np.argsort(firsts[0]) == np.argsort(firsts[1])).all()
    assert batches.epochs(2) == 2.0
    assert list(Batches(np.arange(1000), batch_size=61, seq_len=16, seed=1).batch(0)[0][:, 0]) != list(firsts[0])


@patient
@given(sizes, st.integers(1, 4), st.integers(0, 50))
def test_ranks_together_have_the_batch_of_one_process(size, world_size, step):
    seq_len, batch_size, n_tokens = size
    tokens = np.random.default_rng(0).integers(0, 99, n_tokens)
    options = {"batch_size": batch_size * world_size, "seq_len": seq_len, "seed": 5}
    whole = Batches(tokens, **options).batch(step)
    for rank in range(world_size):
        part = Batches(tokens, **options, rank=rank, world_size=world_size).batch(step)
        for whole_array, part_array in zip(whole, part, strict=True):
            np.testing.assert_array_equal(part_array, whole_array[rank::world_size])


def test_aligned_windows_begin_with_each_document_once():
    lengths = np.random.default_rng(0).integers(2, 9, 60)
    tokens = np.concatenate([[0, *range(number * 100 + 1, number * 100 + n)] for number, n in enumerate(lengths)])
    batches = Batches(tokens, batch_size=1, seq_len=10, document_start=0)
    windows = [np.append(*(part[0, end:] for part, end in zip(batches.batch(step), (0, -1), strict=True)))
               for step in range(2 * batches.windows_per_epoch)]  # fmt: skip
    n = batches.windows_per_epoch
    assert n == sum(start + 10 < len(tokens) for start in np.flatnonzero(tokens == 0))
    text = " ".join(map(str, tokens))
    for epoch in (windows[:n], windows[n:]):
        assert all(window[0] == 0 and " ".join(map(str, window)) in text for window in epoch)
        assert {int(window[1]) // 100 for window in epoch} == set(range(n))
    assert [int(w[1]) for w in windows[:n]] != [int(w[1]) for w in windows[n:]]
    with pytest.raises(ValueError, match="no document begins 4 tokens or more before the end"):
        Batches(np.arange(10), batch_size=1, seq_len=4, document_start=8)


def test_a_resumed_run_sees_the_same():
    tokens = np.arange(300)
    unbroken = Batches(tokens, batch_size=4, seq_len=8)
    expected = [unbroken.batch(step)[0] for step in range(40)]
    for step in (39, 7, 23, 0):
        np.testing.assert_array_equal(Batches(tokens, batch_size=4, seq_len=8).batch(step)[0], expected[step])
        np.testing.assert_array_equal(unbroken.batch(step)[0], expected[step])


@patient
@given(st.integers(2, 200), st.integers(1, 9), st.integers(1, 12))
def test_validation_covers_every_target_once_in_order(n_tokens, batch_size, seq_len):
    tokens = np.arange(n_tokens, dtype=np.uint16)
    seen = []
    for inputs, targets, weights in sequential_batches(tokens, batch_size=batch_size, seq_len=seq_len):
        assert inputs.shape == targets.shape == weights.shape
        assert inputs.shape[0] <= batch_size
        assert inputs.shape[1] == seq_len
        assert (inputs.dtype, targets.dtype, weights.dtype) == (np.int64, np.int64, np.float32)
        assert set(np.unique(weights)) <= {0.0, 1.0}
        assert (targets == inputs + 1)[weights == 1].all()
        seen += list(targets[weights == 1])
    assert seen == list(range(1, n_tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_len": 10}, "has 10 tokens, but 11 are needed"),
        ({"seq_len": 0}, "seq_len=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 3, "world_size": 2}, "not divisible by world_size=2; use a multiple, such as 4"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_batches_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Batches(np.arange(10), **{"batch_size": 2, "seq_len": 4, **change})
    with pytest.raises(ValueError, match="step=-1"):
        Batches(np.arange(10), batch_size=2, seq_len=4).batch(-1)
    with pytest.raises(ValueError, match="has 1 tokens, but 2 are needed"):
        sequential_batches(np.arange(1), batch_size=1, seq_len=4)
