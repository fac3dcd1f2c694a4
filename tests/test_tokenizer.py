"""The tokenizers: ours against brute force and against the Rust library, the others against their own libraries."""

import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llama_minimal.data import documents
from llama_minimal.tokenizer import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    bpe,
    byte_level,
    load_tokenizer,
    piece_cache,
)
from llama_minimal.tokenizer import codec as codec_module
from llama_minimal.tokenizer.bpe import learn_merges, merge_pair
from llama_minimal.tokenizer.json_format import BYTE_ALPHABET
from llama_minimal.tokenizer.patterns import GPT2, LLAMA, LLAMA3, LONGEST_PIECE, splitter
from llama_minimal.tokenizer.pieces import (
    count_pieces,
    last_llama_piece_end,
    last_piece_end,
    split_blocks,
    to_text,
)

DOCS = "\n".join(document.text for document in documents("python-docs"))
CHINESE = "山谷里的小屋,住着一只红帽子的猫。它每天早上去河边钓鱼,晚上回家讲故事。" * 40
OURS = Tokenizer.train([DOCS[:60_000], CHINESE], vocab_size=700)
LIBRARY = tokenizers.Tokenizer.from_str(OURS.to_json())
PLAIN_LIBRARY = tokenizers.Tokenizer.from_str(OURS.to_json())
PLAIN_LIBRARY.encode_special_tokens = True

split_llama = splitter("llama")

FRAGMENTS = [
    "def f(x):\n    return x",
    "  ",
    "\t",
    "\r\n",
    "\n\n\n",
    " the",
    "2023",
    "红帽子",
    "。",
    "…",
    "é",
    "e\u0301",
]
FRAGMENTS += [
    "🦙",
    "👩\u200d🚀",
    "\u00a0",
    "\u3000",
    "\x00",
    "\x85",
    "<|bos|>",
    "<|eos|",
    "a" * 200,
    " " * 130,
    "字" * 70,
]
mixed = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=12).map("".join)
texts = st.text() | mixed


def is_storable(text):
    return not any("\ud800" <= character <= "\udc7f" or "\udd00" <= character <= "\udfff" for character in text)


any_code_point = st.text(st.characters())  # with lone surrogates
# A shared machine may be slow for a moment; that is no failure.
patient = settings(deadline=None)


# --- pieces and the algorithm ---


@patient
@given(any_code_point | mixed)
def test_every_character_of_any_string_is_in_one_piece(text):
    assert "".join(split_llama(text)) == text
    assert max(map(len, split_llama(text)), default=0) <= 65


PATTERNS = {"llama": LLAMA, "gpt2": GPT2, "llama3": LLAMA3}


@pytest.mark.parametrize("name", PATTERNS)
def test_every_code_point_is_cut_alike_by_the_rust_library(name):
    regex = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[name]), "isolated")
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    # Also each character by itself between a space, a letter and a digit: a run tells little of its middle.
    for sample in (text, "".join(f" {character}a1" for character in text[:0x3400])):
        assert [piece for piece, _ in regex.pre_tokenize_str(sample)] == splitter(name)(sample)


@patient
@given(st.sampled_from(list(PATTERNS)), texts)
def test_the_patterns_cut_as_the_rust_library_does(name, text):
    regex = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[name]), "isolated")
    pieces = splitter(name)(text)
    assert [piece for piece, _ in regex.pre_tokenize_str(text)] == pieces
    if name == "gpt2":
        whole = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
        assert ["".join(BYTE_ALPHABET[byte] for byte in piece.encode()) for piece in pieces] == [p for p, _ in whole]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello, world", ["Hello", ",", " world"]),
        ("in 1984", ["in", " ", "1", "9", "8", "4"]),
        ("if x:\n    return", ["if", " x", ":", "\n   ", " return"]),
        ("你好,世界。 山", ["你好", ",", "世界", "。", " 山"]),
        ("a  -> b", ["a", " ", " ->", " b"]),
    ],
)
def test_pieces_of_known_texts(text, pieces):
    assert split_llama(text) == pieces


