"""Pruning: which weights go, against brute force and the NumPy twins; models with zeros, and smaller ones without."""

import itertools
import json
import math

import launching
import numpy as np
import pruning_worker
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llama_minimal import reference
from llama_minimal.checkpoint import load, save
from llama_minimal.config import LlamaConfig
from llama_minimal.generation import generate
from llama_minimal.linear import Linear
from llama_minimal.lora import LoRAConfig, add_adapter, merge, merge_and_unload, unmerge
from llama_minimal.model import build
from llama_minimal.packed_weights import PackedWeight, can_pack
from llama_minimal.pruning import (
    feature_scores,
    find_layers,
    head_scores,
    hessians,
    input_norms,
    is_n_of_m,
    keep_mask,
    keep_zeros,
    layer_scores,
    lowest,
    lowest_heads,
    magnitude_mask,
    n_of_m_mask,
    prune,
    remove_features,
    remove_heads,
    remove_layers,
    sparsegpt,
    sparsity_report,
    wanda_score,
)
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

CALIBRATION = torch.randint(0, 61, (6, 24), generator=torch.Generator().manual_seed(5))
TOKENS = CALIBRATION[:2, :9]
METHODS = ("magnitude", "global", "wanda", "sparsegpt")


def layer_and_inputs(seed, n_out=4, n_in=6, n_tokens=40):
    """A tiny layer and inputs that go together, of very different sizes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_tokens, n_in)) @ rng.normal(size=(n_in, n_in)) * np.exp(rng.normal(size=n_in))
    return rng.normal(size=(n_out, n_in)), x


def moved(x, weight, changed):
    """How far the outputs moved, counted token by token."""
    return sum(((changed - weight) @ token) @ ((changed - weight) @ token) for token in x)


def weights_of(model):
    return {name: layer.weight.detach().clone() for name, layer in find_layers(model).items()}


# Masks


@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=8, max_size=8), min_size=1, max_size=5),
    st.floats(0, 0.99),
    st.booleans(),
)
def test_masks_equal_numpy_and_count_exactly(rows, sparsity, per_row):
    score = torch.tensor(rows, dtype=torch.float64)  # with many ties
    mask = keep_mask(score, sparsity, per_row=per_row)
    np.testing.assert_array_equal(mask, reference.keep_mask(score.numpy(), sparsity, per_row=per_row))
    for part, kept in zip(score, mask, strict=True) if per_row else [(score.flatten(), mask.flatten())]:
        assert (~kept).sum() == math.floor(round(sparsity * len(kept), 6))
        if not kept.all():
            assert part[~kept].max() <= part[kept].min()
    np.testing.assert_array_equal(magnitude_mask(score, sparsity), reference.magnitude_mask(score.numpy(), sparsity))
    np.testing.assert_array_equal(n_of_m_mask(score, 2, 4), reference.n_of_m_mask(score.numpy(), 2, 4))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (1, 2), (3, 4)])
def test_every_group_keeps_the_best_choice_of_n(n, m):
    score = torch.randn(3, 16, generator=torch.Generator().manual_seed(n * m)).abs()
    mask = n_of_m_mask(score, n, m)
    assert is_n_of_m(mask, n, m)
    for group, kept in zip(score.view(-1, m), mask.view(-1, m), strict=True):
        assert kept.sum() == n
        best = max(sum(choice) for choice in itertools.combinations(group.tolist(), n))
        assert group[kept].sum().item() == pytest.approx(best)
    assert not is_n_of_m(torch.ones(2, 16), n, m)


def test_wanda_scores_what_removing_one_weight_changes():
    weight, x = layer_and_inputs(0)
    score = wanda_score(*map(torch.tensor, (weight, np.linalg.norm(x, axis=0))))
    np.testing.assert_allclose(score, reference.wanda_score(weight, np.linalg.norm(x, axis=0)))
    for i, j in np.ndindex(weight.shape):
        without = weight.copy()
        without[i, j] = 0
        assert score[i, j] ** 2 == pytest.approx(moved(x, weight, without))


def test_small_is_not_unimportant():
    """A planted counterexample: the smallest weight meets the largest input."""
    weight, x = np.array([[0.1, 1.0]]), np.array([[100.0, 1.0], [80.0, -1.0]])
    by_size = magnitude_mask(torch.tensor(weight), 0.5).numpy()
    by_change = keep_mask(wanda_score(*map(torch.tensor, (weight, np.linalg.norm(x, axis=0)))), 0.5).numpy()
    assert (by_size.tolist(), by_change.tolist()) == ([[False, True]], [[True, False]])
    assert moved(x, weight, weight * by_change) < moved(x, weight, weight * by_size) / 50


# SparseGPT


@pytest.mark.parametrize("how", [{"sparsity": 0.5}, {"sparsity": 0.3}, {"pattern": (2, 4)}, {"pattern": (4, 8)}])
@pytest.mark.parametrize("block_size", [3, 8, 128])
def test_sparsegpt_by_one_factor_equals_an_inverse_for_every_column(how, block_size):
    weight, x = layer_and_inputs(1, n_out=5, n_in=16)
    x[:, 6] = 0  # an input that never comes
    expected, mask = reference.sparsegpt(weight, x.T @ x, block_size=block_size, **how)
    out, kept = sparsegpt(torch.tensor(weight), torch.tensor(x.T @ x), block_size=block_size, **how)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(out, expected, rtol=1e-8, atol=1e-10)
    assert not out[~kept].any()
    assert not out[:, 6].any()
    if "pattern" in how:
        assert is_n_of_m(out, *how["pattern"])
    else:
        assert (~kept).sum() == sum(
            math.floor(how["sparsity"] * 5 * min(block_size, 16 - start)) for start in range(0, 16, block_size)
        )


def test_sparsegpt_is_least_squares_where_all_that_goes_stands_first():
    """Then every column that stays may still move when the last one goes."""
    weight, x = layer_and_inputs(2)
    weight[:, :3] *= 1e-3
    out, mask = sparsegpt(torch.tensor(weight), torch.tensor(x.T @ x), sparsity=0.5, damping=0.0)
    assert not mask[:, :3].any()
    solution, *_ = np.linalg.lstsq(x[:, 3:], x @ weight.T, rcond=None)
    np.testing.assert_allclose(out[:, 3:], solution.T, rtol=1e-8)


def exhaustive(x, row, n_removed):
    """The smallest movement of one output over all masks, each with its own least squares."""
    errors = []
    for gone in itertools.combinations(range(len(row)), n_removed):
        kept = [j for j in range(len(row)) if j not in gone]
        solution, *_ = np.linalg.lstsq(x[:, kept], x @ row, rcond=None)
        errors.append(((x[:, kept] @ solution - x @ row) ** 2).sum())
    return min(errors)


def test_sparsegpt_lies_between_the_best_of_all_masks_and_zeros_alone():
    """Per output, 3 of 6 go. What counts is the order of the methods, over twelve layers."""
    ratios = {"sparsegpt": [], "its mask, exactly": [], "its mask, zeros alone": [], "wanda": [], "magnitude": []}
    for seed in range(12):
        weight, x = layer_and_inputs(seed, n_out=1)
        h = x.T @ x
        best = exhaustive(x, weight[0], 3)
        out, mask = (
            tensor.numpy() for tensor in sparsegpt(torch.tensor(weight), torch.tensor(h), sparsity=0.5, damping=0.0)
        )
        exact = reference.best_for_mask(weight, h, mask)
        solution, *_ = np.linalg.lstsq(x[:, mask[0]], x @ weight[0], rcond=None)
        np.testing.assert_allclose(exact[0][mask[0]], solution, rtol=1e-7)
        wanda = reference.keep_mask(reference.wanda_score(weight, np.linalg.norm(x, axis=0)), 0.5, per_row=True)
        for name, changed in {
            "sparsegpt": out,
            "its mask, exactly": exact,
            "its mask, zeros alone": weight * mask,
            "wanda": weight * wanda,
            "magnitude": weight * reference.magnitude_mask(weight, 0.5),
        }.items():
            error = moved(x, weight, changed)
            assert error == pytest.approx(reference.output_error(weight, changed, h), rel=1e-6)
            assert error >= best * (1 - 1e-9)
            ratios[name].append(error / best)
        assert ratios["its mask, exactly"][-1] <= ratios["sparsegpt"][-1] * (1 + 1e-9)
    typical = {name: float(np.median(values)) for name, values in ratios.items()}
    assert typical["sparsegpt"] < typical["wanda"] < typical["magnitude"]
    assert typical["sparsegpt"] < typical["its mask, zeros alone"]


def test_what_sparsegpt_does_not_fix_it_counts():
    """Its error is the sum of its steps' errors: the removals do not disturb each other."""
    weight, x = layer_and_inputs(3)
    h = x.T @ x
    out, _ = reference.sparsegpt(weight, h, sparsity=0.5, block_size=1, damping=0.0)
    total, w = 0.0, weight.copy()
    for j in range(6):
        inverse = np.linalg.inv(h[j:, j:])
        gone = out[:, j] == 0
        total += (w[gone, j] ** 2 / inverse[0, 0]).sum()
        w[gone, j:] -= np.outer(w[gone, j] / inverse[0, 0], inverse[0])
    assert moved(x, weight, out) == pytest.approx(total)


