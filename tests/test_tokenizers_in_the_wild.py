"""Tokenizers as others publish them: against transformers, sentencepiece and tiktoken, text in, the same ids out."""

import base64
import json
import random
import warnings

import pytest
import sentencepiece
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from wild_tokenizers import SPECIAL, byte_fallback, byte_level, docs, put, sentencepiece_model

from llama_minimal.data import Document, TokenFile, encode_corpus
from llama_minimal.tokenizer import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    load_tokenizer,
)
from llama_minimal.tokenizer.patterns import LLAMA3

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 500,
}
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
FRAGMENTS = ["  ", " the cat", " ", "▁", "<0x41>", "漢", "é", "🦙", "\n", "\t", "1", "2024", "\u3000", "\u00a0", " a"]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=12).map("".join)


# --- what stands before a text ---

FRAMES = {
    "nothing": {"start": ()},
    "one": {"start": ("<s>",)},
    "other": {"start": ("<|im_start|>",)},
    "two": {"start": ("<s>", "<|im_start|>")},
    "both ends": {"start": ("<s>",), "end": ("</s>",)},
    "end alone": {"start": (), "end": ("</s>",)},
}


@pytest.mark.parametrize("settings", [NAMES, NAMES | {"add_bos_token": True}, NAMES | {"add_bos_token": False}, {}])
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("build", [byte_level, byte_fallback])
def test_a_text_begins_as_transformers_lets_it_begin(tmp_path, build, frame, settings):
    """By the post-processor alone; what it puts behind a text is left out of a prompt, which goes on."""
    class_name = "PreTrainedTokenizerFast"  # others rebuild tokenizer.json in part
    config = settings | {"tokenizer_class": class_name}
    put(tmp_path, tokenizer_json=build(**FRAMES[frame]), tokenizer_config_json=config, config_json=LLAMA)
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    n_behind = len(FRAMES[frame].get("end", ()))
    for text in ("hello world", " the cat ", "漢字"):
        ids = theirs(text).input_ids
        assert ours.encode_prompt(text) == ids[: len(ids) - n_behind]
    assert [*ours.start_ids] == [theirs.convert_tokens_to_ids(name) for name in FRAMES[frame]["start"]]


@pytest.mark.parametrize(("value", "begins"), [(True, True), (False, False), (None, True), ("absent", True)])
def test_a_sentencepiece_model_begins_unless_its_settings_say_otherwise(tmp_path, value, begins):
    config = {} if value == "absent" else {"add_bos_token": value}
    folder = put(tmp_path, tokenizer_model=sentencepiece_model(), tokenizer_config_json=config)
    assert (load_tokenizer(folder).encode_prompt("the cat")[0] == 1) == begins
    assert load_tokenizer(folder).start_ids == ((1,) if begins else ())


def test_a_prompt_that_names_the_beginning_itself_does_not_get_it_twice(tmp_path):
    ours = load_tokenizer(put(tmp_path, tokenizer_json=byte_fallback(start=("<s>",))))
    assert ours.encode_prompt("<s>the", allow_special=True) == ours.encode("<s>the", allow_special=True)
    assert ours.encode_prompt("<s>the")[0] == 1  # a text, unless told otherwise
    assert ours.encode_prompt("<s>the").count(1) == 1


def test_training_text_begins_as_prompts_do(tmp_path):
    for name, build in {"no": byte_level(), "yes": byte_level(start=("<s>",))}.items():
        folder = put(tmp_path / name, tokenizer_json=build, tokenizer_config_json=NAMES)
        tokenizer = load_tokenizer(folder)
        assert tokenizer.bos_id == 0
        encode_corpus([Document("a", "the cat"), Document("b", "a dog")], tokenizer, folder / "data")
        for split in ("train", "validation"):
            stored = TokenFile.open(folder / "data", split).tokens.tolist()
            assert stored in ([*tokenizer.encode_prompt(t), tokenizer.eos_id] for t in ("the cat", "a dog"))


def test_our_own_tokenizer_begins_every_text_and_older_files_of_it_do_too(tmp_path):
    ours = Tokenizer.train(["the cat sat"], vocab_size=262)
    content = json.loads(ours.to_json())
    content["post_processor"] = None  # as this package wrote it once
    old = load_tokenizer(put(tmp_path, tokenizer_json=content))
    assert old.encode_prompt("the") == ours.encode_prompt("the") == ours.encode("the", bos=True)
    assert old.fingerprint == ours.fingerprint  # so that encoded text stays usable
    old.save(tmp_path)
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the").ids == ours.encode_prompt(
        "the"
    )
    assert load_tokenizer(tmp_path).fingerprint == ours.fingerprint
    without = Tokenizer(special_tokens=["<|eos|>"])
    assert without.encode_prompt("a") == [97]
    assert tokenizers.Tokenizer.from_str(without.to_json()).encode("a").ids == [97]