@patient
@given(st.sampled_from(list(PATTERNS)), mixed, st.integers(1, 20))
def test_blocks_have_the_pieces_of_the_whole(name, text, size):
    split, blocks = splitter(name), split_blocks(text, size=size)
    assert "".join(blocks) == text
    assert [piece for block in blocks for piece in split(block)] == split(text)


@patient
@given(st.sampled_from(list(PATTERNS)), any_code_point | mixed, any_code_point | mixed)
@example("llama", "\r\r" + "0" * 80, "")
@example("llama", "a" + "\r" * 150, "b")
@example("gpt2", "a\n\n\n", "b")
@example("gpt2", "a\nb\n\n\nc", "")
@example("gpt2", "a\n\n\nb", "")
@example("llama3", "a.\n\n\nb", "")
@example("llama3", "a.\nb", "c")
def test_pieces_before_a_cut_are_final(name, text, more):
    split, last = splitter(name), last_llama_piece_end if name == "llama" else last_piece_end
    end = last(text)
    assert split(text[:end]) + split(text[end:] + more) == split(text + more)
    assert name != "llama" or end > len(text) // 2 or end >= len(text) - 4 * LONGEST_PIECE


@pytest.mark.parametrize("text", ["字" * 4000, "ACGT" * 1000, "。\r\n山" * 900, " " * 4000, "\U0001f999" * 4000])
def test_texts_without_spaces_are_cut_too(text):
    assert len(text) - last_llama_piece_end(text) < 4 * LONGEST_PIECE


def brute_force_merges(counts, n_merges):
    pieces, merges = [(list(piece), count) for piece, count in counts.items()], []
    while len(merges) < n_merges:
        pairs = Counter()
        for piece, count in pieces:
            for pair in pairwise(piece):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        pieces = [(merge_pair(piece, best, 256 + len(merges)), count) for piece, count in pieces]
        merges.append(best)
    return merges


@settings(max_examples=60, deadline=None)
@given(st.text("ab c", max_size=80) | mixed)
def test_training_equals_recounting_every_pair_at_each_step(text):
    counts = count_pieces([text])
    assert learn_merges(counts, 40) == brute_force_merges(counts, 40)


def test_training_equals_recounting_on_english():
    counts = count_pieces([DOCS[:20_000]])
    assert learn_merges(counts, 100) == brute_force_merges(counts, 100)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.lists(st.sampled_from([0, 1, 0xFF]), max_size=30).map(bytes), st.integers(1, 3)))
def test_training_equals_recounting_on_runs_of_the_same_token(counts):
    assert learn_merges(counts, 40) == brute_force_merges(counts, 40)


def test_the_rust_library_learns_the_same_merges():
    """Of equally frequent pairs it takes the smallest, too, but numbers the bytes by its own alphabet."""
    texts = [DOCS[:200_000], CHINESE, "".join(FRAGMENTS)]
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = PLAIN_LIBRARY.pre_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500, min_frequency=2, initial_alphabet=BYTE_ALPHABET, show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    theirs = [tuple(merge) for merge in json.loads(library.to_str())["model"]["merges"]]
    alphabet = sorted(BYTE_ALPHABET)
    renumbered = bytes(map(alphabet.index, BYTE_ALPHABET))
    counts = {piece.translate(renumbered): count for piece, count in count_pieces(texts).items()}
    names, ours = list(alphabet), []
    for left, right in learn_merges(counts, 1500 - 256):
        ours.append((names[left], names[right]))
        names.append(names[left] + names[right])
    assert len(ours) == 1244
    assert ours == theirs