def test_uncorrelated_inputs_leave_nothing_to_make_up_for():
    weight = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norms = torch.arange(1.0, 9.0, dtype=torch.float64)
    out, mask = sparsegpt(weight, torch.diag(norms**2), pattern=(2, 4), damping=0.0)
    assert torch.equal(mask, n_of_m_mask(wanda_score(weight, norms), 2, 4))  # the same score, when H is diagonal
    torch.testing.assert_close(out, weight * mask)


# Calibration


def test_hessians_and_norms_are_those_of_the_inputs(make_model):
    model = make_model(n_kv_heads=2).double()
    block, name = model.layers["1"], "layers.1.feed_forward.w1"
    seen = []
    x = model.tok_embeddings(CALIBRATION)
    rope = tuple(table.unsqueeze(-2) for table in model.positions(torch.arange(24)[None]))
    x = model.layers["0"](x, rope)
    x = x + block.attention(block.attention_norm(x), rope)
    seen = block.ffn_norm(x).detach().flatten(0, 1)
    layers = find_layers(model, ("w1",))
    model.train()
    torch.testing.assert_close(hessians(model, CALIBRATION, layers)[name], seen.T @ seen)
    torch.testing.assert_close(input_norms(model, CALIBRATION.split(4), layers)[name], seen.norm(dim=0))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_calibration_reads_without_dropout(make_model):
    model = make_model()
    add_adapter(model, "one", LoRAConfig(rank=2, dropout=0.5, targets=("wq",)))
    with torch.no_grad():
        model.layers["0"].attention.wq.adapters["one"].B.fill_(1.0)
    layers = find_layers(model, "wo")
    first, second = (hessians(model.train(), CALIBRATION, layers) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in layers)