# --- tokens that were added to a SentencePiece model ---


@pytest.fixture(scope="module")
def with_added(tmp_path_factory):
    """As Mistral-7B-OpenOrca and many others: a chat's tokens beside the model, and one that is an ordinary word."""
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    decoder = {420 + i: {"content": name, "special": True} | flags for i, name in enumerate(SPECIAL)}
    decoder[422] = {"content": "<word>", "special": False} | flags
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    return put(
        tmp_path_factory.mktemp("added"),
        tokenizer_model=sentencepiece_model(),
        added_tokens_json=dict(zip(SPECIAL, (420, 421), strict=True)) | {"<later>": 423},
        tokenizer_config_json=config | {"added_tokens_decoder": decoder, "legacy": True, "add_bos_token": True},
        config_json=LLAMA,
    )


def test_added_tokens_are_read_and_written(with_added):
    ours, theirs = load_tokenizer(with_added), AutoTokenizer.from_pretrained(with_added)
    assert isinstance(ours, SentencePieceTokenizer)
    text = "<|im_start|>hello the<word>cat<|im_end|>"
    ids = ours.encode(text, allow_special=True)
    assert ids == theirs(text, add_special_tokens=False).input_ids
    assert (ids[0], ids[-1]) == (420, 421)
    assert ours.decode(ids, skip_special=False) == text
    assert ours.decode(ids) == "hello the<word>cat"
    assert (ours.vocab_size, ours.bos_id, ours.eos_id, ours.eos_ids) == (424, 1, theirs.eos_token_id, (421,))


def test_special_tokens_that_were_added_are_text_unless_allowed_and_other_ones_are_always_read(with_added):
    ours = load_tokenizer(with_added)
    ids = ours.encode("<|im_end|> <later> <word>")
    assert not {420, 421, 423} & set(ids)
    assert 422 in ids
    assert ours.encode_batch(["a <word>", "<|im_end|>"]) == [ours.encode("a <word>"), ours.encode("<|im_end|>")]
    assert ours.decode([423], skip_special=False) == "<later>"


def test_added_tokens_are_saved(with_added, tmp_path):
    ours = load_tokenizer(with_added)
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.special_tokens == ours.special_tokens
    assert again.fingerprint == ours.fingerprint
    assert again.decode([422, 421], skip_special=False) == "<word><|im_end|>"
    plain = load_tokenizer(put(tmp_path / "plain", tokenizer_model=sentencepiece_model()))
    assert plain.fingerprint != ours.fingerprint


def test_an_id_between_added_tokens_decodes_to_nothing(tmp_path):
    folder = put(tmp_path, tokenizer_model=sentencepiece_model(), added_tokens_json={"<far>": 430, "<bad>": "x"})
    ours = load_tokenizer(folder)
    assert ours.vocab_size == 431
    assert ours.decode([*ours.encode("the"), 425, 430], skip_special=False) == "the<far>"


@pytest.mark.parametrize("file", ["tokenizer_config_json", "special_tokens_map_json"])
@pytest.mark.parametrize("kind", ["tokenizer_model", "tokenizer_json"])
def test_a_role_of_an_unknown_token_is_left_out_with_a_warning(tmp_path, file, kind):
    content = sentencepiece_model() if kind == "tokenizer_model" else byte_fallback()
    folder = put(tmp_path, **{kind: content, file: {"pad_token": "<nobody>", "eos_token": {"content": "<s>"}}})
    with pytest.warns(UserWarning, match="pad_token.*<nobody>"):
        tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_id, tokenizer.eos_id) == (None, 1)


# --- a SentencePiece model as a tokenizer.json ---

VARIANTS = {
    "llama": {},
    "without a prefix": {"add_dummy_prefix": False},
    "without extra spaces": {"remove_extra_whitespaces": True},
    "without bytes": {"byte_fallback": False},
    "pieces across words": {"split_by_whitespace": False, "max_sentencepiece_length": 24},
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tmp_path_factory):
    content = sentencepiece_model(**VARIANTS[request.param])
    ours = load_tokenizer(put(tmp_path_factory.mktemp("variant"), tokenizer_model=content))
    theirs = tokenizers.Tokenizer.from_str(ours.as_tokenizer_json().decode())
    theirs.encode_special_tokens = True  # as in ``encode``, their names are text: the examples may hold "<s>"
    return ours, theirs


