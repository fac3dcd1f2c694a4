"""The text of a stream: joined it is what the tokenizer makes of all ids, and the work grows with their number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wild_tokenizers import SPECIAL, byte_fallback, byte_level, put, sentencepiece_model

from llama_minimal.streaming import TextStream
from llama_minimal.tokenizer import Tokenizer, load_tokenizer

FILES = {
    "sentencepiece": lambda: {"tokenizer_model": sentencepiece_model()},
    "added": lambda: {
        "tokenizer_model": sentencepiece_model(),
        "added_tokens_json": dict(zip(SPECIAL, (420, 421), strict=True)),
        "tokenizer_config_json": {"added_tokens_decoder": {"422": {"content": "<word>", "special": False}}},
    },
    "strips all spaces": lambda: {"tokenizer_model": sentencepiece_model(remove_extra_whitespaces=True)},
    "prepend": lambda: {"tokenizer_json": byte_fallback()},
    "metaspace": lambda: {"tokenizer_json": byte_fallback(metaspace=True)},
    "byte level": lambda: {"tokenizer_json": byte_level()},
}


@pytest.fixture(scope="module", params=[*FILES, "ours"])
def tokenizer(request, tmp_path_factory):
    if request.param == "ours":
        return Tokenizer.train(["hello world the cat", " é è ê 漢字 漢字 😀" * 9], vocab_size=290)
    return load_tokenizer(put(tmp_path_factory.mktemp("stream"), **FILES[request.param]()))


def new_text(tokenizer, prompt, new):
    """Return decode(prompt + new) without decode(prompt), from the first character in which they differ."""
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *new])
    n = 0
    while n < min(len(before), len(whole)) and before[n] == whole[n]:
        n += 1
    return whole[n:]


def streamed(tokenizer, prompt, new):
    stream = TextStream(tokenizer, prompt)
    return [*(stream.push(token) for token in new), stream.finish()]


LETTERS = st.text("ab the 漢字거북🦙é\n<>", max_size=30)


@settings(max_examples=150)
@given(data=st.data())
def test_the_pieces_are_the_text_of_all_ids(tokenizer, data):
    """Of texts, with special tokens in between wherever they fall, cut into prompt and continuation anywhere."""
    ids = tokenizer.encode_prompt(data.draw(LETTERS)) + tokenizer.encode(data.draw(LETTERS))
    for special in data.draw(st.lists(st.sampled_from(sorted(tokenizer.special_tokens.values())), max_size=4)):
        ids.insert(data.draw(st.integers(0, len(ids))), special)
    cut = data.draw(st.integers(0, len(ids)))
    assert "".join(streamed(tokenizer, ids[:cut], ids[cut:])) == new_text(tokenizer, ids[:cut], ids[cut:])


@settings(max_examples=150)
@given(data=st.data())
def test_of_any_ids_at_all_too(tokenizer, data):
    """Broken characters, runs of bytes that are none, tokens that no text gives."""
    every = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40)
    n_bytes = min(259, tokenizer.vocab_size - 1)  # where the tokens of single bytes are, with all of these
    prompt, new = (data.draw(every | st.lists(st.integers(0, n_bytes), max_size=40)) for _ in range(2))
    assert "".join(streamed(tokenizer, prompt, new)) == new_text(tokenizer, prompt, new)


def test_characters_come_as_soon_as_they_are_whole(tokenizer):
    text = "ab漢字🦙é cat"
    prompt = tokenizer.encode_prompt("hello")
    whole = tokenizer.encode_prompt("hello" + text)
    assert whole[: len(prompt)] == prompt
    shown = ""
    stream = TextStream(tokenizer, prompt)
    for n, token in enumerate(whole[len(prompt) :], start=len(prompt) + 1):
        shown += stream.push(token)
        assert shown == tokenizer.decode(whole[:n]).rstrip("\ufffd")[len("hello") :]
    assert shown == text


@pytest.mark.parametrize("kind", ["text", "bytes", "broken", "special", "only special", "letter"])
@pytest.mark.parametrize("n_prompt", [1, 3000])
def test_the_work_grows_with_the_number_of_tokens(tokenizer, monkeypatch, kind, n_prompt):
    """Counted in decoded tokens, not in seconds."""
    n = 3000
    text = {"text": "the cat sat on 漢字 ", "bytes": "거북🦙", "special": "the", "letter": "a"}.get(kind, "")
    unit = tokenizer.encode(text) + [max(tokenizer.special_tokens.values())] * ("special" in kind)
    if kind == "broken":
        unit = tokenizer.encode("거")[-3:-2]  # the first of a character's three bytes
    new = (unit * n)[:n]
    work = 0
    decode = tokenizer.decode

    def counted(ids, **options):
        nonlocal work
        work += len(ids)
        return decode(ids, **options)

    prompt = ((tokenizer.encode("hello 漢字 ") + unit * 9) * n_prompt)[:n_prompt]
    expected = new_text(tokenizer, prompt, new)
    monkeypatch.setattr(tokenizer, "decode", counted, raising=False)
    assert "".join(streamed(tokenizer, prompt, new)) == expected
    assert work < 18 * (n + n_prompt)


@pytest.mark.parametrize("n_special", [1, 5, 30])
def test_special_tokens_at_a_prompts_end_do_not_part_a_character(tokenizer, n_special):
    special = [min(tokenizer.special_tokens.values())] * n_special
    ids = tokenizer.encode_prompt("hello the cat 🦙")
    for cut in range(1, 4):
        prompt = ids[:-cut] + special
        assert "".join(streamed(tokenizer, prompt, ids[-cut:])) == new_text(tokenizer, prompt, ids[-cut:])


def test_a_run_of_spaces_is_not_taken_for_the_start_of_a_text(tokenizer):
    letter = tokenizer.encode("the")[-1:]
    space = [i for i in range(tokenizer.vocab_size) if tokenizer.decode([*letter, i]) == tokenizer.decode(letter) + " "]
    for token in space:  # the byte, and a token of its own
        new = [token] * 30 + tokenizer.encode("a cat")
        assert "".join(streamed(tokenizer, letter, new)) == new_text(tokenizer, letter, new)