def test_merges_do_not_depend_on_the_hash_seed():
    code = (
        "from llama_minimal.tokenizer import Tokenizer; from llama_minimal.data import documents;"
        "print(Tokenizer.train((d.text for d in documents('python-docs')), vocab_size=400).fingerprint)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_training_touches_few_pieces_stops_early_and_reports_progress(monkeypatch):
    """A merge visits the pieces that hold its pair, not all of them: that is what makes it fast."""
    calls, visits = [], []
    changed_pairs = bpe._changed_pairs
    monkeypatch.setattr(bpe, "_changed_pairs", lambda *args: visits.append(args) or changed_pairs(*args))
    trained = Tokenizer.train([DOCS[:130_000]], vocab_size=500, progress=lambda *call: calls.append(call))
    assert len(visits) < 0.05 * 241 * len(count_pieces([DOCS[:130_000]]))
    assert trained.vocab_size == 500
    assert calls == [(n, 241) for n in range(1, 242)]
    assert Tokenizer.train(["abab"], vocab_size=500).merges == [(97, 98)]
    assert Tokenizer.train([], vocab_size=500).vocab_size == 259


def test_compression_of_the_python_docs():
    trained = Tokenizer.train([DOCS], vocab_size=512)
    assert len(DOCS) / len(trained.encode(DOCS)) > 2.1
    assert len(set(map(trained.token_bytes, range(512)))) == 512


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"vocab_size": 258}, "vocab_size=258 cannot hold"),
        ({"vocab_size": -1}, "use at least 259"),
        ({"vocab_size": 2_000_000}, "vocab_size=2000000 is more than 1114112"),
        ({"vocab_size": 300.0}, "must be a whole number"),
        ({"vocab_size": "300"}, "must be a whole number"),
        ({"vocab_size": 300, "special_tokens": ["<s>"] * 2}, "occurs twice"),
        ({"vocab_size": 300, "pattern": "gpt4"}, "pattern='gpt4' is not one of llama, gpt2, llama3"),
    ],
)
def test_training_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.train(iter(["text"]), **call)
    with pytest.raises(ValueError, match="pass a list"):
        Tokenizer.train("text", vocab_size=300)


# --- our tokenizer ---


@patient
@given(texts)
def test_any_text_comes_back(text):
    ids = OURS.encode(text)
    assert OURS.decode(ids) == text
    assert OURS.decode_bytes(ids) == text.encode("utf-8")


@patient
@given(st.binary() | mixed.map(lambda text: text.encode("utf-8")[1:]))
def test_any_bytes_come_back(data):
    ids = OURS.encode(data)
    assert OURS.decode_bytes(ids) == data
    assert OURS.encode(data.decode("utf-8", "surrogateescape")) == ids
    assert OURS.decode(ids) == data.decode("utf-8", "replace") == LIBRARY.decode(ids)


@patient
@given(texts)
def test_the_rust_library_gives_the_same_ids(text):
    ids = OURS.encode(text)
    assert PLAIN_LIBRARY.encode(text, add_special_tokens=False).ids == ids
    assert PLAIN_LIBRARY.encode(text).ids == OURS.encode_prompt(text) == [OURS.bos_id, *ids]
    assert LIBRARY.encode(text, add_special_tokens=False).ids == OURS.encode(text, allow_special=True)


@patient
@given(st.lists(st.integers(0, OURS.vocab_size - 1)))
def test_the_rust_library_decodes_the_same(ids):
    for skip in (True, False):
        assert LIBRARY.decode(ids, skip_special_tokens=skip) == OURS.decode(ids, skip_special=skip)


def test_the_docs_have_the_same_ids_everywhere(tmp_path):
    text = DOCS[:150_000]
    OURS.save(tmp_path)
    ids = OURS.encode(text)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode(text, add_special_tokens=False).ids == ids
    assert HuggingFaceTokenizer(tmp_path).encode(text) == ids
    assert load_tokenizer(tmp_path).encode(text) == ids


@pytest.mark.parametrize("n_cores", [2, 64])
def test_batches_have_the_ids_of_single_texts(monkeypatch, n_cores):
    monkeypatch.setattr(byte_level.os, "cpu_count", lambda: n_cores)
    batch = [DOCS[:100_000], "", "<|eos|>", "a\udcffb", "红帽子", "\udcc3\udca9"]
    assert OURS.encode_batch(batch, bos=True, eos=True) == [OURS.encode(text, bos=True, eos=True) for text in batch]
    assert pickle.loads(pickle.dumps(OURS)).encode_batch(batch) == [OURS.encode(text) for text in batch]


