"""The whole NumPy model: against transformers, torch's encoder layers and central differences, in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig as HuggingFaceConfig
from transformers import LlamaForCausalLM

from llama_minimal import reference
from llama_minimal.config import LlamaConfig, RopeScaling, preset

BASE = LlamaConfig(dim=16, n_layers=2, n_heads=4, vocab_size=11, hidden_dim=12, max_seq_len=12)
CONFIGS = {
    "llama": BASE,
    "grouped-query": BASE.replace(n_kv_heads=2),
    "multi-query": BASE.replace(n_kv_heads=1),
    "llama3": BASE.replace(
        n_kv_heads=2,
        rope_theta=500.0,
        rope_scaling=RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=64),
    ),
    "layer-norm": BASE.replace(norm="layer"),
    "post-norm": BASE.replace(norm_placement="post"),
    "gelu": BASE.replace(ffn="gelu"),
    "relu": BASE.replace(ffn="relu"),
    "sinusoidal": BASE.replace(position="sinusoidal"),
    "no-position": BASE.replace(position="none"),
    "bias": BASE.replace(bias=True),
    "bias-of-attention": BASE.replace(bias="attention"),
    "bias-of-feed-forward": BASE.replace(bias="feed_forward", ffn="gelu"),
    "wide-heads": BASE.replace(head_dim=6, n_kv_heads=2),
    "yarn": BASE.replace(rope_theta=30.0, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=200)),
    "tied": BASE.replace(tie_embeddings=True),
    "shared-layers": BASE.replace(n_layers=4, share_layers=2),
    "all-at-once": BASE.replace(
        **{"norm": "layer", "norm_placement": "post", "ffn": "gelu", "position": "sinusoidal", "bias": True},
        **{"tie_embeddings": True, "n_layers": 4, "share_layers": 2, "n_kv_heads": 1},
    ),
}
TOKENS = np.random.default_rng(0).integers(0, BASE.vocab_size, (2, 6))

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def draw_params(config: LlamaConfig) -> dict[str, np.ndarray]:
    """Draw parameters large enough that every one of them, biases and norms too, matters to the logits."""
    rng = np.random.default_rng(1)
    shapes = reference.parameter_shapes(config)
    return {name: 0.4 * rng.normal(size=shape) + name.endswith("norm.weight") for name, shape in shapes.items()}


def slope(f, array: np.ndarray, direction: np.ndarray) -> float:
    """Return the central difference of ``f`` at ``array`` along ``direction``."""
    step = 1e-5
    return (f(array + step * direction) - f(array - step * direction)) / (2 * step)


def assert_gradients(f, params: dict[str, np.ndarray], gradients: dict[str, np.ndarray]) -> None:
    """Compare each gradient with the slope of ``f(params)`` along a random direction."""
    rng = np.random.default_rng(2)
    assert gradients.keys() == params.keys()
    for name, array in params.items():
        direction = rng.normal(size=array.shape)
        difference = slope(lambda moved, name=name: f(params | {name: moved}), array, direction)
        # The differences err by step² ≈ 1e-10 times a third derivative.
        assert math.isclose((gradients[name] * direction).sum(), difference, rel_tol=1e-5, abs_tol=1e-6), name


@every_config
def test_gradients_of_the_logits_equal_central_differences(config):
    params = draw_params(config)
    logits, backward = reference.llama_vjp(params, TOKENS, config)
    np.testing.assert_array_equal(logits, reference.llama(params, TOKENS, config))
    d_logits = np.random.default_rng(3).normal(size=logits.shape)
    assert_gradients(lambda p: (d_logits * reference.llama(p, TOKENS, config)).sum(), params, backward(d_logits))


@every_config
@pytest.mark.parametrize(
    ("function", "part", "n_tables"),
    [
        ("normalize", "layers.0.ffn_norm", 0),
        ("feed_forward", "layers.0.feed_forward", 0),
        ("attention_block", "layers.0.attention", 2),
        ("block", "layers.0", 2),
    ],
)
def test_gradients_of_a_part_equal_central_differences(config, function, part, n_tables):
    f, f_vjp = getattr(reference, function), getattr(reference, f"{function}_vjp")
    params = {name: array for name, array in draw_params(config).items() if name.startswith(part + ".")}
    x, d_out = np.random.default_rng(4).normal(size=(2, 2, 6, config.dim))
    tables = (reference.rope_table(config.head_dim, 6), reference.causal_mask(6, 6))[:n_tables]
    out, backward = f_vjp(x, params, part, config, *tables)
    np.testing.assert_array_equal(out, f(x, params, part, config, *tables))

    d_x, gradients = backward(d_out)
    assert_gradients(lambda p: (d_out * f(x, p, part, config, *tables)).sum(), params, gradients)
    assert_gradients(lambda p: (d_out * f(p["x"], params, part, config, *tables)).sum(), {"x": x}, {"x": d_x})


@pytest.mark.parametrize("weights", [None, np.random.default_rng(5).uniform(0, 2, TOKENS.shape)])
def test_gradients_of_the_mean_loss_equal_central_differences(weights):
    params = draw_params(BASE)
    targets = np.where(TOKENS == 3, -100, np.roll(TOKENS, -1))
    loss, gradients = reference.loss_and_gradients(params, TOKENS, targets, BASE, weights)
    assert_gradients(lambda p: reference.loss_and_gradients(p, TOKENS, targets, BASE, weights)[0], params, gradients)

    losses = F.cross_entropy(
        torch.from_numpy(reference.llama(params, TOKENS, BASE)).mT, torch.from_numpy(targets), reduction="none"
    ).numpy()
    counted = (targets != -100) * (1 if weights is None else weights)
    assert math.isclose(loss, np.average(losses, weights=counted), rel_tol=1e-12)


# Against models written by others


def to_halves(array: np.ndarray, n_heads: int) -> np.ndarray:
    """Reorder the rows of each head from neighboring pairs to Hugging Face's two halves."""
    rows = array.reshape(n_heads, -1, 2, array.shape[-1])  # (H, Dh/2, 2, D)
    return rows.swapaxes(1, 2).reshape(array.shape)