@settings(max_examples=200)
@given(TEXTS | st.text("the catodgq ▁\n", max_size=60))
def test_the_rust_library_encodes_as_sentencepiece_does(variant, text):
    ours, theirs = variant
    ids = ours.encode(text)
    assert theirs.encode(text).ids == [1, *ids]
    if 0 not in ids:  # <unk> is written otherwise
        assert theirs.decode(ids) == ours.decode(ids)


def test_the_rust_library_encodes_a_long_text_as_sentencepiece_does(variant):
    ours, theirs = variant
    for line in docs().splitlines():
        assert theirs.encode(line, add_special_tokens=False).ids == ours.encode(line)


def test_spans_of_equal_letters_are_merged_in_the_same_order(tmp_path):
    """Where a piece can be made in two ways, the order of the merges counts."""
    rng = random.Random(0)
    lines = ["".join(rng.choice("aab ") for _ in range(60)) for _ in range(2000)]
    out = put(tmp_path, tokenizer_model=_train(lines, vocab_size=330))
    ours = load_tokenizer(out)
    theirs = tokenizers.Tokenizer.from_str(ours.as_tokenizer_json().decode())
    for _ in range(2000):
        text = "".join(rng.choice("aab  ") for _ in range(rng.randrange(60)))
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


def _train(lines, **changes):
    import io

    out = io.BytesIO()
    settings = {"model_type": "bpe", "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2}
    settings |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **(settings | changes))
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "unigram"}, "no byte-pair encoding"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes characters"),
        ({"treat_whitespace_as_suffix": True}, "marks spaces after words"),
        ({"user_defined_symbols": ["<sep>"]}, "user-defined"),
    ],
)
def test_what_a_tokenizer_json_cannot_say_is_said_in_words(tmp_path, changes, reason):
    ours = load_tokenizer(
        put(tmp_path, tokenizer_model=sentencepiece_model(**{k: _frozen(v) for k, v in changes.items()}))
    )
    with pytest.raises(ValueError, match=reason):
        ours.as_tokenizer_json()


def _frozen(value):
    return ",".join(value) if isinstance(value, list) else value


def test_the_settings_are_read_as_the_library_that_wrote_them_reads_them():
    """Its own reader needs the protobuf library, which comes with the development tools alone."""
    from sentencepiece import sentencepiece_model_pb2 as reader

    from llama_minimal.tokenizer.sentencepiece_json import _parse

    for changes in VARIANTS.values():
        content = sentencepiece_model(**changes)
        expected, ours = reader.ModelProto.FromString(content), _parse(content)
        assert [(p.piece, p.score, p.type) for p in expected.pieces] == [(p.name, p.score, p.kind) for p in ours.pieces]
        assert ours.algorithm == expected.trainer_spec.model_type
        assert ours.byte_fallback == expected.trainer_spec.byte_fallback
        assert ours.adds_prefix == expected.normalizer_spec.add_dummy_prefix
        assert ours.removes_spaces == expected.normalizer_spec.remove_extra_whitespaces


# --- Llama 3 as Meta ships it ---


def made_ranks(seed):
    """Return ranks that are not merges in order: shuffled, with whole words, and some parts of others left out."""
    rng = random.Random(seed)
    trained = Tokenizer.train(
        [docs(), "漢字かな交じり文 aaaa aaaaaaa   bbbb " * 50], vocab_size=1000, special_tokens=[]
    )
    longer = [trained.token_bytes(i) for i in range(256, 1000)] + [b" dictionary", b"aaa", b"aaaaa", "漢字か".encode()]
    longer = [token for token in dict.fromkeys(longer) if rng.random() < 0.85]
    rng.shuffle(longer)
    return {token: i for i, token in enumerate([bytes([byte]) for byte in rng.sample(range(256), 256)] + longer)}


def write_ranks(folder, ranks):
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    return put(folder, tokenizer_model=b"".join(lines))


