"""What it takes to write text: bytes of weights and cache, and the least time of a token."""

# D model width, V vocabulary, B texts at a time

from dataclasses import dataclass

from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_integer, check_one_of
from llama_minimal.cost.counts import flops_per_token, parameters
from llama_minimal.cost.layout import Layout, why_not
from llama_minimal.cost.machines import Machine
from llama_minimal.cost.planner import USABLE

_BYTES = {"fp32": 4, "bf16": 2}
_GROUP = 32  # numbers of a row that share a grid in int4
FORMATS = ("fp32", "bf16", "int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Hold what a process that writes text needs, and how fast it can be at most."""

    weights: float
    """Bytes."""
    cache: float
    """Bytes of keys and values of all texts at full length."""
    fits: bool
    seconds: float
    """Of one token of each text, at least: everything is read once, and the products done."""
    tokens_per_second: float
    """Of all texts together, at most."""
    limit: str
    """Which of the two takes longer: ``bandwidth`` or ``arithmetic``."""


def weight_bytes(config: LlamaConfig, form: str = "bf16") -> float:
    """Return the bytes of all weights in a format.

    Quantized, each row of a matrix has a step, 2 bytes, and in int4 each 32 numbers a step and an offset, 2 + 2. The
    embedding is quantized as the layers and the output are; the norms stay in bfloat16.
    """
    check_one_of("format", form, FORMATS)
    n = parameters(config)
    if form in _BYTES:
        return float(_BYTES[form] * sum(n.values()))
    matrices = sum(n.values()) - n["norms"]
    if form == "int4":
        return 2 * n["norms"] + matrices * (0.5 + 4 / _GROUP)
    q, k = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    ways_in = 2 if config.ffn == "swiglu" else 1
    rows = config.n_layers // config.share_layers * (q + 2 * k + 2 * config.dim + ways_in * config.hidden_dim)
    rows += config.vocab_size + (config.n_outputs if n["output"] else 0)
    return 2 * n["norms"] + matrices + 2.0 * rows


def serving(
    config: LlamaConfig,
    machine: Machine,
    *,
    batch: int = 1,
    context: int | None = None,
    form: str = "bf16",
    cache_form: str = "bf16",
    tensor: int = 1,
) -> Serving:
    """Return what each of ``tensor`` GPUs needs to write ``batch`` texts of ``context`` tokens, and the least time.

    A step reads all weights and the whole cache once, and does two operations for each weight and text. Neither
    reading nor computing can be faster than the machine; so a real step takes longer than both.

    Raises:
        ValueError: if a number is out of range, or heads cannot be shared out.
    """
    for name, value in (("batch", batch), ("context", context or config.max_seq_len), ("tensor", tensor)):
        check_integer(name, value)
    check_one_of("cache_form", cache_form, ("fp32", "bf16", "int8"))
    if reason := why_not(config, Layout(tensor=tensor)):
        raise ValueError(f"{reason}; give another number of GPUs")
    context = context or config.max_seq_len
    of_number = 1 + 2 / config.head_dim if cache_form == "int8" else _BYTES[cache_form]
    cache = 2 * config.n_layers * config.n_kv_heads * config.head_dim * context * batch * of_number / tensor
    weights = weight_bytes(config, form) / tensor
    reading = (weights + cache) / machine.bandwidth
    computing = batch * sum(flops_per_token(config, context=context).values()) / tensor / machine.flops
    return Serving(
        weights=weights,
        cache=cache,
        fits=weights + cache <= USABLE * machine.memory,
        seconds=max(reading, computing),
        tokens_per_second=batch / max(reading, computing),
        limit="bandwidth" if reading >= computing else "arithmetic",
    )
