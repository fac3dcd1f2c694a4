"""A trained model that is made to share more: properties of the weights, and a way back by a little training."""

import copy

import numpy as np
import pytest
import torch
from tiny_models import draw_model

import llama_minimal
from llama_minimal.checkpoint import load, save
from llama_minimal.course.card import held_out
from llama_minimal.data.valley import story
from llama_minimal.generation import generate
from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.mixed_precision import keep_layers_in_float8
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.sharing import group_kv_heads, pool_heads, share_layers
from llama_minimal.training import Trainer

TOKENS = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(0))


def same_weights(a, b):
    theirs = dict(b.named_parameters())
    return a.config == b.config and all(torch.equal(p, theirs[name]) for name, p in a.named_parameters())


@pytest.fixture
def model():
    return draw_model(n_layers=4)


# ---- keys and values


@pytest.mark.parametrize("how", ["mean", "first"])
@pytest.mark.parametrize("n_groups", [1, 2, 4])
@pytest.mark.parametrize("shape", [(12, 5), (12,)])
def test_a_pooled_head_is_the_mean_or_the_first_of_its_group(n_groups, shape, how):
    w = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    heads = [np.asarray(w[3 * h : 3 * h + 3]) for h in range(4)]
    groups = [[heads[h] for h in group] for group in np.split(np.arange(4), n_groups)]
    expected = np.concatenate([np.mean(group, axis=0) if how == "mean" else group[0] for group in groups])
    np.testing.assert_allclose(pool_heads(w, 4, n_groups, how=how), expected, rtol=1e-14)
    model = draw_model(n_layers=1)
    grouped = group_kv_heads(model, n_groups, how=how).layers["0"].attention
    for name in ("wk", "wv"):
        former = getattr(model.layers["0"].attention, name).weight.detach()
        torch.testing.assert_close(getattr(grouped, name).weight.detach(), pool_heads(former, 4, n_groups, how=how))


@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"share_layers": 2, "tie_embeddings": True}, {"head_dim": 12}])
def test_only_keys_and_values_change_and_as_many_groups_as_heads_change_nothing(changes):
    model = draw_model(n_layers=4, **changes).train()
    same, two = group_kv_heads(model, 4), group_kv_heads(model, 2)
    assert same_weights(same, model)
    assert two.config == model.config.replace(n_kv_heads=2)
    assert two.training
    for name, parameter in two.named_parameters():
        former = model.get_parameter(name)
        if ".wk." in name or ".wv." in name:
            np.testing.assert_allclose(parameter.detach(), pool_heads(former.detach(), 4, 2))
        else:
            assert torch.equal(parameter, former), name
    assert (two.output.weight is two.tok_embeddings.weight) == model.config.tie_embeddings
    before = model.output.weight.detach().clone()
    with torch.no_grad():
        two.output.weight.zero_()
    assert torch.equal(model.output.weight, before)  # no memory is shared


@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"position": "sinusoidal"}])
def test_equal_heads_lose_nothing(changes):
    grouped = draw_model(n_kv_heads=2, n_layers=2, **changes)
    spread = Llama(grouped.config.replace(n_kv_heads=4)).eval()
    for name, parameter in spread.named_parameters():
        former = grouped.get_parameter(name).detach()
        if ".wk." in name or ".wv." in name:
            former = former.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
        parameter.data = former.clone()
    with torch.no_grad():
        torch.testing.assert_close(spread(TOKENS), grouped(TOKENS))
        torch.testing.assert_close(group_kv_heads(spread, 2)(TOKENS), grouped(TOKENS))


