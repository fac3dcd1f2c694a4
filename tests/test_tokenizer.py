"""The tokenizers: ours against brute force and against the Rust library, the others against their own libraries."""

import io
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.data import documents
from llama_minimal.tokenizer import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    bpe,
    byte_level,
    load_tokenizer,
)
from llama_minimal.tokenizer.bpe import learn_merges, merge_pair
from llama_minimal.tokenizer.pieces import PIECE_PATTERN, count_pieces, split_blocks, split_pieces, to_text

DOCS = "\n".join(document.text for document in documents("python-docs"))
CHINESE = "山谷里的小屋,住着一只红帽子的猫。它每天早上去河边钓鱼,晚上回家讲故事。" * 40
OURS = Tokenizer.train([DOCS[:60_000], CHINESE], vocab_size=700)
LIBRARY = tokenizers.Tokenizer.from_str(OURS.to_json())
PLAIN_LIBRARY = tokenizers.Tokenizer.from_str(OURS.to_json())
PLAIN_LIBRARY.encode_special_tokens = True

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
any_code_point = st.text(st.characters())  # with lone surrogates
# A shared machine may be slow for a moment; that is no failure.
patient = settings(deadline=None)


# --- pieces and the algorithm ---


@patient
@given(any_code_point | mixed)
def test_every_character_of_any_string_is_in_one_piece(text):
    assert "".join(split_pieces(text)) == text
    assert max(map(len, split_pieces(text)), default=0) <= 65


def test_every_code_point_is_cut_alike_by_the_rust_library():
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    regex = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECE_PATTERN), "isolated")
    assert [piece for piece, _ in regex.pre_tokenize_str(text)] == split_pieces(text)


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
    assert split_pieces(text) == pieces


@patient
@given(mixed, st.integers(1, 20))
def test_blocks_have_the_pieces_of_the_whole(text, size):
    blocks = split_blocks(text, size=size)
    assert "".join(blocks) == text
    assert [piece for block in blocks for piece in split_pieces(block)] == split_pieces(text)


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
    monkeypatch.setattr(bpe, "merge_pair", lambda *pair: visits.append(pair) or merge_pair(*pair))
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


@pytest.mark.parametrize("call", [{"vocab_size": 258}, {"vocab_size": 300, "special_tokens": ["<s>"] * 2}])
def test_training_refuses(call):
    with pytest.raises(ValueError, match=r"vocab_size=258 cannot hold|occurs twice"):
        Tokenizer.train(["text"], **call)
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
    monkeypatch.setattr(byte_level, "_CACHE_SIZE", 10)
    small = Tokenizer(OURS.merges)
    assert small.encode(DOCS[:5000]) == OURS.encode(DOCS[:5000])
    assert len(small._cache) <= 10


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