def test_layers_that_share_a_block_are_measured_and_pruned_together(make_model):
    model = make_model(n_layers=4, share_layers=2)
    once = make_model(n_layers=1)
    assert len(find_layers(model)) == 2 * len(find_layers(once))
    h = hessians(model, CALIBRATION, find_layers(model, ("wq",)))
    assert h.keys() == {"layers.0.attention.wq", "layers.2.attention.wq"}
    calls = []
    handle = model.layers["0"].attention.wq.register_forward_pre_hook(
        lambda module, inputs: calls.append(inputs[0].flatten(0, 1))
    )
    with torch.no_grad():
        model(CALIBRATION)
    handle.remove()
    x = torch.cat(calls)
    assert len(calls) == 2
    torch.testing.assert_close(h["layers.0.attention.wq"], x.T @ x, rtol=1e-4, atol=1e-3)
    assert prune(model, "wanda", sparsity=0.5, calibration=CALIBRATION).sparsity == 0.5


# Models


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_loses_the_share_that_was_asked_for(make_model, method, dtype, tmp_path):
    model = make_model(tie_embeddings=True, n_kv_heads=2).to(dtype)
    embedding, dense = model.tok_embeddings.weight.detach().clone(), weights_of(model)
    report = prune(model, method, sparsity=0.5, calibration=CALIBRATION)
    assert report.sparsity == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(model.tok_embeddings.weight, embedding)
    assert model.output.weight is model.tok_embeddings.weight
    for name, layer in find_layers(model).items():
        kept = layer.weight != 0
        assert layer.weight.dtype == dtype
        assert method == "global" or report[name] == pytest.approx(0.5, abs=1e-3)
        assert torch.equal(layer.weight[kept], dense[name][kept]) == (method != "sparsegpt")
        assert method != "wanda" or (kept.sum(1) == layer.in_features // 2).all()
    save(model, tmp_path, format="huggingface")
    again, _ = load(tmp_path)
    assert torch.equal(again(TOKENS), model(TOKENS))
    assert sparsity_report(again) == report


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_weights_that_were_laid_out_anew_for_writing_are_pruned_like_others(dtype, method):
    """Side by side in float32, packed in bfloat16: what writes, writes with the pruned weights after it."""
    shape = {"dim": 256, "n_layers": 2, "n_heads": 4, "vocab_size": 61, "hidden_dim": 272, "max_seq_len": 32}
    fresh, used = (build(LlamaConfig(**shape), dtype=dtype, seed=3).eval() for _ in range(2))
    generate(used, None, [[3, 1, 4]], max_new_tokens=4)
    layer = used.layers["0"].attention.wq
    assert (type(layer._parameters["weight"]) is PackedWeight) == (dtype == torch.bfloat16 and can_pack())
    reports = [prune(model, method, sparsity=0.5, calibration=CALIBRATION) for model in (fresh, used)]
    assert reports[0] == reports[1]
    assert all(torch.equal(weight, weights_of(fresh)[name]) for name, weight in weights_of(used).items())
    small = [remove_heads(model, [[1], [2]]) for model in (fresh, used)]
    for pair in ((fresh, used), small):
        ours, theirs = (generate(model, None, [[3, 1, 4]], max_new_tokens=4) for model in pair)
        assert ours == theirs


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("pattern", [(2, 4), (4, 8)])
def test_patterns_hold_in_every_layer(make_model, method, pattern):
    model = make_model()
    report = prune(model, method, pattern=pattern, calibration=CALIBRATION)
    assert report.sparsity == 0.5
    assert all(is_n_of_m(layer.weight, *pattern) for layer in find_layers(model).values())


def test_global_pruning_takes_the_smallest_of_all(make_model):
    model = make_model()
    everything = torch.cat([weight.flatten() for weight in weights_of(model).values()]).abs()
    report = prune(model, "global", sparsity=0.7)
    kept = torch.cat([weight.flatten() for weight in weights_of(model).values()]) != 0
    assert everything[kept].min() >= everything[~kept].max()
    assert len({round(share, 3) for share in map(report.__getitem__, report.sizes)}) > 1


def test_each_block_sees_what_the_pruned_ones_before_it_give(make_model):
    model, name = make_model(), "layers.1.feed_forward.w2"
    dense = find_layers(model)[name].weight.detach().clone()
    prune(model, "wanda", sparsity=0.5, calibration=CALIBRATION, layers=("layers.0." + n for n in all_names()))
    norms = input_norms(model, CALIBRATION, find_layers(model, (name,)))[name]
    prune(model, "wanda", sparsity=0.5, calibration=CALIBRATION, layers=[name])
    expected = dense * keep_mask(wanda_score(dense, norms), 0.5, per_row=True)
    whole = make_model()
    prune(whole, "wanda", sparsity=0.5, calibration=CALIBRATION)
    assert torch.equal(find_layers(model)[name].weight, expected)
    assert torch.equal(find_layers(whole)[name].weight, expected)


def all_names():
    return [f"attention.{n}" for n in ("wq", "wk", "wv", "wo")] + [f"feed_forward.{n}" for n in ("w1", "w2", "w3")]


def test_the_report_counts_and_reads_well(make_model):
    model = make_model()
    report = prune(model, sparsity=0.25, layers=("w1", "layers.0.attention.wq"))
    assert list(report.sizes) == ["layers.0.attention.wq", "layers.0.feed_forward.w1", "layers.1.feed_forward.w1"]
    assert report["layers.0.attention.wq"] == report.sparsity == 0.25
    total = sum(p.numel() for p in model.parameters())
    assert report.share_of_model == pytest.approx(0.25 * (32 * 32 + 2 * 48 * 32) / total)
    assert str(report).splitlines()[0] == "layers.0.attention.wq             256 of       1,024   25.0%"
    assert str(report).splitlines()[-1] == "25.0% of these layers, 4.8% of the model"
    assert sparsity_report(model).sparsity < 0.25


def test_output_may_be_pruned_where_it_is_not_the_embedding(make_model):
    model = make_model()
    assert prune(model, "wanda", sparsity=0.5, calibration=CALIBRATION, layers=["output"])["output"] == 0.5
    with pytest.raises(ValueError, match="output is one matrix with the embedding"):
        prune(make_model(tie_embeddings=True), sparsity=0.5, layers=["output"])


def test_adapters_stay_beside_pruned_weights(make_model):
    model = make_model()
    add_adapter(model, "one", LoRAConfig(rank=2, targets=("wq", "w2")))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "adapters" in n}
    assert prune(model, "sparsegpt", sparsity=0.5, calibration=CALIBRATION).sparsity == pytest.approx(0.5, abs=1e-3)
    assert all(torch.equal(dict(model.named_parameters())[name], tensor) for name, tensor in before.items())
    with torch.no_grad():
        model.layers["0"].attention.wq.adapters["one"].B.fill_(0.1)
    merge(model)
    with pytest.raises(ValueError, match=r"adapters are merged into layers.0.attention.wq"):
        prune(model, sparsity=0.5)
    unmerge(model)
    assert sparsity_report(model).sparsity == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ValueError, match="is a AdaptedLinear, not a plain linear layer"):
        remove_heads(model, [[0], [0]])
    merge_and_unload(model)
    assert remove_heads(model, [[0], [0]]).config.n_heads == 3