def test_special_tokens_in_text_are_text_unless_allowed():
    attack = "<|eos|>hi<|bos|>"
    assert not set(OURS.encode(attack)) & set(OURS.special_tokens.values())
    assert OURS.decode(OURS.encode(attack)) == attack
    allowed = OURS.encode(attack, allow_special=True)
    assert allowed == [OURS.eos_id, *OURS.encode("hi"), OURS.bos_id]
    assert OURS.decode(allowed) == "hi"
    assert OURS.decode(allowed, skip_special=False) == attack
    nested = Tokenizer(special_tokens=["<|a|>", "<|a|><|b|>"])
    assert nested.encode("<|a|><|b|>", allow_special=True) == [257]


def test_ids_and_their_order():
    assert OURS.encode("x", bos=True, eos=True) == [OURS.bos_id, ord("x"), OURS.eos_id]
    assert (OURS.bos_id, OURS.eos_id, OURS.pad_id, OURS.vocab_size) == (697, 698, 699, 700)
    assert OURS.token_bytes(65) == b"A"
    assert OURS.token_bytes(698) == b"<|eos|>"
    plain = Tokenizer(special_tokens=[])
    assert (plain.bos_id, plain.pad_id, plain.vocab_size) == (None, None, 256)
    with pytest.raises(ValueError, match="has no bos token"):
        plain.encode("x", bos=True)


def test_a_full_cache_changes_nothing(monkeypatch):
    monkeypatch.setattr(piece_cache, "_SIZE", 10)
    small = Tokenizer(OURS.merges)
    assert small.encode(DOCS[:5000]) == small.encode_batch([DOCS[:5000]])[0] == OURS.encode(DOCS[:5000])
    assert len(small._by_hand) <= 10


@pytest.mark.parametrize("token_id", [-1, 700])
def test_ids_outside_the_vocabulary_are_refused(token_id):
    for call in (OURS.decode, OURS.decode_bytes, lambda ids: OURS.token_bytes(ids[0])):
        with pytest.raises(ValueError, match=f"{token_id} is outside the vocabulary, 0 to 699"):
            call([token_id])


def test_escaped_bytes_that_spell_a_character_are_that_character():
    assert to_text("\udcc3\udca9") == to_text("é") == "é"


def test_a_surrogate_that_stands_for_no_byte_is_refused():
    with pytest.raises(ValueError, match=r"U\+D800 at character 2"):
        OURS.encode("ab\ud800")


@pytest.mark.parametrize("names", [["a"], [""], ["<é>"], ["two words"], ["<s>", "<s>"]])
def test_bad_special_tokens_are_refused(names):
    with pytest.raises(ValueError, match="special token"):
        Tokenizer(special_tokens=names)


# --- patterns of others ---


def varied_lines(n=3000):
    """Lines of every script, with spaces, numbers, contractions and line breaks of every kind between."""
    random = np.random.default_rng(0)
    scripts = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x600, 0x700), (0x900, 0xE00), (0x1E00, 0x2100),
               (0x3040, 0x3100), (0x4E00, 0x9FA0), (0xAC00, 0xD7A4), (0x1F300, 0x1F700)]  # fmt: skip
    between = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u3000",
        "\x1c",
        "'s",
        "'LL ",
        "'\u017f",
        "1",
        " 12345",
        "-",
        "..",
        "",
    ]
    for _ in range(n):
        low, high = scripts[random.integers(len(scripts))]
        words = [random.integers(low, high, random.integers(1, 7)) for _ in range(random.integers(1, 9))]
        joints = random.choice(between, len(words))
        yield "".join("".join(map(chr, word)) + joint for word, joint in zip(words, joints, strict=True))


def is_known_everywhere(text):
    # Each library has the Unicode tables of its day. Python 3.11 knows version 14, the others here know that too.
    return all(unicodedata.category(character) != "Cn" for character in text)


