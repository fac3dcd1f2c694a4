"""Rotary settings of the transformers library, in and out."""

import math
import warnings
from typing import Any

from llama_minimal.config import LlamaConfig, RopeScaling

Rope = tuple[float, RopeScaling | None]


def rope_from_huggingface(values: dict[str, Any]) -> Rope:
    """Return the base and the scaling that a ``config.json`` asks for, by the rules of transformers 5.

    ``rope_scaling``, the older name, goes before ``rope_parameters``; nothing of the loser is used.

    Raises:
        ValueError: if the scaling is not known here.
    """
    older, newer = values.get("rope_scaling"), values.get("rope_parameters")
    rope = _read(older or newer or {}, values)
    if older and newer and rope != (other := _read(newer, values)):
        warnings.warn(
            f"config.json has two settings for rotary positions that disagree; as in transformers 5, rope_scaling wins "
            f"(base and scaling {_shown(rope)}) over rope_parameters ({_shown(other)})",
            stacklevel=2,
        )
    return rope


def rope_to_huggingface(config: LlamaConfig) -> dict[str, Any]:
    """Return the fields of a ``config.json`` that say how positions turn, context included."""
    theta, scaling, context = config.rope_theta, config.rope_scaling, config.max_seq_len
    if scaling and scaling.kind == "dynamic" and context <= scaling.original_max_seq_len:
        context = scaling.original_max_seq_len  # from where on the library stretches
    elif scaling and scaling.kind in ("ntk", "dynamic"):  # the same as another base
        theta = theta * scaling.ntk_factor(context) ** (config.head_dim / (config.head_dim - 2))
        scaling = None
    return {
        "max_position_embeddings": context,
        "rope_theta": theta,
        "rope_scaling": _scaling_to_huggingface(scaling) if scaling else None,
    }


def _scaling_to_huggingface(scaling: RopeScaling) -> dict[str, Any]:
    fields = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn"):
        fields["original_max_position_embeddings"] = scaling.original_max_seq_len
    if scaling.kind == "llama3":
        fields |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        fields |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        if scaling.attention_factor is not None:
            fields["attention_factor"] = float(scaling.attention_factor)
    return fields


def _read(rope: Any, values: dict[str, Any]) -> Rope:
    if not isinstance(rope, dict):
        raise ValueError(f"its rotary settings should be an object, not {rope!r}")
    theta = float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"  # "type" in older files
    if kind == "default":
        return theta, None
    if (part := rope.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1) != 1:
        raise ValueError(f"it has partial_rotary_factor={part!r}; only whole heads can be turned here")
    context = values.get("max_position_embeddings") or 2048
    original = values.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or context
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=rope["factor"])
    if kind == "dynamic":  # the library knows no other trained length than this one
        return theta, RopeScaling(kind="dynamic", factor=rope["factor"], original_max_seq_len=context)
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        return theta, RopeScaling(kind="llama3", original_max_seq_len=original, **{name: rope[name] for name in names})
    if kind == "yarn":
        return theta, _yarn(rope, context=context, original=original)
    raise ValueError(
        f"it asks for rotary scaling {kind!r}; known are 'default', 'linear', 'dynamic', 'llama3' and 'yarn'"
    )


def _yarn(rope: dict[str, Any], *, context: int, original: int) -> RopeScaling:
    factor, attention_factor = rope.get("factor"), rope.get("attention_factor")
    factor = context / original if factor is None else factor
    if attention_factor is None and rope.get("mscale") and rope.get("mscale_all_dim"):

        def grown(mscale: float) -> float:  # by how much queries and keys grow
            return 0.1 * mscale * math.log(max(1.0, factor)) + 1.0

        attention_factor = grown(rope["mscale"]) / grown(rope["mscale_all_dim"])
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_seq_len=original,
        attention_factor=attention_factor,
        beta_fast=rope.get("beta_fast") or 32.0,
        beta_slow=rope.get("beta_slow") or 1.0,
        truncate=bool(rope.get("truncate", True)),
    )


def _shown(rope: Rope) -> str:
    theta, scaling = rope
    return f"{theta:g}, {f'{scaling.kind} × {scaling.factor:g}' if scaling else 'none'}"