# Whole heads, features and layers


def without(model, heads=None, features=None):
    """The same model with the columns of wo and w2 set to zero that read what is removed."""
    with torch.no_grad():
        for i, block in enumerate(model.blocks()):
            width = model.config.head_dim
            for head in heads[i] if heads else ():
                block.attention.wo.weight[:, head * width : (head + 1) * width] = 0
            if features:
                block.feed_forward.w2.weight[:, features[i]] = 0
    return model


@pytest.mark.parametrize(
    ("changes", "heads", "shape"),
    [
        ({}, [[2], [0]], (3, 3)),
        ({}, [[1, 3], [0, 1]], (2, 2)),
        ({"n_kv_heads": 2}, [[0, 1], [2, 3]], (2, 1)),  # a whole group
        ({"n_kv_heads": 2}, [[0, 3], [1, 2]], (2, 2)),  # one of each group
        ({"n_kv_heads": 1, "bias": True}, [[0, 2, 3], [1, 2, 3]], (1, 1)),
        ({"head_dim": 12, "n_kv_heads": 2, "tie_embeddings": True}, [[0, 1], [0, 1]], (2, 1)),
        ({"n_layers": 4, "share_layers": 2}, [[3], [1]], (3, 3)),
        (
            {"norm_placement": "post", "norm": "layer", "ffn": "relu", "position": "sinusoidal", "bias": True},
            [[1], [1]],
            (3, 3),
        ),
    ],
)
def test_a_model_without_heads_says_what_one_says_that_ignores_them(make_model, changes, heads, shape, tmp_path):
    model = make_model(**changes)
    before = weights_of(model)
    small = remove_heads(model, heads)
    assert (small.config.n_heads, small.config.n_kv_heads) == shape
    assert small.config.head_dim == model.config.head_dim
    assert not small.training
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(model).items())
    torch.testing.assert_close(small(TOKENS), without(make_model(**changes), heads)(TOKENS), rtol=1e-4, atol=1e-4)
    save(small, tmp_path)
    again, _ = load(tmp_path)
    assert again.config == small.config
    assert torch.equal(again(TOKENS), small(TOKENS))
    prompt = [[3, 1, 4, 1]]
    assert generate(again, None, prompt, max_new_tokens=5) == generate(small, None, prompt, max_new_tokens=5)


