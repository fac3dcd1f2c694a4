"""Beam search: against every possible sequence, a search without shortcuts, and transformers."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_minimal.beams import beam_search
from llama_minimal.generation import generate

PROMPT = [1, 4, 2]
PENALTIES = [0.0, 0.6, 1.0, 2.0, -1.0]


@torch.no_grad()
def log_probability(model, tokens, prompt=PROMPT):
    """Return log p(tokens | prompt) of one full forward pass."""
    logits = model(torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1]
    return float(logits.double().log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None]).sum())


@torch.no_grad()
def every_sequence(model, n_steps, stop_ids, vocab_size):
    """Return every sequence that ends with a stop id or is n_steps long, with its log-probability."""
    endings = []
    for n in range(1, n_steps + 1):
        for tokens in itertools.product(range(vocab_size), repeat=n):
            if not set(tokens[:-1]) & set(stop_ids) and (n == n_steps or tokens[-1] in stop_ids):
                endings.append(list(tokens))
    padded = [PROMPT + tokens + [0] * (n_steps - len(tokens)) for tokens in endings]
    steps = model(torch.tensor(padded)).double().log_softmax(-1)[:, len(PROMPT) - 1 :]
    return [
        (tokens, sum(float(steps[row, i, token]) for i, token in enumerate(tokens)))
        for row, tokens in enumerate(endings)
    ]


@pytest.mark.parametrize("length_penalty", PENALTIES)
@pytest.mark.parametrize("stop_ids", [[], [0], [3, 1]], ids=str)
def test_a_wide_enough_beam_finds_the_best_of_all_sequences(make_model, stop_ids, length_penalty):
    model = make_model(seed=3, vocab_size=5, n_kv_heads=2).double()
    everything = every_sequence(model, 4, stop_ids, 5)
    scored = sorted(((total / len(tokens) ** length_penalty, tokens) for tokens, total in everything), reverse=True)
    beams = beam_search(
        model, PROMPT, beam_size=700, max_new_tokens=4, length_penalty=length_penalty, stop_ids=stop_ids
    )
    assert len(beams) == len(scored)  # nothing was pruned, nothing is there twice
    for beam, (score, tokens) in zip(beams[:30], scored, strict=False):
        stopped = tokens[-1] in stop_ids
        assert beam.score == pytest.approx(score, abs=1e-5)
        assert beam.tokens == (tokens[:-1] if stopped else tokens)
        assert beam.finish_reason == ("stop" if stopped else "length")


@torch.no_grad()
def search_without_shortcuts(model, *, beam_size, n_steps, length_penalty, stop_ids):
    """Search as the docstring says, without a cache and without ending early."""
    opened, finished = [([], 0.0)], []
    for n in range(1, n_steps + 1):
        steps = model(torch.tensor([PROMPT + tokens for tokens, _ in opened]))[:, -1].double().log_softmax(-1).tolist()
        extensions = [
            ([*tokens, token], total + step)
            for (tokens, total), row in zip(opened, steps, strict=True)
            for token, step in enumerate(row)
        ]
        extensions.sort(key=lambda extension: -extension[1])
        finished += [(t[:-1], total / n**length_penalty) for t, total in extensions[:beam_size] if t[-1] in stop_ids]
        opened = [extension for extension in extensions if extension[0][-1] not in stop_ids][:beam_size]
    finished += [(tokens, total / n_steps**length_penalty) for tokens, total in opened]
    return sorted(finished, key=lambda beam: -beam[1])[:beam_size]


@pytest.mark.parametrize("length_penalty", PENALTIES)
@pytest.mark.parametrize("beam_size", [1, 2, 3])
def test_ending_early_loses_nothing(make_model, beam_size, length_penalty):
    """Beams that stop early must wait for open ones only as long as these can still overtake them."""
    for seed in range(24):
        model = make_model(seed=seed, vocab_size=5, n_layers=1).double()
        model.output.weight.data *= 2  # so sure that a beam may finish late and still be the best
        options = {"beam_size": beam_size, "length_penalty": length_penalty, "stop_ids": [0, 4]}
        expected = search_without_shortcuts(model, n_steps=7, **options)
        beams = beam_search(model, PROMPT, max_new_tokens=7, **options)
        assert [beam.tokens for beam in beams] == [tokens for tokens, _ in expected]
        assert [beam.score for beam in beams] == pytest.approx([score for _, score in expected], abs=1e-9)


def test_one_beam_is_greedy(make_model, switches):
    model = make_model(**switches)
    (beam,) = beam_search(model, PROMPT, beam_size=1, max_new_tokens=15)
    (greedy,) = generate(model, None, [PROMPT], max_new_tokens=15)
    assert beam.tokens == greedy.tokens


@given(
    seed=st.integers(0, 3),
    beam_size=st.integers(1, 6),
    n=st.integers(1, 10),
    length_penalty=st.sampled_from(PENALTIES),
    stop_ids=st.sets(st.integers(0, 9), max_size=3),
)
def test_a_score_is_the_recomputed_log_probability(make_model, seed, beam_size, n, length_penalty, stop_ids):
    """The stop id, which is not among the tokens, counts in probability and length."""
    model = make_model(seed=seed, vocab_size=10)
    beams = beam_search(
        model, PROMPT, beam_size=beam_size, max_new_tokens=n, length_penalty=length_penalty, stop_ids=list(stop_ids)
    )
    for beam in beams:
        ends = [[stop_id] for stop_id in stop_ids] if beam.finish_reason == "stop" else [[]]
        sequences = [beam.tokens + end for end in ends]
        scores = [log_probability(model, tokens) / len(tokens) ** length_penalty for tokens in sequences]
        assert min(abs(beam.score - score) for score in scores) < 1e-4
        assert not stop_ids & set(beam.tokens)
        assert len(sequences[0]) == n or beam.finish_reason == "stop"
    scores = [beam.score for beam in beams]
    assert scores == sorted(scores, reverse=True)
    assert 1 <= len(beams) <= beam_size


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("stop_id", [None, 0, 1])
def test_the_beams_are_those_of_transformers(make_model, as_transformers, stop_id, length_penalty):
    model = make_model(n_kv_heads=2, vocab_size=9)
    twin = as_transformers(model)
    twin.generation_config.eos_token_id = stop_id
    theirs = twin.generate(
        torch.tensor([PROMPT]),
        num_beams=4,
        num_return_sequences=4,
        early_stopping="never",
        length_penalty=length_penalty,
        max_new_tokens=10,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    stop_ids = [] if stop_id is None else [stop_id]
    beams = beam_search(model, PROMPT, beam_size=4, max_new_tokens=10, length_penalty=length_penalty, stop_ids=stop_ids)
    assert [beam.score for beam in beams] == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-4)
    for beam, sequence in zip(beams, theirs.sequences.tolist(), strict=True):
        ended = beam.tokens + (stop_ids if beam.finish_reason == "stop" else [])
        assert sequence[len(PROMPT) :][: len(ended)] == ended


def test_the_search_ends_when_no_open_beam_can_overtake_the_finished_ones(make_model):
    model, calls = make_model(n_kv_heads=2, vocab_size=9), []
    model.output.register_forward_hook(lambda *_: calls.append(1))
    beams = beam_search(model, PROMPT, max_new_tokens=25, length_penalty=0.0, stop_ids=[0])
    assert all(beam.finish_reason == "stop" for beam in beams)
    assert len(calls) < 10


def test_the_context_bounds_the_search(make_model):
    model = make_model()
    beams = beam_search(model, list(range(30)), beam_size=2, max_new_tokens=10)
    assert [len(beam.tokens) for beam in beams] == [2, 2]


def test_more_beams_than_sequences_give_every_sequence_once(make_model):
    model = make_model(vocab_size=5)
    beams = beam_search(model, PROMPT, beam_size=9, max_new_tokens=1)
    assert sorted(beam.tokens for beam in beams) == [[token] for token in range(5)]
    assert math.fsum(math.exp(beam.score) for beam in beams) == pytest.approx(1)


def test_bad_arguments_are_refused(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="beam_size=0"):
        beam_search(model, PROMPT, beam_size=0)
    with pytest.raises(ValueError, match="empty"):
        beam_search(model, [])
    with pytest.raises(ValueError, match=r"61.*0 to 60"):
        beam_search(model, [61])
    with pytest.raises(ValueError, match=r"32 tokens"):
        beam_search(model, list(range(32)))


@pytest.mark.parametrize("penalty", [float("nan"), float("inf")])
def test_a_length_penalty_must_be_a_number(make_model, penalty):
    with pytest.raises(ValueError, match="length_penalty"):
        beam_search(make_model(), [1], length_penalty=penalty)