@pytest.mark.parametrize("name", ["gpt2", "llama3"])
def test_the_ids_are_those_of_tiktoken(name):
    import tiktoken

    ours = Tokenizer.train([DOCS[:100_000], CHINESE], vocab_size=900, pattern=name)
    ranks = {ours.token_bytes(token_id): token_id for token_id in range(256 + len(ours.merges))}
    theirs = tiktoken.Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens={})
    lines = [line for line in varied_lines() if is_known_everywhere(line)]
    assert len(lines) > 2000
    for line in [*lines, *FRAGMENTS, "".join(FRAGMENTS), DOCS[100_000:150_000]]:
        assert ours.encode(line) == theirs.encode(line) == ours.encode_batch([line])[0]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_kept_in_the_file(tmp_path, name):
    ours = BY_PATTERN[name]
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, Tokenizer)
    assert (again.pattern, again.fingerprint, again.merges) == (name, ours.fingerprint, ours.merges)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.encode_special_tokens = True
    for line in [*varied_lines(1000), DOCS[:20_000], "".join(FRAGMENTS)]:
        assert again.encode(line) == library.encode(line, add_special_tokens=False).ids
    assert pickle.loads(pickle.dumps(again)).encode_batch([DOCS[:2000]]) == [ours.encode(DOCS[:2000])]


def test_patterns_differ_where_they_should():
    text = "don't stop in 1984, DON'T\n\n  now"
    assert splitter("gpt2")(text) == ["don", "'t", " stop", " in", " 1984", ",", " DON", "'", "T", "\n\n ", " now"]
    assert splitter("llama3")(text) == [
        "don", "'t", " stop", " in", " ", "198", "4", ",", " DON", "'T", "\n\n", " ", " now"
    ]  # fmt: skip


def test_a_published_tokenizer_with_our_pattern_is_opened_by_its_library(tmp_path):
    # GPT-2 numbers the bytes in another order than we do.
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([DOCS[:5000]], trainer)
    library.save(str(tmp_path / "tokenizer.json"))
    codec = load_tokenizer(tmp_path)
    assert isinstance(codec, HuggingFaceTokenizer)
    assert codec.encode(DOCS[:500]) == library.encode(DOCS[:500]).ids


# --- texts in chunks ---


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(codec_module, "_BLOCK_CHARACTERS", 5)


BY_PATTERN = {name: Tokenizer.train([DOCS[:20_000], CHINESE], vocab_size=400, pattern=name) for name in PATTERNS}
chunks = st.lists(st.sampled_from(FRAGMENTS) | st.text(st.characters(), max_size=3).filter(is_storable), max_size=40)
in_one_test = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_test
@given(st.sampled_from(list(PATTERNS)), chunks)
def test_chunks_have_the_ids_of_the_whole_text(small_blocks, name, parts):
    ours = BY_PATTERN[name]
    ids = ours.encode("".join(parts), bos=True, eos=True)
    assert list(ours.encode_iterable(iter(parts), bos=True, eos=True)) == ids
    assert list(ours.encode_iterable([part.encode("utf-8", "surrogateescape") for part in parts])) == ids[1:-1]


@in_one_test
@given(st.binary(max_size=60), st.integers(1, 4))
def test_chunks_of_bytes_may_end_within_a_character(small_blocks, data, size):
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    assert list(OURS.encode_iterable(parts)) == OURS.encode(data)
    assert list(OURS.encode_iterable(list(data.decode("utf-8", "surrogateescape")))) == OURS.encode(data)


def test_ids_come_before_the_text_has_ended():
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield f"the ferry left at {number} o'clock.\n" * 100

    for ours in BY_PATTERN.values():
        read.clear()
        assert len(list(itertools.islice(ours.encode_iterable(endless()), 1000))) == 1000
        assert len(read) < 200
    with pytest.raises(ValueError, match="pass a list"):
        OURS.encode_iterable("one text")
    with pytest.raises(ValueError, match="has no bos token"):
        Tokenizer(special_tokens=[]).encode_iterable(["x"], bos=True)
    with pytest.raises(ValueError, match=r"U\+D800"):
        list(OURS.encode_iterable(["a", "b\ud800"]))