@pytest.mark.parametrize("changes", [{}, {"ffn": "gelu"}, {"bias": True}, {"share_layers": 2}], ids=str)
def test_a_model_without_features_says_what_one_says_that_ignores_them(make_model, changes):
    features = [[0, 5, 47], [46, 1, 2]][: len(make_model(**changes).blocks())]
    small = remove_features(make_model(**changes), features)
    assert small.config.hidden_dim == 45
    torch.testing.assert_close(
        small(TOKENS), without(make_model(**changes), features=features)(TOKENS), rtol=1e-4, atol=1e-4
    )


def test_a_model_without_layers_skips_them(make_model, tmp_path):
    model = make_model(n_layers=4)
    small = remove_layers(model, {1, 2})
    assert small.config.n_layers == 2
    del model.layers["1"], model.layers["2"]
    assert torch.equal(small(TOKENS), model(TOKENS))
    shared = make_model(n_layers=4, share_layers=2)
    last = remove_layers(shared, [0, 1])
    save(remove_features(small, [[3], [4]]), tmp_path, format="meta")
    assert load(tmp_path)[0].config.hidden_dim == 47
    del shared.layers["0"], shared.layers["1"]
    assert torch.equal(last(TOKENS), shared(TOKENS))
    assert len(last.blocks()) == 1


def test_all_three_removed_transformers_reads_the_same_model(make_model, as_transformers):
    model = make_model(n_layers=3, n_kv_heads=2, tie_embeddings=True)
    model.eos_ids = (7,)
    small = remove_layers(model, [1])
    small = remove_features(small, lowest(feature_scores(small, CALIBRATION), 19))
    small = remove_heads(small, lowest_heads(head_scores(small, CALIBRATION), 2, n_kv_heads=2))
    shape = small.config
    assert (shape.n_layers, shape.hidden_dim, shape.n_heads, shape.n_kv_heads, shape.head_dim) == (2, 29, 2, 1, 8)
    assert small.eos_ids == (7,)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(as_transformers(small)(TOKENS).logits, small(TOKENS), rtol=1e-4, atol=1e-4)


def test_what_is_frozen_stays_frozen_in_a_smaller_model(make_model):
    model = make_model().bfloat16().train()
    model.tok_embeddings.requires_grad_(False)
    model.layers["1"].attention.wq.requires_grad_(False)
    small = remove_heads(model, [[0], [1]])
    assert small.training
    frozen = [name for name, p in small.named_parameters() if not p.requires_grad]
    assert frozen == ["tok_embeddings.weight", "layers.1.attention.wq.weight"]
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}


# Which of them


