"""Layers in P parts against the whole layers, forward and backward, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llama_minimal import reference
from llama_minimal.config import LlamaConfig
from llama_minimal.reference import parallel

CONFIG = LlamaConfig(dim=24, n_layers=2, n_heads=4, n_kv_heads=4, vocab_size=36, hidden_dim=40, max_seq_len=24)
RNG = np.random.default_rng(0)
RANKS = pytest.mark.parametrize("ranks", [1, 2, 4])


def draw(*shape):
    return RNG.normal(size=shape)


def same(given, wanted):
    np.testing.assert_allclose(given, wanted, rtol=1e-11, atol=1e-12)


def on_every_rank(given, wanted):
    for each in given:
        same(each, wanted)


def joined(parts):
    """The ranks' gradients as the whole model's; what is not cut must be the same everywhere."""
    whole = {}
    for name in parts[0]:
        axis = parallel.PLAN.get(name.split(".")[-2])
        arrays = [part[name] for part in parts]
        whole[name] = arrays[0] if axis is None else np.concatenate(arrays, axis)
        if axis is None:
            on_every_rank(arrays, arrays[0])
    return whole


@RANKS
@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_layer_cut_by_columns(ranks, biased):
    x, w, b, d_out = draw(2, 3, 8), draw(12, 8), draw(12) if biased else None, draw(2, 3, 12)
    out, backward = reference.linear_vjp(x, w, b)
    bs = parallel.cut(b, ranks) if biased else None
    outs, parallel_backward = parallel.column_linear_vjp([x] * ranks, parallel.cut(w, ranks), bs)
    same(np.concatenate(outs, -1), out)
    d_xs, d_ws, d_bs = parallel_backward(parallel.cut(d_out, ranks, -1))
    d_x, d_w, d_b = backward(d_out)
    on_every_rank(d_xs, d_x)
    same(np.concatenate(d_ws), d_w)
    assert d_bs is None if d_b is None else np.allclose(np.concatenate(d_bs), d_b)


@RANKS
@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_layer_cut_by_rows(ranks, biased):
    x, w, b, d_out = draw(2, 3, 8), draw(12, 8), draw(12) if biased else None, draw(2, 3, 12)
    out, backward = reference.linear_vjp(x, w, b)
    outs, parallel_backward = parallel.row_linear_vjp(parallel.cut(x, ranks, -1), parallel.cut(w, ranks, 1), b)
    on_every_rank(outs, out)
    d_xs, d_ws, d_b = parallel_backward([d_out] * ranks)
    wanted = backward(d_out)
    same(np.concatenate(d_xs, -1), wanted[0])
    same(np.concatenate(d_ws, 1), wanted[1])
    assert d_b is None if wanted[2] is None else np.allclose(d_b, wanted[2])


@RANKS
@pytest.mark.parametrize("operation", ["copy", "reduce", "gather", "scatter"])
def test_each_exchange_and_its_backward_are_adjoint(ranks, operation):
    """⟨f(x), y⟩ = ⟨x, fᵀ(y)⟩, summed over all ranks, is what a backward of a linear function is."""
    rest = (1,) if operation in ("gather", "scatter") else ()
    xs = [draw(2, 8, 3) for _ in range(ranks)]
    outs, backward = getattr(parallel, f"{operation}_vjp")(xs, *rest)
    d_outs = [draw(*out.shape) for out in outs]
    if operation == "reduce":  # one result on every rank: its gradient is one, too
        d_outs = [d_outs[0]] * ranks
        forward = (outs[0] * d_outs[0]).sum()
    elif operation == "copy":  # one input on every rank
        xs = [xs[0]] * ranks
        d_xs = backward(d_outs)
        on_every_rank(d_xs, sum(d_outs))
        return
    else:
        forward = sum((out * d_out).sum() for out, d_out in zip(outs, d_outs, strict=True))
    same(forward, sum((x * d_x).sum() for x, d_x in zip(xs, backward(d_outs), strict=True)))


def layer(changes):
    config = CONFIG.replace(**changes)
    params = {name: draw(*shape.shape) for name, shape in reference.init_params(config, 0).items()}
    return config, params


@RANKS
@pytest.mark.parametrize("ffn", ["swiglu", "relu"])
@pytest.mark.parametrize("sequence", [False, True])
def test_the_feed_forward_layer(ranks, ffn, sequence):
    config, params = layer({"ffn": ffn})
    name, x, d_out = "layers.0.feed_forward", draw(2, 8, 24), draw(2, 8, 24)
    shards = parallel.shard({key: w for key, w in params.items() if key.startswith(name)}, ranks)
    out, backward = reference.feed_forward_vjp(x, params, name, config)
    xs = parallel.cut(x, ranks, 1) if sequence else [x] * ranks
    outs, parallel_backward = parallel.parallel_feed_forward_vjp(xs, shards, name, config, sequence=sequence)
    check(outs, parallel_backward, out, backward, d_out, sequence)


@RANKS
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("changes", [{}, {"n_heads": 8, "head_dim": 4}, {"n_heads": 12, "head_dim": 6}], ids=str)
def test_attention_by_heads(ranks, sequence, changes):
    config, params = layer(changes)
    name, x, d_out = "layers.1.attention", draw(2, 8, 24), draw(2, 8, 24)
    rope, mask = reference.rope_table(config.head_dim, 8), reference.causal_mask(8, 8)
    shards = parallel.shard({key: w for key, w in params.items() if key.startswith(name)}, ranks)
    out, backward = reference.attention_block_vjp(x, params, name, config, rope, mask)
    xs = parallel.cut(x, ranks, 1) if sequence else [x] * ranks
    outs, parallel_backward = parallel.parallel_attention_vjp(xs, shards, name, config, rope, mask, sequence=sequence)
    check(outs, parallel_backward, out, backward, d_out, sequence)


def check(outs, parallel_backward, out, backward, d_out, sequence):
    ranks = len(outs)
    d_x, gradients = backward(d_out)
    d_xs, parts = parallel_backward(parallel.cut(d_out, ranks, 1) if sequence else [d_out] * ranks)
    for given, wanted in ((outs, out), (d_xs, d_x)):
        same(np.concatenate(given, 1), wanted) if sequence else on_every_rank(given, wanted)
    whole = joined(parts)
    assert whole.keys() == gradients.keys()
    for key, gradient in gradients.items():
        same(whole[key], gradient)


@RANKS
def test_a_norm_of_slices_of_the_sequence(ranks):
    x, weight, d_out = draw(2, 8, 6), draw(6), draw(2, 8, 6)
    out, backward = reference.rms_norm_vjp(x, weight, 1e-5)
    outs, parallel_backward = parallel.sequence_norm_vjp(parallel.cut(x, ranks, 1), weight, 1e-5)
    same(np.concatenate(outs, 1), out)
    d_xs, d_weight = parallel_backward(parallel.cut(d_out, ranks, 1))
    same(np.concatenate(d_xs, 1), backward(d_out)[0])
    same(d_weight, backward(d_out)[1])


@RANKS
def test_an_embedding_cut_by_tokens(ranks):
    tokens, weight, d_out = RNG.integers(0, 12, (3, 7)), draw(12, 5), draw(3, 7, 5)
    out, backward = reference.embedding_vjp(tokens, weight)
    outs, parallel_backward = parallel.vocabulary_embedding_vjp(tokens, parallel.cut(weight, ranks))
    on_every_rank(outs, out)
    same(np.concatenate(parallel_backward([d_out] * ranks)), backward(d_out))


@RANKS
@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_the_loss_of_logits_that_are_never_gathered(ranks, scale):
    logits, targets = scale * draw(3, 5, 12), RNG.integers(0, 12, (3, 5))
    targets[0, :2] = -100
    (total, count), backward = reference.next_token_loss_vjp(logits, targets)
    (given, counted), parallel_backward = parallel.parallel_loss_vjp(parallel.cut(logits, ranks, -1), targets)
    same([given, counted], [total, count])
    gradient = np.concatenate(parallel_backward(0.5), -1)
    same(gradient, backward(0.5))
    theirs = torch.tensor(logits, requires_grad=True)
    F.cross_entropy(theirs.flatten(0, 1), torch.tensor(targets).flatten(), reduction="sum").mul(0.5).backward()
    same(gradient, theirs.grad.numpy())


def test_a_loss_of_float32_stays_float32():
    (total, _), backward = parallel.parallel_loss_vjp([draw(2, 3).astype(np.float32)] * 2, np.array([1, 4]))
    assert {total.dtype, *(part.dtype for part in backward(1.0))} == {np.dtype(np.float32)}


def whole_model(params, tokens, targets, config, ranks):
    """LLaMA with everything cut: the ends by tokens, the norms by positions, the layers by heads and features."""
    shards = parallel.shard(params, ranks)
    rope = reference.rope_table(config.head_dim, tokens.shape[1], config.rope_theta)
    mask = reference.causal_mask(tokens.shape[1], tokens.shape[1])
    embedded, embed_backward = parallel.vocabulary_embedding_vjp(tokens, [s["tok_embeddings.weight"] for s in shards])
    xs = [parallel.cut(x, ranks, 1)[rank] for rank, x in enumerate(embedded)]
    steps = []
    for i in range(config.n_layers):
        for norm, part, rest in (("attention_norm", "attention", (rope, mask)), ("ffn_norm", "feed_forward", ())):
            key = f"layers.{i}.{norm}.weight"
            normed, norm_backward = parallel.sequence_norm_vjp(xs, params[key], config.norm_eps)
            f = parallel.parallel_attention_vjp if rest else parallel.parallel_feed_forward_vjp
            outs, part_backward = f(normed, shards, f"layers.{i}.{part}", config, *rest, sequence=True)
            xs = [x + out for x, out in zip(xs, outs, strict=True)]
            steps.append((key, norm_backward, part_backward))
    normed, norm_backward = parallel.sequence_norm_vjp(xs, params["norm.weight"], config.norm_eps)
    gathered, gather_backward = parallel.gather_vjp(normed, 1)
    heads = [s["output.weight"] for s in shards]
    logits = [x @ w.T for x, w in zip(gathered, heads, strict=True)]
    (total, count), loss_backward = parallel.parallel_loss_vjp(logits, targets)

    d_logits = loss_backward(1 / count)
    gradients = {
        "output.weight": np.concatenate(
            [reference.linear_vjp(x, w)[1](d)[1] for x, w, d in zip(gathered, heads, d_logits, strict=True)]
        )
    }
    d_xs, gradients["norm.weight"] = norm_backward(
        gather_backward([d @ w for d, w in zip(d_logits, heads, strict=True)])
    )
    for key, norm_backward, part_backward in reversed(steps):
        d_outs, parts = part_backward(d_xs)
        gradients |= joined(parts)
        d_normed, gradients[key] = norm_backward(d_outs)
        d_xs = [a + b for a, b in zip(d_xs, d_normed, strict=True)]
    d_embedded = [np.concatenate(d_xs, 1)] * ranks
    gradients["tok_embeddings.weight"] = np.concatenate(embed_backward(d_embedded))
    return total / count, gradients


@RANKS
@pytest.mark.parametrize("changes", [{}, {"n_heads": 8, "head_dim": 4, "n_layers": 1}], ids=str)
def test_the_whole_model_in_parts(ranks, changes):
    config, params = layer(changes)
    tokens, targets = RNG.integers(0, 36, (2, 3, 8))
    targets[1, 5:] = -100
    loss, gradients = reference.loss_and_gradients(params, tokens, targets, config)
    given, parts = whole_model(params, tokens, targets, config, ranks)
    same(given, loss)
    assert parts.keys() == gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(parts[name], gradient, rtol=1e-8, atol=1e-11 * np.abs(gradient).max(), err_msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parallel.cut(np.zeros((4, 6)), 4, 1), r"axis 1 of \(4, 6\) cannot be cut into 4 equal parts"),
        (
            lambda: parallel.local_config(CONFIG.replace(n_heads=6, n_kv_heads=3, head_dim=4), 2),
            "n_kv_heads is 3, no multiple of 2 ranks; 1 would divide all",
        ),
        (
            lambda: parallel.local_config(CONFIG.replace(n_heads=6, n_kv_heads=6, head_dim=4, hidden_dim=48), 4),
            "n_heads is 6, no multiple of 4 ranks; 1, 2, 3, 6 would divide all",
        ),
        (
            lambda: parallel.shard(reference.init_params(CONFIG.replace(bias=True), 0), 2),
            "layers.0.attention.wq.bias would be added on each rank; cut a model without biases",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
