"""The ``config.json`` of the transformers library, in and out."""

from typing import Any

from llama_minimal.config import LlamaConfig, RopeScaling

_SAME = {  # their config field: ours
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "vocab_size": "vocab_size",
    "intermediate_size": "hidden_dim",
    "max_position_embeddings": "max_seq_len",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
}


def config_from_huggingface(values: dict[str, Any]) -> LlamaConfig:
    """Translate a ``config.json`` of the transformers library.

    Raises:
        ValueError: if it is no LLaMA, or uses what we do not have.
    """
    if values.get("model_type") != "llama":
        raise ValueError(f"it describes a {values.get('model_type')!r} model; only 'llama' models can be loaded")
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [name for name in needed if values.get(name) is None]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"its rotary settings should be an object, not {rope!r}")
    config = LlamaConfig(
        **{"norm_eps": 1e-6}  # their default, where ours is 1e-5
        | {ours: values[theirs] for theirs, ours in _SAME.items() if values.get(theirs) is not None},
        rope_theta=float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
        rope_scaling=_scaling_from(rope),
        bias=bool(values.get("attention_bias", False)),
    )
    unsupported = {
        "hidden_act": (values.get("hidden_act", "silu"), "silu"),
        "mlp_bias": (bool(values.get("mlp_bias", False)), config.bias),
        "head_dim": (values.get("head_dim") or config.head_dim, config.head_dim),
        "quantization_config": (values.get("quantization_config"), None),
    }
    for name, (value, needed) in unsupported.items():
        if value != needed:
            raise ValueError(f"it has {name}={value!r}; only {needed!r} can be loaded here")
    return config


def config_to_huggingface(config: LlamaConfig) -> dict[str, Any]:
    """Translate to a ``config.json`` of the transformers library.

    Raises:
        ValueError: if a switch has a value that its LLaMA does not know.
    """
    if other := not_expressible(config):
        raise ValueError(f"the transformers library's LLaMA has no {', '.join(other)}; save with format='native'")
    theta, scaling = config.rope_theta, config.rope_scaling
    if scaling and scaling.kind == "ntk":  # the same as another base
        theta, scaling = theta * scaling.factor ** (config.head_dim / (config.head_dim - 2)), None
    rope_scaling = None
    if scaling:
        rope_scaling = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling and scaling.kind == "llama3":
        rope_scaling |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **{theirs: getattr(config, ours) for theirs, ours in _SAME.items()},
        "rope_theta": theta,
        "rope_scaling": rope_scaling,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
    }


def not_expressible(config: LlamaConfig) -> list[str]:
    """Return the switches whose value the LLaMA of transformers (and Meta's) does not know, as ``name=value``."""
    known = {"norm": "rms", "norm_placement": "pre", "ffn": "swiglu", "position": "rope", "share_layers": 1}
    return [f"{name}={getattr(config, name)!r}" for name, value in known.items() if getattr(config, name) != value]


def _scaling_from(values: dict[str, Any]) -> RopeScaling | None:
    kind = values.get("rope_type", values.get("type", "default"))  # "type" in older files
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=values["factor"])
    if kind == "llama3":
        return RopeScaling(
            kind="llama3",
            factor=values["factor"],
            low_freq_factor=values["low_freq_factor"],
            high_freq_factor=values["high_freq_factor"],
            original_max_seq_len=values["original_max_position_embeddings"],
        )
    raise ValueError(f"it asks for rotary scaling {kind!r}; known are 'default', 'linear' and 'llama3'")