def test_scores_are_the_squared_change_of_a_parts_output(make_model):
    model = make_model(n_kv_heads=2).double()
    heads, features = head_scores(model, CALIBRATION), feature_scores(model, CALIBRATION)
    assert (heads.shape, features.shape) == ((2, 4), (2, 48))
    seen = {}
    for name in ("attention.wo", "feed_forward.w2"):
        layer = model.get_submodule(f"layers.0.{name}")
        layer.register_forward_pre_hook(lambda module, inputs, name=name: seen.update({name: inputs[0]}))
    with torch.no_grad():
        model(CALIBRATION)
        for scores, name, width in ((heads, "attention.wo", 8), (features, "feed_forward.w2", 1)):
            x, weight = seen[name], model.get_submodule(f"layers.0.{name}").weight
            for i in (0, 1, scores.size(1) - 1):
                gone = x.clone()
                gone[..., i * width : (i + 1) * width] = 0
                assert scores[0, i].item() == pytest.approx(((gone - x) @ weight.T).square().sum().item())


def test_a_layer_that_does_nothing_has_no_score(make_model):
    model = make_model(n_layers=3)
    with torch.no_grad():
        for part in ("attention.wo", "feed_forward.w2"):
            model.get_submodule(f"layers.1.{part}").weight.zero_()
    scores = layer_scores(model, CALIBRATION.split(2))
    assert scores[1].item() == pytest.approx(0, abs=1e-6)
    assert scores[[0, 2]].min() > 0.05
    torch.testing.assert_close(remove_layers(model, [1])(TOKENS), model(TOKENS))
    assert len(layer_scores(make_model(n_layers=4, share_layers=2), CALIBRATION)) == 4


def test_the_lowest_heads_keep_the_groups_even():
    scores = torch.tensor([[1.0, 9.0, 5.0, 6.0], [9.0, 8.0, 1.0, 2.0]])
    assert lowest(scores, 2) == [[0, 2], [2, 3]]
    assert lowest_heads(scores, 2, n_kv_heads=4) == [[0, 2], [2, 3]]
    assert lowest_heads(scores, 2, n_kv_heads=2) == [[0, 1], [2, 3]]
    assert lowest_heads(scores, 3, n_kv_heads=1) == [[0, 2, 3], [1, 2, 3]]
    wide = torch.tensor([[1.0, 9.0, 5.0, 4.0, 6.0, 7.0, 0.0, 3.0, 2.0, 8.0, 8.0, 8.0]])
    assert lowest_heads(wide, 2, n_kv_heads=2) == [[0, 6]]
    with pytest.raises(ValueError, match="possible are 2, 4, 6"):
        lowest_heads(wide[:, :8], 3, n_kv_heads=2)


# Retraining

SHAPE = LlamaConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=50, hidden_dim=48, max_seq_len=32)
TEXT = (np.random.default_rng(0).integers(1, 4, 2000).cumsum() % 50).astype(np.uint16)


def make_trainer(out=None, *, model=None, after_step=keep_zeros, **changes):
    recipe = {"steps": 8, "batch_size": 4, "seq_len": 16, "warmup_steps": 2, "snapshot_every": 3, "weight_decay": 0.5}
    if model is None:
        model = build(SHAPE)
        prune(model, sparsity=0.5)
    config = TrainConfig(**(recipe | changes))
    return Trainer(model, TEXT, config, out=out, validation=TEXT[:200], after_step=after_step)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"precision": "bf16"}], ids=str)
def test_zeros_stay_through_momentum_and_decay(changes):
    """The optimizer has moments from dense steps, which would move removed weights even without a gradient."""
    trainer = make_trainer(model=build(SHAPE), after_step=None, **changes)
    for _ in range(3):
        trainer.train_step()
    prune(trainer.model, sparsity=0.5)
    zeros = {name: weight == 0 for name, weight in weights_of(trainer.model).items()}
    trainer._make_after_step, trainer._after_step = keep_zeros, None
    before = weights_of(trainer.model)
    for _ in range(4):
        trainer.train_step()
    for name, weight in weights_of(trainer.model).items():
        assert torch.equal(weight == 0, zeros[name])
        assert not torch.equal(weight, before[name])
    trainer._after_step = lambda: None
    trainer.train_step()
    assert sparsity_report(trainer.model).sparsity == 0  # the check can fail


def test_training_with_the_mask_is_training_of_what_is_left():
    """AdamW of masked weights alone: the twin multiplies gradients by the mask, and has no other hook."""
    trainer = make_trainer(clip_norm=1e9)
    twin = make_trainer(clip_norm=1e9, after_step=None)
    for layer in find_layers(twin.model).values():
        layer.weight.register_hook((layer.weight != 0).float().mul)
    expected = [metrics["loss"] for metrics in twin.run()]
    assert [metrics["loss"] for metrics in trainer.run()] == expected