def to_hugging_face(arrays: dict[str, np.ndarray], config: LlamaConfig) -> dict[str, torch.Tensor]:
    renamed = {
        **{"tok_embeddings": "embed_tokens", "attention.": "self_attn.", "feed_forward": "mlp"},
        **{"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"},
        **{"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"},
        **{"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "output": "lm_head"},
    }
    state = {}
    for name, array in arrays.items():
        if "wq" in name or "wk" in name:
            array = to_halves(array, config.n_heads if "wq" in name else config.n_kv_heads)
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        state[name if name.startswith("lm_head") else f"model.{name}"] = torch.from_numpy(array)
    return state


@pytest.mark.parametrize("name", ["llama", "grouped-query", "multi-query", "llama3", "tied"])
def test_llama_equals_transformers(name):
    config = CONFIGS[name]
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling := config.rope_scaling:
        rope |= {"rope_type": "llama3", "original_max_position_embeddings": scaling.original_max_seq_len}
        rope |= {key: getattr(scaling, key) for key in ("factor", "low_freq_factor", "high_freq_factor")}
    theirs = LlamaForCausalLM(
        HuggingFaceConfig(
            hidden_size=config.dim,
            intermediate_size=config.hidden_dim,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=config.tie_embeddings,
        )
    ).double()
    params = draw_params(config)
    missing, unexpected = theirs.load_state_dict(to_hugging_face(params, config), strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if config.tie_embeddings else [])

    tokens, targets = TOKENS[:, :-1], TOKENS[:, 1:]
    logits = theirs(torch.from_numpy(tokens)).logits
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    loss.backward()
    # Their rotary tables are float32 even in a float64 model: 1e-7 per angle, 1e-5 after two layers.
    np.testing.assert_allclose(reference.llama(params, tokens, config), logits.detach(), rtol=1e-5, atol=1e-5)
    our_loss, gradients = reference.loss_and_gradients(params, tokens, targets, config)
    assert math.isclose(our_loss, loss.item(), rel_tol=1e-5)
    for key, gradient in to_hugging_face(gradients, config).items():
        np.testing.assert_allclose(gradient, theirs.get_parameter(key).grad, rtol=1e-5, atol=1e-5, err_msg=key)


def torch_encoder_layer(params: dict[str, np.ndarray], name: str, config: LlamaConfig) -> torch.nn.Module:
    layer = torch.nn.TransformerEncoderLayer(
        config.dim,
        config.n_heads,
        config.hidden_dim,
        dropout=0.0,
        activation={"relu": F.relu, "gelu": lambda x: F.gelu(x, approximate="tanh")}[config.ffn],
        layer_norm_eps=config.norm_eps,
        batch_first=True,
        norm_first=config.norm_placement == "pre",
        dtype=torch.float64,
    )
    state = {}
    for kind in ("weight", "bias"):
        joined = [params[f"{name}.attention.{matrix}.{kind}"] for matrix in ("wq", "wk", "wv")]
        state[f"self_attn.in_proj_{kind}"] = np.concatenate(joined)
        state[f"self_attn.out_proj.{kind}"] = params[f"{name}.attention.wo.{kind}"]
        state[f"linear1.{kind}"] = params[f"{name}.feed_forward.w1.{kind}"]
        state[f"linear2.{kind}"] = params[f"{name}.feed_forward.w2.{kind}"]
        state[f"norm1.{kind}"] = params[f"{name}.attention_norm.{kind}"]
        state[f"norm2.{kind}"] = params[f"{name}.ffn_norm.{kind}"]
    layer.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    return layer


@pytest.mark.parametrize("position", ["sinusoidal", "none"])
@pytest.mark.parametrize("ffn", ["relu", "gelu"])
@pytest.mark.parametrize("norm_placement", ["pre", "post"])
def test_the_older_transformers_equal_torch(norm_placement, ffn, position):
    config = BASE.replace(norm="layer", norm_placement=norm_placement, ffn=ffn, position=position, bias=True)
    params = draw_params(config)
    weights = {name: torch.from_numpy(array) for name, array in params.items()}
    x = weights["tok_embeddings.weight"][TOKENS]
    if position == "sinusoidal":
        x = x + torch.from_numpy(reference.sinusoidal_table(config.dim, 6))
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for i in range(config.n_layers):
        x = torch_encoder_layer(params, f"layers.{i}", config)(x, src_mask=hidden)
    if norm_placement == "pre":
        x = F.layer_norm(x, (config.dim,), weights["norm.weight"], weights["norm.bias"], config.norm_eps)
    expected = x @ weights["output.weight"].T
    np.testing.assert_allclose(reference.llama(params, TOKENS, config), expected.detach(), rtol=1e-10, atol=1e-11)


# Tied and shared weights


def test_tied_embeddings_are_two_equal_matrices_whose_gradients_add_up():
    tied, free = BASE.replace(tie_embeddings=True), BASE
    params = draw_params(tied)
    copied = params | {"output.weight": params["tok_embeddings.weight"]}
    loss, gradients = reference.loss_and_gradients(params, TOKENS, TOKENS, tied)
    free_loss, free_gradients = reference.loss_and_gradients(copied, TOKENS, TOKENS, free)
    assert loss == free_loss
    expected = free_gradients["tok_embeddings.weight"] + free_gradients["output.weight"]
    np.testing.assert_allclose(gradients["tok_embeddings.weight"], expected, rtol=1e-12, atol=1e-15)


def test_shared_layers_are_equal_layers_whose_gradients_add_up():
    shared, free = BASE.replace(n_layers=4, share_layers=2), BASE.replace(n_layers=4)
    params = draw_params(shared)
    source = {
        name: name.replace("layers.1.", "layers.0.").replace("layers.3.", "layers.2.")
        for name in reference.parameter_shapes(free)
    }
    copied = {name: params[first] for name, first in source.items()}
    assert set(source.values()) == set(params)
    loss, gradients = reference.loss_and_gradients(params, TOKENS, TOKENS, shared)
    free_loss, free_gradients = reference.loss_and_gradients(copied, TOKENS, TOKENS, free)
    assert loss == free_loss
    for name, gradient in gradients.items():
        expected = sum(free_gradients[copy] for copy, first in source.items() if first == name)
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-15)