def test_grouping_twice_is_grouping_once(model):
    twice, once = group_kv_heads(group_kv_heads(model, 2), 1), group_kv_heads(model, 1)
    for (name, a), b in zip(twice.named_parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_the_cache_shrinks(model):
    sizes = [m.make_cache(batch_size=1, max_seq_len=8).keys[0].numel() for m in (model, group_kv_heads(model, 1))]
    assert sizes[0] == 4 * sizes[1]


# ---- layers


@pytest.mark.parametrize("how", ["mean", "first"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_shared_block_is_the_mean_or_the_first_of_its_layers(model, n, how):
    shared = share_layers(model, n, how=how)
    assert shared.config == model.config.replace(share_layers=n)
    assert len(shared.blocks()) == 4 // n
    for name, parameter in shared.named_parameters():
        if name.startswith("layers."):
            _, first, inside = name.split(".", 2)
            group = [model.layers[str(int(first) + i)].get_parameter(inside).detach().numpy() for i in range(n)]
            np.testing.assert_allclose(
                parameter.detach(), group[0] if how == "first" else np.mean(group, axis=0), rtol=1e-6
            )
        else:
            assert torch.equal(parameter, model.get_parameter(name))
    assert n > 1 or same_weights(shared, model)


@pytest.mark.parametrize("how", ["mean", "first"])
def test_equal_layers_lose_nothing_and_can_part_again(how):
    shared = draw_model(n_layers=4, share_layers=2)
    apart = share_layers(shared, 1)
    assert len({id(block) for block in apart.layers.values()}) == 4
    with torch.no_grad():
        expected = shared(TOKENS)
        assert torch.equal(apart(TOKENS), expected)
        torch.testing.assert_close(share_layers(apart, 2, how=how)(TOKENS), expected)
        torch.testing.assert_close(share_layers(shared, 2, how=how)(TOKENS), expected)


# ---- both


@pytest.mark.parametrize("format", ["native", "huggingface"])
def test_what_comes_out_is_a_model_like_any_other(model, tmp_path, format):
    model.eos_ids = (7,)
    converted = group_kv_heads(model, 2) if format == "huggingface" else share_layers(group_kv_heads(model, 2), 2)
    assert converted.eos_ids == (7,)
    save(converted, tmp_path / "model", format=format)
    loaded, _ = load(tmp_path / "model")
    assert same_weights(loaded, converted)
    written = [generate(m, None, [[1, 2, 3]], max_new_tokens=8)[0].tokens for m in (converted, loaded)]
    assert written[0] == written[1]


def test_in_half_precision_means_are_those_of_float32(model):
    half = copy.deepcopy(model).bfloat16()
    for convert in (lambda m: group_kv_heads(m, 1), lambda m: share_layers(m, 4)):
        ours, exact = convert(half), convert(copy.deepcopy(half).float())
        for a, b in zip(ours.parameters(), exact.parameters(), strict=True):
            assert a.dtype == torch.bfloat16
            assert torch.equal(a, b.bfloat16())


def test_what_cannot_be_shared_is_refused(model):
    with pytest.raises(
        ValueError, match="the model's kv heads=4 is not divisible by n_kv_heads=3; use n_kv_heads 1, 2 or 4"
    ):
        group_kv_heads(model, 3)
    with pytest.raises(ValueError, match="n_kv_heads=8"):
        group_kv_heads(model, 8)
    with pytest.raises(ValueError, match="how='median'"):
        group_kv_heads(model, 2, how="median")
    with pytest.raises(ValueError, match="n_layers=4 is not divisible by share_layers=3"):
        share_layers(model, 3)
    with pytest.raises(ValueError, match="how='median'"):
        share_layers(model, 2, how="median")
    with pytest.raises(ValueError, match="it is quantized, cut, or a part of one"):
        group_kv_heads(keep_layers_in_float8(copy.deepcopy(model)), 2)
    add_adapter(model, "one", LoRAConfig())
    with pytest.raises(ValueError, match=r"of a model with adapters \(one\); merge_and_unload them first"):
        share_layers(model, 2)


@pytest.fixture(scope="module")
def course():
    return llama_minimal.load("course", dtype=torch.float32)


@pytest.mark.parametrize(
    ("convert", "least"), [(lambda m: group_kv_heads(m, 2), 0.35), (lambda m: share_layers(m, 2, how="first"), 0.25)]
)
def test_a_little_training_leads_back(course, convert, least):
    model, tokenizer = course
    tokens, held = (
        np.array([id for one in stories for id in tokenizer.encode(one.text(), bos=True, eos=True)])
        for stories in ([story(seed) for seed in range(100)], held_out(3))
    )
    recipe = TrainConfig(steps=12, batch_size=4, seq_len=64, lr=1e-3, warmup_steps=3)
    start = Trainer(copy.deepcopy(model), tokens, recipe, validation=held).validate()
    trainer = Trainer(convert(model), tokens, recipe, validation=held)
    broken = trainer.validate()
    for _ in trainer.run():
        pass
    back = trainer.validation_loss
    assert start < back < broken
    assert back - start < (1 - least) * (broken - start)