def test_a_resumed_run_keeps_the_zeros_and_repeats_the_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    unbroken = [metrics["loss"] for metrics in make_trainer().run()]
    first, start = make_trainer(tmp_path), []
    for metrics in first.run():
        start.append(metrics["loss"])
        first.stop_requested = len(start) == 4
    with pytest.raises(ValueError, match="after_step was 'keep_zeros', is None"):
        make_trainer(tmp_path, model=build(SHAPE), after_step=None).resume()
    second = make_trainer(tmp_path, model=build(SHAPE, seed=9))  # dense: the zeros are in the snapshot
    assert second.resume()
    assert start + [metrics["loss"] for metrics in second.run()] == unbroken
    assert sparsity_report(second.model).sparsity == pytest.approx(0.5, abs=1e-3)
    loaded, _ = load(sorted((tmp_path / "snapshots").iterdir())[-1])
    assert sparsity_report(loaded) == sparsity_report(second.model)


def test_retraining_wins_back_what_pruning_lost():
    model = build(SHAPE)
    losses = []
    for after_step in (None, keep_zeros):
        trainer = make_trainer(model=model, after_step=after_step, steps=60, lr=1e-2)
        if after_step:
            prune(model, sparsity=0.9)
            losses.append(trainer.validate())
        list(trainer.run())
        losses.append(trainer.validate())
    trained, pruned, retrained = losses
    assert pruned > trained
    assert pruned - retrained > 0.05
    assert sparsity_report(model).sparsity == pytest.approx(0.9, abs=1e-3)


def test_zeros_stay_where_several_processes_have_a_part_of_the_model(tmp_path):
    out = tmp_path / "out.json"
    status, _, stderr, left = launching.run(pruning_worker.__file__, out)
    assert (status, left) == (0, []), stderr
    losses, zeros = pruning_worker.retrain()
    assert zeros == {"layers.0.attention.wq": 614, "layers.0.feed_forward.w1": 1228}
    for name, (its_losses, its_zeros) in json.loads(out.read_text()).items():
        assert its_zeros == zeros, name
        assert its_losses == pytest.approx(losses, rel=1e-5), name


def test_what_is_no_pruned_layer_is_left_alone(make_model):
    """A tied embedding has rows of zeros for tokens that never came, and these may learn."""
    model = make_model(tie_embeddings=True)
    with torch.no_grad():
        model.tok_embeddings.weight[60] = 0
    with pytest.raises(ValueError, match="no zeros to keep"):
        keep_zeros(model)
    prune(model, sparsity=0.5, layers=["w1"])
    restore = keep_zeros(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    restore()
    assert sparsity_report(model, "w1").sparsity == 0.5
    assert model.tok_embeddings.weight[60].eq(1).all()


def test_a_hook_is_made_once_before_the_first_step_and_called_after_each():
    events = []

    def make(model):
        events.append("made")
        return lambda: events.append(trainer.step)

    trainer = make_trainer(model=build(SHAPE), after_step=make, steps=3)
    assert events == []
    list(trainer.run())
    assert events == ["made", 0, 1, 2]


# What is refused


class Int8Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.zeros(32, 32, dtype=torch.int8))


@pytest.mark.parametrize("sparsity", [1, 1.5, -0.1, float("nan"), "half", None, True])
def test_a_share_that_is_none_is_refused(make_model, sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        prune(make_model(), sparsity=sparsity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "random", "sparsity": 0.5}, "method='random' is not one of 'magnitude'"),
        ({"sparsity": 0.5, "pattern": (2, 4)}, "give one of them, and only one"),
        ({"pattern": (3, 7)}, r"the width of layers.0.attention.wq=32 is not divisible by m=7; use m"),
        ({"pattern": (4, 4)}, "the pattern 4:4 removes nothing"),
        ({"pattern": (0, 4)}, "n=0 must be a whole number of at least 1"),
        ({"pattern": "2:4"}, r"pattern='2:4' must be \(n, m\)"),
        ({"method": "global", "pattern": (2, 4)}, "'global' is not; give 'magnitude'"),
        ({"method": "wanda", "sparsity": 0.5}, "there are no calibration tokens"),
        ({"method": "sparsegpt", "sparsity": 0.5, "calibration": []}, "there are no calibration tokens"),
        ({"method": "wanda", "sparsity": 0.5, "calibration": torch.zeros(2, 0).long()}, "no calibration tokens"),
        ({"method": "wanda", "sparsity": 0.5, "calibration": [[1, 2]]}, "has a list in it; give tensors of token ids"),
        ({"method": "wanda", "sparsity": 0.5, "calibration": TOKENS[0]}, r"must be \(B, T\)"),
        ({"method": "wanda", "sparsity": 0.5, "calibration": TOKENS + 61}, "is not among the model's ids"),
        ({"method": "wanda", "sparsity": 0.5, "calibration": torch.ones(1, 33).long()}, "do not fit the context"),
        ({"sparsity": 0.5, "layers": "w"}, "layers='w' must be names of linear layers"),
        ({"sparsity": 0.5, "layers": ["w9"]}, "there are wq, wk, wv, wo, w1, w2, w3, output"),
        ({"sparsity": 0.5, "layers": []}, "must be names of linear layers"),
    ],
)
def test_wrong_arguments_are_refused_and_change_nothing(make_model, arguments, message):
    model = make_model()
    before = weights_of(model)
    with pytest.raises(ValueError, match=message):
        prune(model, **arguments)
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(model).items())