# Causality, the cache and generation


@every_config
def test_a_later_token_changes_no_earlier_logit(config):
    params = draw_params(config)
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % config.vocab_size
    before, after = reference.llama(params, TOKENS, config), reference.llama(params, changed, config)
    np.testing.assert_allclose(after[:, :4], before[:, :4], rtol=1e-12, atol=1e-14)
    assert (np.abs(after - before)[:, 4:].max(axis=-1) > 1e-3).all()


@every_config
def test_float32_stays_float32(config):
    params = {name: array.astype(np.float32) for name, array in draw_params(config).items()}
    loss, gradients = reference.loss_and_gradients(params, TOKENS, TOKENS, config)
    assert reference.llama(params, TOKENS, config).dtype == np.float32
    assert {loss.dtype, *(gradient.dtype for gradient in gradients.values())} == {np.dtype(np.float32)}


@every_config
def test_a_cache_filled_in_pieces_gives_the_logits_of_one_pass(config):
    params = draw_params(config)
    shape = (2, config.n_kv_heads, 8, config.head_dim)  # two positions longer than needed
    cache = [(np.full(shape, np.nan), np.full(shape, np.nan)) for _ in range(config.n_layers)]
    pieces = [
        reference.llama(params, TOKENS[:, start:stop], config, cache=cache, start=start)
        for start, stop in ((0, 3), (3, 4), (4, 6))
    ]
    expected = reference.llama(params, TOKENS, config)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, rtol=1e-11, atol=1e-12)