@pytest.mark.parametrize("name", PATTERNS)
def test_long_pieces_take_no_quadratic_time(name):
    long = "ab" * 100_000
    ids = BY_PATTERN[name].encode(long)
    assert ids == list(BY_PATTERN[name].encode_iterable([long])) == BY_PATTERN[name].encode_batch([long])[0]
    assert BY_PATTERN[name].decode(ids) == long


# --- our file ---


def test_a_saved_tokenizer_is_the_same(tmp_path):
    OURS.save(tmp_path / "new" / "folder")
    OURS.save(tmp_path / "named.json")
    for path in (tmp_path / "new" / "folder", tmp_path / "named.json"):
        again = load_tokenizer(path)
        assert isinstance(again, Tokenizer)
        assert (again.merges, again.special_tokens) == (OURS.merges, OURS.special_tokens)
        assert again.fingerprint == OURS.fingerprint
    # The library writes merges in another form.
    LIBRARY.save(str(tmp_path / "theirs.json"))
    assert Tokenizer.load(tmp_path / "theirs.json").fingerprint == OURS.fingerprint


def damaged(change):
    content = json.loads(OURS.to_json())
    change(content)
    return json.dumps(content)


DAMAGES = {
    "cut": (OURS.to_json()[:-20], "not valid JSON"),
    "list": ("[]", "should hold a JSON object"),
    "no model": (damaged(lambda c: c.pop("model")), "missing"),
    "no merges": (damaged(lambda c: c["model"].pop("merges")), "missing"),
    "wrong type": (damaged(lambda c: c["model"].update(vocab=[1])), "wrong type"),
    "unknown token": (damaged(lambda c: c["model"]["merges"].__setitem__(3, "Ġt xyz")), "two known tokens"),
    "other merge": (damaged(lambda c: c["model"]["merges"].__setitem__(3, "a b")), "should have the id 259"),
    "merge missing": (damaged(lambda c: c["model"]["merges"].pop()), "440 merges for 441 tokens"),
    "gap": (damaged(lambda c: c["model"]["vocab"].update(a=9999)), "gaps"),
    "swapped": (damaged(lambda c: c["model"]["vocab"].update(a=98, b=97)), "bytes in order"),
    "special gap": (damaged(lambda c: c["added_tokens"][0].update(id=5000)), "gaps"),
    "special twice": (damaged(lambda c: c["added_tokens"][0].update(content="<|eos|>")), "occurs twice"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_refused(tmp_path, name):
    content, message = DAMAGES[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    for load in (load_tokenizer, Tokenizer.load):
        with pytest.raises(ValueError, match=message) as error:
            load(path)
        assert str(path) in str(error.value)


def test_a_failed_save_keeps_the_former_file(tmp_path, monkeypatch):
    OURS.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        Tokenizer().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert (tmp_path / "tokenizer.json").read_bytes() == before


# --- others' files ---


@pytest.fixture
def llama3(tmp_path):
    """A small tokenizer.json built as Llama 3's: its own pattern, byte level, names of its special tokens."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=True))
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    byte_pieces = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_pieces])
    library.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([DOCS[:20_000]], trainer)
    library.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 400)]
    )
    library.enable_truncation(4)
    library.save(str(tmp_path / "tokenizer.json"))
    library.no_truncation()
    return tmp_path, library


def test_a_llama3_tokenizer(llama3, tmp_path):
    folder, library = llama3
    codec = load_tokenizer(folder)
    assert isinstance(codec, HuggingFaceTokenizer)
    ids = library.encode("def f(x): return x + 12345", add_special_tokens=False).ids
    assert codec.encode("def f(x): return x + 12345", bos=True) == [codec.bos_id, *ids]
    assert codec.encode_batch(["def f(x): return x + 12345", ""], eos=True) == [[*ids, codec.eos_id], [codec.eos_id]]
    assert codec.decode([codec.bos_id, *ids]) == "def f(x): return x + 12345"
    assert (codec.bos_id, codec.eos_id, codec.pad_id) == (400, 401, None)
    assert codec.encode("<|eot_id|>", allow_special=True) == [402] == [codec.vocab_size - 1]
    assert 402 not in codec.encode("<|eot_id|>")
    for bad, message in (([403], "0 to 402"), ("\udcff", "not valid UTF-8")):
        with pytest.raises(ValueError, match=message):
            codec.decode(bad) if isinstance(bad, list) else codec.encode(bad)


@pytest.mark.parametrize(
    ("file_name", "content"),
    [
        ("tokenizer_config.json", {"bos_token": None, "eos_token": {"content": "<|eot_id|>"}}),
        ("special_tokens_map.json", {"bos_token": None, "eos_token": "<|eot_id|>"}),
        ("generation_config.json", {"bos_token_id": None, "eos_token_id": [402, 401]}),
    ],
)
def test_the_files_beside_say_which_tokens_frame_a_text(llama3, file_name, content):
    folder, _ = llama3
    (folder / file_name).write_text(json.dumps(content))
    codec = load_tokenizer(folder)
    assert (codec.bos_id, codec.eos_id) == (None, 402)
    codec.save(folder / "copy")
    assert {path.name for path in (folder / "copy").iterdir()} == {"tokenizer.json", file_name}
    assert (folder / "copy" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert load_tokenizer(folder / "copy").eos_id == 402
    assert codec.eos_ids == load_tokenizer(folder / "copy").eos_ids
    assert set(codec.eos_ids) == ({402, 401} if "generation" in file_name else {402})
    (folder / file_name).write_text(json.dumps({"eos_token": "<|nobody|>"}))
    with pytest.warns(UserWarning, match="belong together"):
        assert load_tokenizer(folder).eos_id == 401


@pytest.fixture(scope="module")
def sentencepiece_model():
    """A small BPE model with the settings of LLaMA's: digits apart, bytes for unknown characters."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(DOCS[:60_000].splitlines()),
        model_writer=model,
        vocab_size=500,
        model_type="bpe",
        split_digits=True,
        byte_fallback=True,
        minloglevel=2,
    )
    return model.getvalue()


def test_a_sentencepiece_model(tmp_path, sentencepiece_model):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model)
    codec = load_tokenizer(tmp_path)
    assert isinstance(codec, SentencePieceTokenizer)
    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    batch = ["The red hat, 42 times.", "红帽子🦙", "<s>not special</s>"]
    assert codec.encode_batch(batch, bos=True, eos=True) == [[1, *library.encode(text), 2] for text in batch]
    assert [codec.encode(text, bos=True, eos=True) for text in batch] == codec.encode_batch(batch, bos=True, eos=True)
    assert [codec.decode(codec.encode(text, bos=True)) for text in batch] == batch
    assert (codec.bos_id, codec.eos_id, codec.pad_id, codec.vocab_size) == (1, 2, None, 500)
    chat = codec.encode("<s>hi</s>", allow_special=True)
    assert chat == [1, *library.encode("hi"), 2]
    assert (codec.decode(chat), codec.decode(chat, skip_special=False), codec.decode([])) == ("hi", "<s>hi</s>", "")
    codec.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.model").read_bytes() == sentencepiece_model
    with pytest.raises(ValueError, match="0 to 499"):
        codec.decode([500])


KINDS = {
    "as LLaMA's": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True},
    "normalizing": {},
    "names": {"user_defined_symbols": ["<x y>", "<z>"]},
    "without a first space": {"add_dummy_prefix": False},
    "space at the end": {"treat_whitespace_as_suffix": True},
    "across words": {"split_by_whitespace": False, "vocab_size": 800},
    "unigram": {"model_type": "unigram"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_sentencepiece_in_chunks(tmp_path, small_blocks, kind):
    model = io.BytesIO()
    options = {"model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "minloglevel": 2, **KINDS[kind]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(DOCS[:20_000].splitlines()), model_writer=model, **options
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    codec = load_tokenizer(tmp_path)
    agrees_in_chunks(codec, is_cut=kind in ("as LLaMA's", "normalizing", "names"))


def agrees_in_chunks(codec, *, is_cut):
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.sampled_from([*FRAGMENTS, " is", " ", "<x y>", "▁", "\u200b", "\ufc5e"]) | st.text(max_size=3)))
    def agrees(parts):
        assert list(codec.encode_iterable(iter(parts))) == codec.encode("".join(parts))

    agrees()
    assert (len(list(codec._blocks(["the ferry left "] * 9))) > 3) == is_cut


LLAMA2_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def llama2_json(tmp_path, sentencepiece_model, **changes):
    """A tokenizer.json as Llama 2's: SentencePiece's merges, without a pre-tokenizer."""
    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    vocab = {library.id_to_piece(token_id): token_id for token_id in range(library.get_piece_size())}
    merges = sorted(
        (vocab[left + right], left, right)
        for token in vocab
        for left, right in ((token[:i], token[i:]) for i in range(1, len(token)))
        if left in vocab and right in vocab and not token.startswith("<")
    )
    pairs = [(left, right) for _, left, right in merges]
    model = tokenizers.models.BPE(vocab, pairs, byte_fallback=True, unk_token="<unk>")
    content = json.loads(tokenizers.Tokenizer(model).to_str()) | {"normalizer": LLAMA2_NORMALIZER} | changes
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("changes", "is_cut"),
    [
        ({}, True),
        ({"normalizer": None, "pre_tokenizer": METASPACE}, True),
        ({"normalizer": None, "pre_tokenizer": METASPACE | {"prepend_scheme": "never"}}, True),
        ({"normalizer": None, "pre_tokenizer": METASPACE | {"prepend_scheme": "always", "split": True}}, True),
        ({"normalizer": {"type": "Lowercase"}}, False),
        ({"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}, False),
        ({"pre_tokenizer": {"type": "CharDelimiterSplit", "delimiter": "e"}}, False),
    ],
)
def test_llama2_tokenizers_in_chunks(tmp_path, small_blocks, sentencepiece_model, changes, is_cut):
    agrees_in_chunks(llama2_json(tmp_path, sentencepiece_model, **changes), is_cut=is_cut)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}, {"type": "NFKC"}])