def test_a_quantized_layer_is_refused_by_name(make_model):
    model = make_model()
    model.layers["1"].feed_forward.w1 = Int8Linear()
    for call in (
        lambda: prune(model, sparsity=0.5),
        lambda: sparsity_report(model),
        lambda: remove_features(model, [[0], [0]]),
        lambda: remove_layers(model, [0]),
    ):
        with pytest.raises(ValueError, match=r"layers.1.feed_forward.w1 is a Int8Linear, not a plain linear layer"):
            call()
    assert prune(model, sparsity=0.5, layers=["w2"]).sparsity == 0.5


def test_what_is_no_number_leaves_the_model_as_it_was(make_model):
    model = make_model()
    with torch.no_grad():
        model.layers["0"].feed_forward.w2.weight.fill_(float("inf"))  # found when block 0 is pruned already
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"the inputs of layers.1.attention.wq are not finite"):
        prune(model, "wanda", sparsity=0.5, calibration=CALIBRATION)
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(model).items())
    with pytest.raises(ValueError, match="cannot be inverted with damping=0"):
        sparsegpt(torch.ones(2, 4), torch.ones(4, 4), sparsity=0.5, damping=0.0)
    with pytest.raises(ValueError, match="the model is on the meta device"):
        prune(build(SHAPE, device="meta"), sparsity=0.5)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([[4], [0]], "block 0 has no head 4; its heads are 0 to 3"),
        ([[0], [-1]], "head=-1 must be a whole number of at least 0"),
        ([[0, 1, 2, 3], [0, 1, 2, 3]], "block 0 would lose all of its 4 heads"),
        ([[0], [1]], r"block 0 would keep \[1, 2\] query heads of its 2 groups of 2"),
        ([[0, 1], [0, 2]], r"blocks would keep different \(query, kv\) heads"),
        ([[0, 1]], r"heads of blocks \[0\] are given, but the model has blocks 0 to 1"),
        (2, r"heads=2 must be a list for each of the 2 blocks"),
        ([0, 1], "0 must be a list of the heads of block 0 that are to go"),
        ({0: [0, 1], 5: [0, 1]}, r"heads of blocks \[0, 5\]"),
    ],
)
def test_heads_that_cannot_go_are_refused(make_model, heads, message):
    with pytest.raises(ValueError, match=message):
        remove_heads(make_model(n_kv_heads=2), heads)


def test_features_and_layers_that_cannot_go_are_refused(make_model):
    model = make_model(n_layers=4, share_layers=2)
    for call, message in (
        (lambda: remove_features(model, [[0], [48]]), "block 1 has no feature 48; its features are 0 to 47"),
        (lambda: remove_features(model, [[0], [1, 2]]), r"blocks would keep \[47, 46\] features"),
        (lambda: remove_features(model, [range(48), range(48)]), "block 0 would lose all of its 48 features"),
        (lambda: remove_layers(model, [4]), "the model has no layer 4; its layers are 0 to 3"),
        (lambda: remove_layers(model, range(4)), "all 4 layers would go"),
        (lambda: remove_layers(model, [0, 1, 3]), "layers 2 to 3 share a block, and only some of them are to go"),
        (lambda: lowest(torch.ones(2, 3), 3), "n=3 of 3 would leave none"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_training_a_model_without_zeros_with_the_mask_is_refused():
    with pytest.raises(ValueError, match="the model has no zeros to keep; prune it"):
        make_trainer(model=build(SHAPE)).train_step()


def test_a_layer_of_the_plain_kind_is_pruned_too(make_model):
    """Whatever the walk meets: PyTorch's own linear layer is no other."""
    model = make_model()
    plain = nn.Linear(32, 32, bias=False)
    model.layers["0"].attention.wo = plain
    assert type(model.layers["0"].attention.wq) is Linear
    assert prune(model, sparsity=0.5)["layers.0.attention.wo"] == 0.5