def lowest_rank_first(piece, ranks):
    """Encode one piece by the definition: whole if it is a token, else the pair of lowest rank first."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in zip(parts, parts[1:], strict=False)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] == len(ranks):
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [ranks[part] for part in parts]


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    ranks = made_ranks(1)
    return load_tokenizer(write_ranks(tmp_path_factory.mktemp("llama3"), ranks)), ranks


@settings(max_examples=200)
@given(TEXTS | st.text("aab dictionary", max_size=60) | st.integers(0, 50_000).map(lambda i: docs()[i : i + 80]))
def test_ids_are_those_of_the_definition(llama3, text):
    ours, ranks = llama3
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated").pre_tokenize_str(text)
    assert ours.encode(text) == [i for piece, _ in cut for i in lowest_rank_first(piece.encode(), ranks)]
    assert ours.decode(ours.encode_prompt(text)) == text


@settings(max_examples=300)
@given(TEXTS | st.text(max_size=40) | st.integers(0, 50_000).map(lambda i: docs()[i : i + 80]))
def test_ids_are_those_of_tiktoken(llama3, text):
    ours, ranks = llama3
    theirs = tiktoken.Encoding("llama3", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=ours.special_tokens)
    assert ours.encode(text) == theirs.encode(text, disallowed_special=())
    marked = text + "<|eot_id|>" + text
    assert ours.encode(marked, allow_special=True) == theirs.encode(marked, allowed_special="all")


def test_the_special_tokens_are_llama_3s(llama3):
    ours, ranks = llama3
    assert isinstance(ours, TiktokenTokenizer)
    n = len(ranks)
    assert ours.vocab_size == n + 256
    assert (ours.start_ids, ours.bos_id, ours.eos_id, ours.pad_id) == ((n,), n, n + 1, n + 4)
    assert ours.eos_ids == (n + 1, n + 8, n + 9)
    # Of the published tokenizer, with 128,000 ranks: 128006 and 128007 around a role, 128009 after a turn.
    names = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")
    assert [ours.special_tokens[name] - n for name in names] == [0, 6, 7, 9, 10]
    assert ours.special_tokens["<|reserved_special_token_245|>"] == n + 255
    assert len(set(ours.special_tokens.values())) == 256


def test_transformers_reads_the_tokenizer_json_that_is_made_of_the_ranks(llama3, tmp_path):
    ours, _ = llama3
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    put(tmp_path, tokenizer_json=ours.as_tokenizer_json(), tokenizer_config_json=config, config_json=LLAMA)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the cat's 12345 legs", " 漢字か\n\n  aaaaaaa", ""):
        assert theirs(text).input_ids == ours.encode_prompt(text)
        assert theirs.decode(ours.encode(text)) == text


def test_line_ends_of_windows_and_empty_lines_change_no_rank(tmp_path):
    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
    contents = [b"\n".join(lines), b"\r\n".join(lines), b"\n" + b"\n".join(lines) + b"\n\n"]
    plain, *others = (load_tokenizer(put(tmp_path / str(i), tokenizer_model=c)) for i, c in enumerate(contents))
    assert [other.special_tokens for other in others] == [plain.special_tokens] * 2
    assert [other.encode("the cat") for other in others] == [plain.encode("the cat")] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:100] + lines[101:], "gaps"),
        (lambda lines: [*lines, b"not base64! 256"], "line 257"),
        (lambda lines: [*lines, b"YWI="], "line 257"),
        (lambda lines: lines[:255], "lacks the byte"),
        (lambda lines: [*lines, b"YWI= 255"], "occur twice"),
    ],
)
def test_damaged_ranks_are_refused(tmp_path, change, message):
    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
    put(tmp_path, tokenizer_model=b"\n".join(change(lines)))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


# --- decoding of broken characters ---


@pytest.fixture(scope="module")
def both_formats(tmp_path_factory):
    kinds = {"tokenizer_model": sentencepiece_model(), "tokenizer_json": byte_fallback()}
    return [load_tokenizer(put(tmp_path_factory.mktemp("formats"), **{kind: kinds[kind]})) for kind in kinds]


@given(st.lists(st.integers(0, 255), max_size=12), st.lists(st.integers(0, 255), max_size=6))
def test_bytes_that_are_no_character_become_one_mark_each_in_both_formats(both_formats, first, second):
    """The Rust library alone would give up the characters beside them too."""
    texts = [bytes(values).decode("utf-8", "surrogateescape") for values in (first, second)]
    marked = ["".join("\ufffd" if 0xDC80 <= ord(c) < 0xDD00 else c for c in text) for text in texts]
    for tokenizer in both_formats:
        word = tokenizer.encode("the")
        byte = tokenizer.encode("\x00")[-1]  # the first of 256 in a row
        ids = [*word, *(byte + value for value in first), *word, *(byte + value for value in second)]
        assert tokenizer.decode(ids) == f"the{marked[0]} the{marked[1]}"


def test_valid_text_is_decoded_as_the_library_decodes_it(tmp_path):
    ours = load_tokenizer(put(tmp_path, tokenizer_json=byte_fallback()))
    assert isinstance(ours, HuggingFaceTokenizer)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("거북이 the 漢字", "🦙🦙", "é\n"):
        ids = ours.encode_prompt(text)
        assert ours.decode(ids) == theirs.decode(ids) == text
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids, skip_special_tokens=False)


def test_nothing_is_warned_of_where_nothing_is_wrong(with_added, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(with_added)
        load_tokenizer(put(tmp_path, tokenizer_json=byte_level(), tokenizer_config_json=NAMES))