def test_byte_level_tokenizers_of_others_in_chunks(tmp_path, small_blocks, pattern, normalizer):
    content = json.loads(BY_PATTERN[pattern].to_json()) | {"normalizer": normalizer}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    codec = HuggingFaceTokenizer(tmp_path)
    agrees_in_chunks(codec, is_cut=normalizer != {"type": "NFKC"})
    for flags, is_cut in (({"rstrip": True}, False), ({"content": "the ferry"}, False), ({"lstrip": True}, True)):
        named = {**content["added_tokens"][0], "id": 400, "content": "ry", "special": False, **flags}
        changed = content | {"added_tokens": [*content["added_tokens"], named], "normalizer": None}
        (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
        agrees_in_chunks(HuggingFaceTokenizer(tmp_path), is_cut=is_cut)


@pytest.mark.parametrize(
    ("content", "message"), [(b"IQ== 0\nIg== 1\n", "lacks the byte"), (b"\x00garbage", "not a Sent"), (b"", "empty")]
)
def test_what_is_not_a_sentencepiece_model_is_refused(tmp_path, content, message):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_a_missing_library_names_the_extra(tmp_path, sentencepiece_model, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"pip install 'llama_minimal\[hub\]'"):
        load_tokenizer(tmp_path)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=r"neither a \.json nor"):
        load_tokenizer(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="tokenizers library reads"):
        load_tokenizer(tmp_path / "other.json")
    with pytest.raises(ValueError, match="open it with load_tokenizer"):
        Tokenizer.load(tmp_path / "other.json")
