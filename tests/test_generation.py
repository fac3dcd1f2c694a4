"""Generation: against a loop without a cache, against transformers, row by row, and the text as it streams."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llama_minimal import generation
from llama_minimal.config import LlamaConfig
from llama_minimal.generation import decode, generate, stream
from llama_minimal.model import Llama, build
from llama_minimal.prompts import check_prompts
from llama_minimal.settings import Sampling
from llama_minimal.tokenizer import Tokenizer

PROMPTS = [[5, 6, 7, 8, 9], [3], [60, 1, 2], [17, 4, 4, 4, 21, 30, 2]]
SAMPLED = Sampling(temperature=1.2, top_p=0.95)


@torch.no_grad()
def greedy_without_a_cache(model, prompt, n):
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def tokens(model, prompts=PROMPTS, **options):
    return [completion.tokens for completion in generate(model, None, prompts, **options)]


def test_greedy_is_the_loop_without_a_cache_token_for_token(make_model, switches):
    model = make_model(**switches)
    assert tokens(model, max_new_tokens=20) == [greedy_without_a_cache(model, prompt, 20) for prompt in PROMPTS]


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_greedy_is_what_transformers_generates(make_model, as_transformers, n_kv_heads, repetition_penalty):
    model = make_model(n_kv_heads=n_kv_heads)
    twin = as_transformers(model)
    twin.generation_config.eos_token_id = None
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "repetition_penalty": repetition_penalty}
    expected = [twin.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist() for prompt in PROMPTS]
    sampling = Sampling(temperature=0, repetition_penalty=repetition_penalty)
    assert tokens(model, max_new_tokens=20, sampling=sampling) == expected


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0), SAMPLED, Sampling(temperature=0.9, top_k=20, repetition_penalty=1.2)], ids=str
)
def test_every_row_writes_what_its_prompt_alone_would_write(make_model, sampling):
    """Row i with seed + i, whatever the lengths beside it and even when the context of some is full."""
    model = make_model(n_kv_heads=2)
    together = generate(model, None, PROMPTS, max_new_tokens=28, sampling=sampling, seed=7)
    for row, prompt in enumerate(PROMPTS):
        assert generate(model, None, [prompt], max_new_tokens=28, sampling=sampling, seed=7 + row) == [together[row]]
    assert {completion.finish_reason for completion in together} == {"length", "context"}


def test_a_seed_gives_the_same_tokens_and_another_seed_others(make_model):
    model = make_model()
    torch.manual_seed(0)
    first, state = tokens(model, sampling=SAMPLED, seed=1), torch.get_rng_state()
    torch.manual_seed(1)
    assert tokens(model, sampling=SAMPLED, seed=1) == first
    assert tokens(model, sampling=SAMPLED, seed=2) != first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was not touched


def chi_square_is_plausible(drawn, probabilities):
    """Tell whether the counts could come from these probabilities; by chance it says no once in a thousand times."""
    counts, expected = torch.tensor(drawn).bincount(minlength=len(probabilities)), len(drawn) * probabilities
    common = expected > 5
    statistic = float(((counts - expected)[common] ** 2 / expected[common]).sum())
    freedom = int(common.sum()) - 1
    assert freedom >= 5
    return statistic < freedom + 3.5 * math.sqrt(2 * freedom)


def test_the_same_prompt_in_many_rows_samples_from_the_models_distribution(make_model):
    """Seeds that follow each other give independent numbers, and so do the steps of one row."""
    model = make_model()
    drawn = tokens(model, [[5, 6]] * 4000, max_new_tokens=2, sampling=Sampling())
    first = max(range(61), key=[row[0] for row in drawn].count)
    for prompt, new in (([5, 6], [row[0] for row in drawn]), ([5, 6, first], [b for a, b in drawn if a == first])):
        with torch.no_grad():
            assert chi_square_is_plausible(new, model(torch.tensor([prompt]))[0, -1].double().softmax(-1))


def test_the_compiled_step_writes_the_same_tokens(make_model):
    """With the real code generator; slow on its first run on a machine, so one layer and one shape."""
    model = make_model(n_layers=1, n_kv_heads=2)
    assert tokens(model, max_new_tokens=12, compile=True) == tokens(model, max_new_tokens=12)


def test_compilation_serves_any_number_of_batch_sizes(make_model, monkeypatch):
    """PyTorch compiles a function for eight shapes, and then gives up unless told otherwise."""
    compile = torch.compile
    plainly = {"backend": "eager", "mode": None, "options": None}
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile(f, **(how | plainly)))
    torch._dynamo.reset()
    generation._compiled_step.cache_clear()
    model = make_model(n_layers=1)
    for n in range(1, 11):
        assert tokens(model, [[1, 2, 3]] * n, max_new_tokens=2, compile=True) == tokens(
            model, [[1, 2, 3]] * n, max_new_tokens=2
        )
    generation._compiled_step.cache_clear()


@pytest.mark.parametrize("length", [26, 31])
def test_a_full_context_ends_a_row_at_exactly_max_seq_len(make_model, length):
    model = make_model()
    prompt = [i % 61 for i in range(length)]
    (completion,) = generate(model, None, [prompt], max_new_tokens=20)
    assert completion.finish_reason == "context"
    assert completion.tokens == greedy_without_a_cache(model, prompt, 32 - length)
    (completion,) = generate(model, None, [prompt], max_new_tokens=32 - length)
    assert (len(completion.tokens), completion.finish_reason) == (32 - length, "length")


def test_a_stop_id_ends_its_row_alone_and_is_not_among_the_tokens(make_model):
    model = make_model()
    free = tokens(model, max_new_tokens=20)
    stop_id = free[0][6]
    stopped = generate(model, None, PROMPTS, max_new_tokens=20, stop_ids=[stop_id])
    for row, completion in zip(free, stopped, strict=True):
        end = row.index(stop_id) if stop_id in row else len(row)
        assert completion.tokens == row[:end]
        assert completion.finish_reason == ("stop" if stop_id in row else "length")
    assert {completion.finish_reason for completion in stopped} == {"stop", "length"}


def test_decode_yields_as_often_as_asked_and_leaves_the_callers_autograd_on(make_model):
    steps = 0
    for _ in decode(make_model(), PROMPTS, max_new_tokens=9):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        steps += 1
    assert steps == 9


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([], "no prompt"),
        ([[1], []], "empty"),
        ([[1, 61]], r"61.*0 to 60"),
        ([[-1, 3]], r"-1.*0 to 60"),
        ([list(range(32))], r"32 tokens.*31"),
        (["text"], "tokenizer"),
    ],
    ids=["none", "empty", "too large", "negative", "no room", "text"],
)
def test_prompts_that_cannot_be_continued_are_refused(make_model, prompts, says):
    with pytest.raises(ValueError, match=says):
        generate(make_model(), None, prompts)


def test_other_bad_arguments_are_refused(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="stop strings need a tokenizer"):
        generate(model, None, [[1]], stop=["x"])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        generate(model, None, [[1]], max_new_tokens=0)
    with pytest.raises(ValueError, match="stop string is empty"):
        generate(model, TOKENIZER, [[1]], stop=["a", ""])
    check_prompts(model.config, [list(range(31))], 1)  # exactly room for one more


# Merges across the words below, and " é" begins like " è": so a space may come with half a character.
TOKENIZER = Tokenizer.train(
    ["stop stopping a b ab aab é è ê 😀 漢字 \n\n" * 9, "aab bba " * 5, " é è ê ë" * 9], vocab_size=290
)


class Script(nn.Module):
    """Stand in for a model: continue a prompt of one token by the given ids, whatever they are."""

    def __init__(self, ids):
        super().__init__()
        self.config = LlamaConfig(
            dim=2, n_layers=1, n_heads=1, vocab_size=TOKENIZER.vocab_size, max_seq_len=len(ids) + 9
        )
        self.anything = nn.Parameter(torch.zeros(1))
        self.ids = torch.tensor([*ids, 0])

    def last_states(self, tokens, last=None, *, positions=None, cache=None):
        return last[:, None] if positions is None else positions

    def output(self, positions):
        return nn.functional.one_hot(self.ids[positions[..., 0]], self.config.vocab_size).float()

    next_logits, device = Llama.next_logits, Llama.device

    def make_cache(self, **sizes):
        return None


def write(ids, *, n=None, stop=(), stop_ids=(), prompt=(32,)):
    """Return the completion that follows the script, and the pieces that it was streamed in."""
    n = len(ids) if n is None else n
    options = {"max_new_tokens": n, "stop": stop, "stop_ids": stop_ids}
    (completion,) = generate(Script(ids), TOKENIZER, [list(prompt)], **options)
    pieces = list(stream(Script(ids), TOKENIZER, list(prompt), **options))
    assert "".join(pieces) == completion.text
    return completion, pieces


def ids_of(text):
    return TOKENIZER.encode(text)


TEXTS = st.text("aab stopé漢😀\n", min_size=1, max_size=40)


@given(TEXTS, st.booleans(), st.sampled_from(["ab", "aab", "a a", "stop", "\n\n", "é", "😀😀", "bé", "b "]))
def test_a_stop_string_ends_the_text_before_it_and_is_never_shown(text, as_bytes, stop):
    ids = list(text.encode()) if as_bytes else ids_of(text)
    completion, pieces = write(ids, stop=[stop])
    assert completion.text == text.partition(stop)[0]
    assert completion.finish_reason == ("stop" if stop in text else "length")
    assert not any("\ufffd" in piece for piece in pieces)


@given(TEXTS, st.integers(1, 60), st.lists(st.text("abst \n", min_size=1, max_size=4), max_size=3))
def test_with_any_stop_strings_the_text_is_a_beginning_that_holds_none(text, n, stop):
    ids = ids_of(text)
    n = min(n, len(ids))
    completion, _ = write(ids, n=n, stop=stop)
    whole = TOKENIZER.decode(ids[:n])
    assert whole.startswith(completion.text)
    assert not any(one in completion.text for one in stop)
    assert (completion.finish_reason == "stop") == any(one in whole for one in stop)
    if completion.finish_reason == "length":
        assert completion.text == whole


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), min_size=1, max_size=20), st.text("a é漢😀", max_size=12))
def test_any_tokens_even_no_valid_text_become_what_the_tokenizer_makes_of_them(ids, before):
    completion, _ = write(ids, prompt=[32, *ids_of(before)][-1:])
    assert completion.text == TOKENIZER.decode(ids)


@given(TEXTS, TEXTS)
def test_the_text_does_not_depend_on_the_prompt(before, text):
    """The tokenizer sees the last few tokens of the prompt beside the first new ones."""
    streamed = generation.TextStream(TOKENIZER, ids_of(before))
    pieces = [streamed.push(token) for token in text.encode()]
    assert "".join(pieces) + streamed.finish() == text


def test_a_character_comes_whole_though_its_bytes_are_four_tokens():
    _, pieces = write(list("x😀é漢".encode()))
    assert pieces == ["x", "😀", "é", "漢"]


def test_half_a_character_at_the_end_is_shown_as_the_tokenizer_shows_it():
    completion, pieces = write(list("x😀".encode()), n=3)
    assert completion.text == "x\ufffd"
    assert pieces == ["x", "\ufffd"]


def test_what_was_held_back_for_a_stop_string_comes_at_the_end():
    completion, pieces = write(list(b"a\n\nUse"), stop=["\n\nUser:"])
    assert pieces == ["a", "\n\nUse"]
    assert completion.finish_reason == "length"
    _, pieces = write(list(b"a\n\nUsing"), stop=["\n\nUser:"])
    assert pieces == ["a", "\n\nUsi", "n", "g"]


def test_of_two_stop_strings_in_one_token_the_first_counts():
    (token,) = ids_of("stop")
    for stop in (["o", "t"], ["t", "o"]):
        assert write([token], stop=stop)[0].text == "s"


def test_the_end_of_a_character_that_the_prompt_began_is_not_taken_for_broken_text():
    begun, rest = list("😀".encode()[:2]), list("😀".encode()[2:])
    streamed = generation.TextStream(TOKENIZER, [*b"abc", *begun])
    text = "".join(streamed.push(token) for token in [*rest, *b"d"]) + streamed.finish()
    assert text in ("d", "😀d")


def test_a_stop_string_before_half_a_character_at_the_end_counts_as_one():
    space_and_half = next(i for i in range(TOKENIZER.vocab_size - 3) if TOKENIZER.token_bytes(i) == b" \xc3")
    completion, _ = write([ord("."), space_and_half], stop=[". "])
    assert completion.text == ""
    assert completion.finish_reason == "stop"


def test_the_tokenizers_end_of_text_stops_unless_told_otherwise():
    ids = [*ids_of("ab"), TOKENIZER.eos_id, *ids_of("stop")]
    completion, _ = write(ids, stop_ids=None)
    assert (completion.text, completion.tokens, completion.finish_reason) == ("ab", ids_of("ab"), "stop")
    completion, _ = write(ids, stop_ids=[])
    assert (completion.text, completion.tokens, completion.finish_reason) == ("abstop", ids, "length")


def test_a_stop_id_releases_the_text_that_was_held_back():
    completion, pieces = write([*b"ab", 0], stop=["abc"], stop_ids=[0])
    assert pieces == ["ab"]
    assert completion.finish_reason == "stop"


def test_text_prompts_are_encoded_after_the_beginning_of_text(make_model):
    model = make_model(vocab_size=TOKENIZER.vocab_size)
    ids = [TOKENIZER.bos_id, *ids_of("a stop")]
    options = {"max_new_tokens": 10, "sampling": SAMPLED, "stop_ids": []}
    from_text = generate(model, TOKENIZER, ["a stop", ""], **options)
    assert from_text == generate(model, TOKENIZER, [ids, [TOKENIZER.bos_id]], **options)
    assert from_text[0].text == TOKENIZER.decode(from_text[0].tokens)
    assert "".join(stream(model, TOKENIZER, "a stop", **options)) == from_text[0].text


@pytest.mark.parametrize("arguments", [{"prompts": "one text"}, {"prompts": ["a"], "stop": "END"}], ids=str)
def test_one_text_in_the_place_of_a_list_is_refused_rather_than_read_letter_by_letter(make_model, arguments):
    with pytest.raises(ValueError, match="list"):
        generate(make_model(vocab_size=TOKENIZER.vocab_size), TOKENIZER, **arguments)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_ids_that_the_tokenizer_does_not_have_are_never_written(make_model, penalty):
    """Published models often have more embeddings than tokens."""
    model = make_model(vocab_size=TOKENIZER.vocab_size + 400)
    sampling = Sampling(temperature=5.0, repetition_penalty=penalty)
    (completion,) = generate(model, TOKENIZER, ["a"], max_new_tokens=25, sampling=sampling, stop_ids=[])
    assert max(completion.tokens) < TOKENIZER.vocab_size
    assert completion.text == TOKENIZER.decode(completion.tokens)


@pytest.mark.parametrize("count", [0, -3, 2.5, float("nan")])
def test_the_number_of_new_tokens_is_a_positive_whole_number(make_model, count):
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(make_model(), None, [[1]], max_new_tokens=count)
    assert len(generate(make_model(), None, [[1]], max_new_tokens=np.int64(2))[0].tokens) == 2


def test_room_is_made_for_what_fits_the_context_and_not_for_more():
    model = build(LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=61, max_seq_len=16))
    sampled = Sampling(temperature=0.8)
    [most] = generate(model, None, [[1, 2]], max_new_tokens=10**12, sampling=sampled)
    [enough] = generate(model, None, [[1, 2]], max_new_tokens=14, sampling=sampled)
    assert most.tokens == enough.tokens
    assert most.finish_reason == "context"