def greedy_without_cache(params, prompt: list[int], config: LlamaConfig, n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(reference.llama(params, np.array([tokens]), config)[0, -1].argmax()))
    return tokens[len(prompt) :]


@every_config
def test_generate_equals_repeated_full_passes(config):
    params = draw_params(config)
    assert reference.generate(params, [1, 5, 2], config, 8) == greedy_without_cache(params, [1, 5, 2], config, 8)


def test_generate_stops_before_a_stop_id():
    params = draw_params(BASE)
    free = reference.generate(params, [1, 5, 2], BASE, 8)
    stop = free[3]
    assert reference.generate(params, [1, 5, 2], BASE, 8, stop_ids={stop}) == free[: free.index(stop)]


def test_generate_ends_at_max_seq_len():
    params = draw_params(BASE)
    assert len(reference.generate(params, [1] * 9, BASE, 100)) == 3
    assert reference.generate(params, [1] * 12, BASE, 100) == []
    assert reference.generate(params, [1], BASE, 0) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([1] * 13, "max_seq_len=12"), ([1, 11], r"\[11\].*0 … 10"), ([-1], r"\[-1\]")],
)
def test_generate_refuses_a_bad_prompt(prompt, message):
    with pytest.raises(ValueError, match=message):
        reference.generate(draw_params(BASE), prompt, BASE, 1)


# Training


def test_thirty_steps_of_adamw_lower_the_loss():
    config = preset("tiny", n_layers=2, vocab_size=32)
    params = reference.init_params(config, 0)
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in params.items()}
    batch = np.random.default_rng(6).integers(0, 32, (4, 17))
    losses = []
    for step in range(1, 31):
        loss, gradients = reference.loss_and_gradients(params, batch[:, :-1], batch[:, 1:], config)
        gradients, _ = reference.clip_gradients(gradients, 1.0)
        for name, gradient in gradients.items():
            params[name], *moments[name] = reference.adamw_step(params[name], gradient, *moments[name], step, lr=1e-2)
        losses.append(loss)
    # A new model knows nothing: its loss is that of a uniform guess.
    assert math.isclose(losses[0], math.log(32), rel_tol=0.02)
    assert losses[-1] < losses[0] / 2
