"""Early exit: the whole model bit for bit where nothing leaves; where something does, the rule by brute force."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_minimal import adaptive_computation, reference
from llama_minimal.adaptive_computation import (
    EarlyExit,
    ExitLoss,
    ExitRule,
    calibrate,
    exit_logits,
    first_layers,
    read_with_exits,
)
from llama_minimal.adaptive_computation.calibration import hoeffding_p_value
from llama_minimal.generation import generate
from llama_minimal.loss import next_token_loss
from llama_minimal.positions import apply_rope
from llama_minimal.settings import Sampling, TrainConfig
from llama_minimal.training import Trainer

TOKENS = torch.randint(61, (3, 9), generator=torch.Generator().manual_seed(0))
NEVER = ExitRule(threshold=math.inf)


@pytest.fixture(scope="module")
def deep(make_model):
    """``deep(**changes)`` is a model of four layers in float64."""
    return lambda **changes: make_model(**({"n_layers": 4} | changes)).double()


def test_if_no_token_ever_leaves_the_logits_are_the_whole_models_bit_for_bit(deep, switches):
    model = deep(**switches)
    early = EarlyExit(model, NEVER)
    cache, own = (owner.make_cache(batch_size=3, max_seq_len=9) for owner in (early, model))
    with torch.no_grad():
        assert torch.equal(early.next_logits(TOKENS[:, :4], cache=cache), model.next_logits(TOKENS[:, :4], cache=own))
        for t in range(4, 9):
            new, at = TOKENS[:, t : t + 1], torch.full((3, 1), t)
            expected = model.next_logits(new, positions=at, cache=own)
            assert torch.equal(early.next_logits(new, positions=at, cache=cache), expected)
    assert all(map(torch.equal, cache.keys, own.keys))
    assert early.depths == [[4, 4, 4]] * 5


def by_brute_force(model, tokens, rule, exits):
    """Read one text without a cache: hidden states, keys and values of every place and layer as the rule says."""
    states, depths, logits = [], [], []  # states[t][i]: what layer i reads at place t
    for t in range(len(tokens)):
        states.append([])
        x, rope, _ = model.begin(tokens[None, : t + 1], None, None)
        x, depth = x[:, -1:], None
        for i, layer in enumerate(model.layers.values()):
            states[t].append(x)
            if depth is not None:  # it has left: the layers above read its state as it is
                continue
            read = torch.cat([states[place][i] for place in range(t + 1)], dim=1)  # (1, t + 1, D)
            x = layer(read, rope)[:, -1:]  # with the keys and values of whatever each place left in this layer
            here = model.output(x if model.norm is None else model.norm(x))[0, 0]
            if t > 0 and i + 1 in exits and reference.exit_confidence(here.numpy(), rule.measure) >= rule.threshold:
                depth = i + 1
        depths.append(depth or len(model.layers))
        logits.append(here)
    return torch.stack(logits), depths, states


@torch.no_grad()
@pytest.mark.parametrize("measure", ["top", "margin", "entropy"])
def test_with_exits_each_token_and_all_keys_above_it_are_what_the_rule_says(deep, switches, measure):
    """In a batch, whose rows leave at different layers."""
    threshold = {"top": 0.2, "margin": 0.1, "entropy": 0.3}[measure]
    model, rule, exits = deep(**switches), ExitRule(measure=measure, threshold=threshold), [1, 3]
    early = EarlyExit(model, rule, exits=exits)
    logits, depths = read_with_exits(early, TOKENS)
    for row, tokens in enumerate(TOKENS):
        expected, their_depths, _ = by_brute_force(model, tokens, rule, exits)
        assert depths[row].tolist() == their_depths
        torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-9)
    used = set(depths[:, 1:].unique().tolist())
    assert used == {1, 3, 4} if not switches else used <= {1, 3, 4}


@torch.no_grad()
def test_a_skipped_layer_gets_keys_of_the_state_at_the_exit_and_computes_nothing_else(deep):
    model = deep(n_kv_heads=2)
    early = EarlyExit(model, ExitRule(threshold=0.0), exits=[2])
    ran = [[] for _ in model.layers]
    for i, layer in enumerate(model.layers.values()):
        layer.register_forward_hook(lambda module, args, out, i=i: ran[i].append(out))
    cache = early.make_cache(batch_size=3, max_seq_len=5)
    early.next_logits(TOKENS[:, :2], cache=cache)
    logits = early.next_logits(TOKENS[:, 2:3], positions=torch.full((3, 1), 2), cache=cache)
    assert [len(runs) for runs in ran] == [2, 2, 1, 1]
    assert early.depths == [[2, 2, 2]]
    x = ran[1][-1]
    torch.testing.assert_close(logits, model.output(model.norm(x))[:, 0], rtol=0, atol=0)
    cos, sin = (table[2] for table in model.positions.tables)
    for i in (2, 3):
        layer = model.layers[str(i)]
        read = layer.attention_norm(x)
        k, v = (w(read).view(3, 1, 2, 8) for w in (layer.attention.wk, layer.attention.wv))
        torch.testing.assert_close(cache.keys[i][:, :, 2], apply_rope(k, cos, sin)[:, 0], rtol=0, atol=1e-12)
        torch.testing.assert_close(cache.values[i][:, :, 2], v[:, 0], rtol=0, atol=1e-12)


def test_generation_goes_through_the_one_loop_and_depths_are_reported(deep):
    model, prompts = deep(), [[1, 2, 3], [7], [5, 6]]
    plain = generate(model, None, prompts, max_new_tokens=12)
    assert generate(EarlyExit(model, NEVER), None, prompts, max_new_tokens=12) == plain
    early = EarlyExit(model, ExitRule(measure="top", threshold=0.2), exits=[1, 2])
    rows = generate(early, None, prompts, max_new_tokens=12)
    together = early.depths
    assert len(together) == 11
    assert {depth for step in together for depth in step} == {1, 2, 4}
    for row, prompt in enumerate(prompts):
        assert generate(early, None, [prompt], max_new_tokens=12) == [rows[row]]
        assert [step[0] for step in early.depths] == [step[row] for step in together]
    checked = generate(early, None, prompts, max_new_tokens=12, draft=first_layers(model, 2))
    assert checked == plain or sum(sum(row.accepted) for row in checked) > 0


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(temperature=0.7)], ids=str)
def test_a_model_speculates_about_itself(deep, switches, sampling):
    model = deep(**switches)
    draft = first_layers(model, 3)
    with torch.no_grad():
        torch.testing.assert_close(draft(TOKENS), exit_logits(model, TOKENS, [3])[0], rtol=0, atol=0)
    assert {id(p) for p in draft.parameters()} <= {id(p) for p in model.parameters()}
    rows = generate(model, None, [[1, 2, 3], [7]], max_new_tokens=15, sampling=sampling, draft=draft)
    assert sum(sum(row.proposed) for row in rows) > 0
    if sampling.temperature == 0:
        assert rows == generate(model, None, [[1, 2, 3], [7]], max_new_tokens=15)


def test_exit_logits_are_the_models_after_so_many_layers(deep, switches):
    model = deep(**switches)
    logits = exit_logits(model, TOKENS)
    assert logits.shape == (4, 3, 9, 61)
    with torch.no_grad():
        torch.testing.assert_close(logits[-1], model(TOKENS), rtol=0, atol=0)
        for n in (1, 2, 3):
            torch.testing.assert_close(logits[n - 1], first_layers(model, n)(TOKENS), rtol=0, atol=0)


def test_the_objective_is_the_weighted_mean_of_the_losses_and_so_is_its_gradient(deep, switches):
    model = deep(**switches)
    twin, targets = copy.deepcopy(model), TOKENS.roll(-1, dims=1).clone()
    targets[0, 3:] = -100
    total, count = ExitLoss({1: 0.3, 3: 0.5})(model, (TOKENS, targets))
    total.backward()
    losses = [
        next_token_loss(part(TOKENS), targets)[0] for part in (twin, first_layers(twin, 1), first_layers(twin, 3))
    ]
    expected = (losses[0] + 0.3 * losses[1] + 0.5 * losses[2]) / 1.8
    expected.backward()
    assert count == (targets >= 0).sum()
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-9)
    assert not any(block._forward_hooks for block in model.blocks())


@pytest.fixture(scope="module")
def trained(make_model):
    """A model trained by the one loop, with exits and without, on a language that is easy but for every third token."""
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 8, 4000)
    text = np.stack((hard, hard + 8, np.roll(hard, 1) + 16), axis=1).ravel()
    models = {}
    for name, objective in (("exits", ExitLoss({1: 0.5, 2: 0.5})), ("none", None)):
        model = make_model(n_layers=3, vocab_size=24).float()
        model.init_weights(torch.Generator().manual_seed(0))
        config = TrainConfig(steps=120, batch_size=16, seq_len=30, warmup_steps=10, lr=1e-2)
        for _ in Trainer(model, text[:9000], config, objective=objective).run():
            pass
        models[name] = model.eval()
    held_out = torch.from_numpy(text[9000:11880]).view(-1, 24)
    return models, held_out


def test_trained_exits_know_more_than_untrained_ones(trained):
    models, held_out = trained
    losses = {
        name: [
            float(next_token_loss(logits[:, :-1], held_out[:, 1:])[0]) / held_out[:, 1:].numel()
            for logits in exit_logits(model, held_out)
        ]
        for name, model in models.items()
    }
    assert losses["exits"][0] < losses["none"][0] - 0.04
    assert losses["exits"][1] < losses["none"][1] - 0.01


@pytest.mark.parametrize("measure", ["top", "margin", "entropy"])
def test_calibration_keeps_the_share_and_takes_the_lowest_threshold_before_the_first_that_fails(trained, measure):
    model, held_out = trained[0]["exits"], trained[1]
    found = calibrate(model, held_out[:80], share=0.1, measure=measure, confidence=0.9)
    whole = model(held_out).argmax(-1)
    logits, depths = read_with_exits(EarlyExit(model, found.rule), held_out[80:])
    assert (logits.argmax(-1) != whole[80:]).double().mean() <= 0.1
    assert depths[:, 1:].double().mean() < 2.9
    passed = [trial for trial in found.trials if trial.p_value <= 0.1]
    assert found.rule == ExitRule(measure=measure, threshold=passed[-1].threshold)
    assert [trial.threshold for trial in found.trials] == sorted((t.threshold for t in found.trials), reverse=True)
    assert found.trials[: len(passed)] == tuple(passed)
    for trial in (found.trials[0], found.trials[-1]):
        tried = EarlyExit(model, ExitRule(measure=measure, threshold=trial.threshold))
        logits, depths = read_with_exits(tried, held_out[:80])
        assert trial.differing == pytest.approx((logits.argmax(-1) != whole[:80])[:, 1:].double().mean())
        assert trial.mean_depth == pytest.approx(depths[:, 1:].double().mean())


def test_with_too_few_texts_nothing_is_shown_and_no_token_leaves(trained):
    model, held_out = trained[0]["exits"], trained[1]
    found = calibrate(model, held_out[:5], share=0.02)
    assert found.rule.threshold == math.inf
    assert len(found.trials) == 1


def test_the_bound_is_above_the_binomial_tail():
    """Of zeros and ones, the chance of so small a mean is known exactly."""
    for n, allowed in ((20, 0.1), (60, 0.05), (200, 0.3)):
        for k in range(int(n * allowed)):
            tail = sum(math.comb(n, i) * allowed**i * (1 - allowed) ** (n - i) for i in range(k + 1))
            assert tail * (1 - 1e-12) <= hoeffding_p_value(k / n, allowed, n) <= 1
    assert hoeffding_p_value(0.0, 0.05, 60) == pytest.approx(0.95**60)
    assert hoeffding_p_value(0.05, 0.05, 60) == 1


@given(st.integers(0, 10**6), st.integers(2, 9), st.sampled_from(["top", "margin", "entropy"]))
def test_confidence_is_numpys_and_lies_between_0_and_1(seed, size, measure):
    logits = np.random.default_rng(seed).normal(size=(4, size)) * 5
    ours = adaptive_computation.exit_confidence(torch.from_numpy(logits), measure)
    np.testing.assert_allclose(ours, reference.exit_confidence(logits, measure), rtol=0, atol=1e-12)
    assert (ours > -1e-12).all()
    assert (ours < 1 + 1e-12).all()
    certain, even = torch.tensor([0.0] + [-math.inf] * (size - 1)), torch.zeros(size)
    assert adaptive_computation.exit_confidence(certain, measure) == 1
    expected = 1 / size if measure == "top" else 0
    assert float(adaptive_computation.exit_confidence(even, measure)) == pytest.approx(expected, abs=1e-6)


def test_bad_arguments_are_refused_in_words(deep, make_model):
    model = deep()
    cases = [
        ("1 to 3", lambda: EarlyExit(model, NEVER, exits=[4])),
        ("1 to 3", lambda: first_layers(model, 4)),
        ("1 to 3", lambda: ExitLoss({4: 0.1})(model, (TOKENS, TOKENS))),
        ("positive number", lambda: ExitLoss({1: 0.0})),
        ("two layers", lambda: EarlyExit(make_model(n_layers=1), NEVER)),
        ("threshold", lambda: ExitRule(threshold=-1)),
        ("threshold", lambda: ExitRule(threshold=math.nan)),
        ("measure", lambda: ExitRule(measure="guess")),
        ("share", lambda: calibrate(model, TOKENS, share=0)),
        ("two tokens", lambda: calibrate(model, TOKENS[:, :1], share=0.1)),
    ]
    for says, call in cases:
        with pytest.raises(ValueError, match=says):
            call()
