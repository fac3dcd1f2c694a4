"""Speculative decoding: the same tokens, or the same distribution, in fewer passes of the model."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal import adaptive_computation, reference
from llama_minimal.adaptive_computation import (
    ModelDraft,
    PromptLookup,
    expected_speedup,
    expected_tokens,
    look_up,
    residual_distribution,
)
from llama_minimal.adaptive_computation.verification import Proposal, verify
from llama_minimal.checkpoint import save
from llama_minimal.cli import main
from llama_minimal.generation import generate, stream
from llama_minimal.model import build
from llama_minimal.reference.adaptive_computation import speculative_distribution, speculative_outcomes
from llama_minimal.sampling import Choice
from llama_minimal.settings import GREEDY, Sampling
from llama_minimal.tokenizer import Tokenizer

PROMPTS = [[5, 6, 7, 8, 9, 5, 6], [3], [60, 1, 2, 60], [17, 4, 4, 4, 21, 30, 2]]
PENALIZED = Sampling(temperature=0, repetition_penalty=1.3)
SAMPLED = Sampling(temperature=0.9, top_k=20, top_p=0.95, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def drafts(make_model):
    """A draft of each kind for a model: good, poor, and none at all."""

    def make(model, **changes):
        near = make_model(**changes).to(next(model.parameters()).dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in near.parameters():
                parameter += 0.1 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
        other = make_model(seed=1, n_layers=1).to(next(model.parameters()).dtype)
        return {"same": model, "near": ModelDraft(model=near, n=3), "other": other, "look-up": PromptLookup(n=4)}

    return make


@pytest.mark.parametrize("sampling", [GREEDY, PENALIZED], ids=["greedy", "penalized"])
def test_greedy_it_writes_the_same_tokens(make_model, drafts, switches, sampling):
    model = make_model(**switches).double()
    options = {"max_new_tokens": 28, "sampling": sampling}
    plain = generate(model, None, PROMPTS, **options)
    assert {completion.finish_reason for completion in plain} == {"length", "context"}
    for name, draft in drafts(model, **switches).items():
        assert generate(model, None, PROMPTS, **options, draft=draft) == plain, name


@pytest.mark.parametrize("name", ["same", "near", "other", "look-up"])
def test_greedy_in_float32_too(make_model, drafts, name):
    model = make_model(n_kv_heads=2)
    plain = generate(model, None, PROMPTS, max_new_tokens=28)
    assert generate(model, None, PROMPTS, max_new_tokens=28, draft=drafts(model, n_kv_heads=2)[name]) == plain


def test_every_pass_of_the_model_is_counted_and_a_perfect_draft_needs_few(make_model, drafts):
    model, passes = make_model(), []
    model.layers["0"].register_forward_hook(lambda module, inputs, output: passes.append(inputs[0].size(1)))
    draft = ModelDraft(model=make_model(), n=4)
    (completion,) = generate(model, None, [[1, 2]], max_new_tokens=21, draft=draft)
    assert completion.proposed == completion.accepted == [4, 4, 4, 4]
    assert passes == [2, 5, 5, 5, 5]
    (completion,) = generate(model, None, [[1, 2]], max_new_tokens=21)
    assert completion.proposed == completion.accepted == [0] * 20
    for draft in drafts(model).values():
        for completion in generate(model, None, PROMPTS, max_new_tokens=20, draft=draft):
            assert len(completion.tokens) == 1 + sum(n + 1 for n in completion.accepted)
            assert all(n <= most for n, most in zip(completion.accepted, completion.proposed, strict=True))


@pytest.mark.parametrize("name", ["near", "other", "look-up"])
def test_each_row_writes_what_its_prompt_alone_would_write(make_model, drafts, name):
    """Row i with seed + i, though rows keep different numbers of candidates and end at different steps."""
    model = make_model().double()
    options = {"max_new_tokens": 28, "sampling": SAMPLED, "draft": drafts(model)[name]}
    together = generate(model, None, PROMPTS, seed=7, **options)
    alone = [generate(model, None, [prompt], seed=7 + row, **options)[0] for row, prompt in enumerate(PROMPTS)]
    assert together == alone
    assert [row.accepted for row in together] == [row.accepted for row in alone]
    assert {tuple(row.accepted) for row in together} != {(0,) * 27}
    assert generate(model, None, PROMPTS, seed=8, **options) != together


def test_looked_up_candidates_do_not_even_change_a_sampled_text(make_model):
    model, sampling = make_model().double(), Sampling(temperature=0.4, top_p=0.9)
    prompts = [row * 3 for row in PROMPTS]
    options = {"max_new_tokens": 10, "sampling": sampling, "seed": 3}
    found = generate(model, None, prompts, **options, draft=PromptLookup(n=3, ngram=1))
    assert found == generate(model, None, prompts, **options)
    assert sum(sum(row.accepted) for row in found) > 0


V = 5  # words of a language in which all texts of three tokens can be listed
N_TEXTS = 5000
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=2.0, top_k=3),
    Sampling(temperature=2.5, top_p=0.9),
    Sampling(temperature=3.0, min_p=0.1, repetition_penalty=1.4),
]


def distribution_of(model, prompt, sampling):
    """Return the probabilities of the next token, after all filters, from the logits of one plain pass."""

    def after(text):
        seen = torch.zeros(1, V, dtype=torch.bool)
        seen[0, [*prompt, *text]] = True
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *text]]))[:, -1]
        choice = Choice([[*prompt, *text]], sampling, n_places=1, seed=0, vocab_size=V)
        return choice.filter(logits[:, None])[0, 0].double().softmax(-1).numpy()

    known = {}
    return lambda text: known[text] if text in known else known.setdefault(text, after(text))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("n", [1, 3])
def test_sampled_texts_have_the_models_distribution(make_model, sampling, n):
    """All texts of three tokens: by enumeration in NumPy to twelve digits, and by drawing many."""
    small = {"vocab_size": V, "dim": 16, "n_layers": 1, "hidden_dim": 16}
    model, draft, prompt = make_model(**small), make_model(seed=2, **small), [1, 3]
    p, q = distribution_of(model, prompt, sampling), distribution_of(draft, prompt, sampling)
    exact = {
        (a, b, c): p(())[a] * p((a,))[b] * p((a, b))[c]
        for a, b, c in itertools.product(range(V), repeat=3)
        if p(())[a] and p((a,))[b]
    }
    by_rule = speculative_outcomes(p, q, n_candidates=n, length=3)
    assert sum(by_rule.values()) == pytest.approx(1, abs=1e-12)
    assert all(by_rule.get(text, 0) == pytest.approx(chance, abs=1e-12) for text, chance in exact.items())

    rows = generate(
        model, None, [prompt] * N_TEXTS, max_new_tokens=3, sampling=sampling, draft=ModelDraft(model=draft, n=n)
    )
    drawn = [tuple(row.tokens) for row in rows]
    expected = {text: N_TEXTS * chance for text, chance in exact.items()}
    assert all(expected[text] > 0 for text in drawn)
    assert 0 < sum(sum(row.accepted) for row in rows) < sum(sum(row.proposed) for row in rows)
    common = [text for text in expected if expected[text] > 5]
    statistic = sum((drawn.count(text) - expected[text]) ** 2 / expected[text] for text in common)
    freedom = len(common) - 1
    assert freedom >= 5
    assert statistic < freedom + 3.5 * math.sqrt(2 * freedom)


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_the_rule_gives_p_whatever_q_is(seed, size):
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.full(size, 0.3)) * (rng.random(size) < 0.8) + 1e-300 for _ in range(2))
    p, q = p / p.sum(), q / q.sum()
    np.testing.assert_allclose(speculative_distribution(p, q), p, rtol=0, atol=1e-12)
    for name in ("acceptance_probability", "residual_distribution"):
        ours = getattr(adaptive_computation, name)(torch.from_numpy(p), torch.from_numpy(q))
        np.testing.assert_allclose(ours, getattr(reference, name)(p, q), rtol=1e-12)


def test_where_nothing_is_left_the_residual_is_p_itself():
    p = np.array([0.25, 0.75])
    assert reference.residual_distribution(p, p).tolist() == [0.25, 0.75]
    assert residual_distribution(torch.from_numpy(p), torch.from_numpy(p)).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_expected_number_of_tokens_is_the_measured_one(n):
    """Where model and draft give the same p and q everywhere, α = Σ min(p, q)."""
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.2, 0.2, 0.2, 0.4])
    rows = 20_000
    choice = Choice([[0]] * rows, Sampling(), n_places=n + 1, seed=0, vocab_size=4)
    places = torch.zeros(rows, dtype=torch.long)
    candidates = choice.choose(q.log().expand(rows, n, 4), places, purpose=Choice.CANDIDATE)
    proposal = Proposal(candidates, [n] * rows, q.double().expand(rows, n, 4))
    tokens, kept = verify(p.log().expand(rows, n + 1, 4), proposal, choice, places)
    written = torch.tensor(kept, dtype=torch.float64) + 1
    alpha = float(torch.minimum(p, q).sum())
    assert abs(written.mean() - expected_tokens(alpha, n)) < 4 * written.std() / rows**0.5
    assert expected_tokens(alpha, n) == pytest.approx((1 - alpha ** (n + 1)) / (1 - alpha))
    assert expected_speedup(alpha, n, cost=0.1) == pytest.approx(expected_tokens(alpha, n) / (0.1 * n + 1))
    first = tokens[:, 0].bincount(minlength=4) / rows
    torch.testing.assert_close(first, p, rtol=0, atol=0.015)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_tokens(-0.1, 4), r"acceptance=-0\.1 is a probability; give one from 0 to 1"),
        (lambda: expected_tokens(1.1, 4), r"acceptance=1\.1 is a probability"),
        (lambda: expected_tokens(math.nan, 4), "acceptance=nan is a probability"),
        (lambda: expected_tokens(0.5, -1), "n=-1 must be a whole number of at least 0"),
        (lambda: expected_speedup(1.1, 2, cost=0.1), r"acceptance=1\.1 is a probability"),
        (lambda: expected_speedup(0.5, 2, cost=-1), "cost=-1 must be a finite number of at least 0"),
        (lambda: expected_speedup(0.5, 2, cost=0.1, pass_cost=0), "pass_cost=0 must be a finite number of more than 0"),
    ],
)
def test_expectations_of_what_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


TOKENIZER = Tokenizer.train(["a b ab aab stop stopping é è 漢字 \n" * 9], vocab_size=280)


@settings(max_examples=20)
@given(st.integers(0, 30), st.sampled_from(["ab", "a", "s", " ", "é", "\n", "b a"]), st.integers(1, 40))
def test_stops_inside_a_kept_run_end_the_text_where_they_would_without_a_draft(make_model, seed, stop, n):
    model = make_model(seed=seed % 3, vocab_size=TOKENIZER.vocab_size, max_seq_len=64).double()
    free = generate(model, TOKENIZER, ["a stop"], max_new_tokens=30, stop_ids=[])[0].tokens
    for options in ({"stop": [stop], "stop_ids": []}, {"stop_ids": [free[seed % len(free)]]}):
        options |= {"max_new_tokens": n}
        plain = generate(model, TOKENIZER, ["a stop", "b"], **options)
        for draft in (model, PromptLookup(n=3)):
            assert generate(model, TOKENIZER, ["a stop", "b"], **options, draft=draft) == plain
            assert "".join(stream(model, TOKENIZER, "a stop", **options, draft=draft)) == plain[0].text


@pytest.mark.parametrize("length", [25, 29, 30, 31])
def test_a_full_context_ends_a_row_at_exactly_max_seq_len(make_model, length):
    model = make_model()
    prompts = [[i % 61 for i in range(length)], [4, 5]]
    plain = generate(model, None, prompts, max_new_tokens=40)
    assert [row.finish_reason for row in plain] == ["context", "context"]
    for draft in (model, PromptLookup()):
        assert generate(model, None, prompts, max_new_tokens=40, draft=draft) == plain


def test_ids_that_the_tokenizer_does_not_have_are_neither_proposed_nor_written(make_model):
    sizes = {"vocab_size": TOKENIZER.vocab_size + 60, "max_seq_len": 64}
    model, draft = make_model(**sizes), make_model(seed=1, **sizes)
    for how in (draft, PromptLookup()):
        sampling = Sampling(temperature=3.0, repetition_penalty=1.3)
        prompt = [TOKENIZER.vocab_size + 5, 3, TOKENIZER.vocab_size + 5, 3]
        (row,) = generate(model, TOKENIZER, [prompt], max_new_tokens=40, sampling=sampling, stop_ids=[], draft=how)
        assert max(row.tokens) < TOKENIZER.vocab_size


@pytest.mark.parametrize(
    ("text", "n", "ngram", "expected"),
    [
        ([1, 2, 3, 1, 2], 5, 2, [3, 1, 2]),
        ([1, 2, 9, 1, 2, 8, 7, 1, 2], 2, 2, [8, 7]),  # the latest
        ([1, 2, 9, 9, 9, 1, 2, 8, 1, 2], 4, 2, [9, 9, 9, 1]),  # that so many follow
        ([4, 1, 5, 2, 1], 2, 3, [5, 2]),  # one token, where three and two never came before
        ([7, 7, 7, 7, 7], 2, 2, [7, 7]),
        ([1, 2, 3], 2, 3, []),
        ([1], 2, 3, []),
        ([1, 1], 0, 1, []),
    ],
)
def test_look_up(text, n, ngram, expected):
    assert look_up(text, n=n, ngram=ngram) == expected


def test_drafts_that_do_not_suit_the_model_are_refused_in_words(make_model):
    model = make_model(vocab_size=TOKENIZER.vocab_size)
    prompt, other = [[1, 2]], Tokenizer.train(["x y xy xxy other words" * 9], vocab_size=TOKENIZER.vocab_size)
    cases = [
        ("vocabulary of 61 tokens", {"draft": make_model()}),
        ("tokenizer is not the model's", {"draft": ModelDraft(model=model, tokenizer=other)}),
        ("context of 16 tokens", {"draft": make_model(vocab_size=TOKENIZER.vocab_size, max_seq_len=16)}),
        ("must be a Llama, a ModelDraft", {"draft": "small"}),
        ("draft is on meta and the model on cpu", {"draft": build(model.config, device="meta")}),
        ("compile=True", {"draft": PromptLookup(), "compile": True}),
    ]
    for says, options in cases:
        with pytest.raises(ValueError, match=says):
            generate(model, TOKENIZER, prompt, max_new_tokens=30, **options)
    for bad in ({"n": 0}, {"ngram": 0}, {"n": 2.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PromptLookup(**bad)
    same = ModelDraft(model=model, tokenizer=TOKENIZER)
    assert generate(model, TOKENIZER, prompt, draft=same, max_new_tokens=5)


def test_the_command_line_writes_the_same_with_a_draft_and_says_why_one_does_not_suit(make_model, tmp_path, capsys):
    sizes = {"vocab_size": TOKENIZER.vocab_size, "max_seq_len": 64}
    other = Tokenizer.train(["x y xy xxy other words" * 9], vocab_size=TOKENIZER.vocab_size)
    for name, seed, tokenizer in (("large", 0, TOKENIZER), ("small", 1, TOKENIZER), ("other", 1, other)):
        save(make_model(seed=seed, **sizes), tmp_path / name, tokenizer=tokenizer)
    command = ["generate", str(tmp_path / "large"), "-p", "a stop", "--max-new-tokens", "20", "--temperature", "0"]
    command += ["--device", "cpu"]
    printed = []
    for flags in ([], ["--draft", "prompt-lookup"], ["--draft", str(tmp_path / "small"), "--draft-tokens", "2"]):
        main([*command, *flags])
        printed.append(capsys.readouterr().out)
    assert printed[0].startswith("a stop")
    assert printed[1:] == printed[:1] * 2
    for flags, says in (
        (["--draft", str(tmp_path / "other")], "tokenizer"),
        (["--draft-tokens", "2"], "--draft-tokens"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *flags])
        assert says in capsys.readouterr().err
