"""The shape of a LLaMA: one frozen dataclass, checked once, and the published sizes.

Field names are those of Meta's ``params.json``. Everything else in the package trusts a ``LlamaConfig``.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

Norm = Literal["rms", "layer"]
NormPlacement = Literal["pre", "post"]
FeedForwardKind = Literal["swiglu", "gelu", "relu"]
Position = Literal["rope", "sinusoidal", "none"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Say how rotary frequencies are stretched for a context longer than the trained one.

    ``linear`` divides every frequency by ``factor`` (position interpolation, Chen et al. 2023, §3).
    ``ntk`` raises the base to θ·factor^(Dh/(Dh−2)), so that only low frequencies are stretched.
    ``llama3`` keeps wavelengths below ``original_max_seq_len / high_freq_factor``, divides those above
    ``original_max_seq_len / low_freq_factor`` and blends in between (Llama 3.1's released code).
    """

    kind: Literal["linear", "ntk", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192

    def __post_init__(self) -> None:
        _one_of("rope_scaling.kind", self.kind, ("linear", "ntk", "llama3"))
        _number("rope_scaling.factor", self.factor, at_least=1.0)
        _integer("rope_scaling.original_max_seq_len", self.original_max_seq_len)
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"rope_scaling has low_freq_factor={self.low_freq_factor} and "
                f"high_freq_factor={self.high_freq_factor}; need 0 < low < high (Llama 3.1 uses 1 and 4)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Describe a LLaMA completely: sizes, and the closed switches that the course compares.

    The defaults of the switches are LLaMA's own. ``n_kv_heads`` left out means one per query head;
    ``hidden_dim`` left out means two thirds of 4·dim, rounded up to a multiple of 256 (LLaMA, §2.2).

    Raises:
        ValueError: if the sizes do not fit each other; the message says which values would.

    Example:
        >>> LlamaConfig(dim=4096, n_layers=32, n_heads=32, vocab_size=32000).hidden_dim
        11008
    """

    dim: int
    n_layers: int
    n_heads: int
    vocab_size: int
    n_kv_heads: int | None = None
    hidden_dim: int | None = None
    max_seq_len: int = 2048
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm: Norm = "rms"
    norm_placement: NormPlacement = "pre"
    ffn: FeedForwardKind = "swiglu"
    position: Position = "rope"
    bias: bool = False
    tie_embeddings: bool = False
    share_layers: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "vocab_size", "max_seq_len", "share_layers"):
            _integer(name, getattr(self, name))
        # A frozen dataclass fills in its derived fields once, here.
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.hidden_dim is None:
            object.__setattr__(self, "hidden_dim", ffn_width(self.dim))
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", _rope_scaling(self.rope_scaling))
        if not isinstance(self.rope_scaling, RopeScaling | None):
            raise ValueError(f"rope_scaling={self.rope_scaling!r} must be a RopeScaling or None")
        _integer("n_kv_heads", self.n_kv_heads)
        _integer("hidden_dim", self.hidden_dim)
        _number("norm_eps", self.norm_eps, at_least=0.0)
        _number("rope_theta", self.rope_theta, at_least=1.0)
        for name, kind in (
            ("norm", Norm),
            ("norm_placement", NormPlacement),
            ("ffn", FeedForwardKind),
            ("position", Position),
        ):
            _one_of(name, getattr(self, name), get_args(kind))
        for name in ("bias", "tie_embeddings"):
            _one_of(name, getattr(self, name), (True, False))
        self._check_divisibility()

    def _check_divisibility(self) -> None:
        _divides("n_heads", self.n_heads, "dim", self.dim)
        _divides("n_kv_heads", self.n_kv_heads, "n_heads", self.n_heads)
        _divides("share_layers", self.share_layers, "n_layers", self.n_layers)
        even = {"rope": self.head_dim, "sinusoidal": self.dim}.get(self.position, 0)
        if even % 2:
            raise ValueError(
                f"position={self.position!r} turns features in pairs, but dim={self.dim} with "
                f"n_heads={self.n_heads} gives an odd width of {even}; choose sizes that make it even"
            )
        if self.rope_scaling and self.rope_scaling.kind == "ntk" and self.head_dim < 4:
            raise ValueError(f"rope_scaling 'ntk' needs a head width of 4 or more, not {self.head_dim}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head, Dh = dim / n_heads."""
        return self.dim // self.n_heads

    def replace(self, **changes: Any) -> "LlamaConfig":
        """Return a copy with some fields changed, checked again."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``from_dict`` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LlamaConfig":
        """Build a config from ``to_dict``'s values.

        Raises:
            ValueError: if a field is unknown or missing, or the sizes do not fit each other.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown config fields {unknown}; known are {sorted(known)}")
        if missing := sorted({"dim", "n_layers", "n_heads", "vocab_size"} - set(values)):
            raise ValueError(f"the config lacks {missing}")
        return cls(**values)


def ffn_width(dim: int, *, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    """Return Meta's SwiGLU width: ⌊multiplier · ⌊2/3 · 4·dim⌋⌋, rounded up to a multiple.

    Two thirds, because SwiGLU has three matrices where a plain feed-forward has two (LLaMA, §2.2).
    """
    width = int(multiplier * int(2 * 4 * dim / 3))
    return multiple_of * -(-width // multiple_of)


def preset(name: str, **changes: Any) -> LlamaConfig:
    """Return a known configuration by name, with some fields changed if asked.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.

    Example:
        >>> preset("llama-7b").n_layers
        32
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name].replace(**changes) if changes else PRESETS[name]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ValueError: if the file is not UTF-8 JSON or holds something other than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); is the file damaged?") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def _rope_scaling(values: dict[str, Any]) -> RopeScaling:
    try:
        return RopeScaling(**values)
    except TypeError:
        known = [field.name for field in fields(RopeScaling)]
        raise ValueError(f"rope_scaling={values!r} must have kind and factor; its fields are {known}") from None


def _integer(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def _number(name: str, value: Any, *, at_least: float) -> None:
    # "not >=" also refuses NaN, for which every comparison is false.
    if not isinstance(value, int | float) or isinstance(value, bool) or not at_least <= value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a finite number of at least {at_least:g}")


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def _divides(part_name: str, part: int, whole_name: str, whole: int) -> None:
    if whole % part:
        near = [n for n in range(1, whole + 1) if whole % n == 0]
        near = sorted(sorted(near, key=lambda n: abs(n - part))[:3])
        raise ValueError(
            f"{whole_name}={whole} is not divisible by {part_name}={part}; "
            f"use {part_name} {', '.join(map(str, near[:-1]))}{' or ' if near[1:] else ''}{near[-1]}"
        )


def _llama(dim: int, n_layers: int, n_heads: int, **values: Any) -> LlamaConfig:
    return LlamaConfig(dim=dim, n_layers=n_layers, n_heads=n_heads, **{"vocab_size": 32_000, **values})


_LLAMA2 = {"max_seq_len": 4096}
_LLAMA3 = {"vocab_size": 128_256, "n_kv_heads": 8, "rope_theta": 500_000.0, "max_seq_len": 8192}
_LLAMA31 = _LLAMA3 | {"max_seq_len": 131_072, "rope_scaling": RopeScaling(kind="llama3", factor=8.0)}
_LLAMA32 = _LLAMA31 | {"rope_scaling": RopeScaling(kind="llama3", factor=32.0), "tie_embeddings": True}

# LLaMA: Touvron et al. 2023, table 2 (sizes). The others: the config files released with each model.
PRESETS: dict[str, LlamaConfig] = {
    "llama-7b": _llama(4096, 32, 32, norm_eps=1e-6),
    "llama-13b": _llama(5120, 40, 40, norm_eps=1e-6),
    "llama-30b": _llama(6656, 60, 52, norm_eps=1e-6),
    "llama-65b": _llama(8192, 80, 64, norm_eps=1e-5),
    "llama2-7b": _llama(4096, 32, 32, **_LLAMA2),
    "llama2-13b": _llama(5120, 40, 40, **_LLAMA2),
    "llama2-70b": _llama(8192, 80, 64, n_kv_heads=8, hidden_dim=28_672, **_LLAMA2),
    "llama3-8b": _llama(4096, 32, 32, hidden_dim=14_336, **_LLAMA3),
    "llama3-70b": _llama(8192, 80, 64, hidden_dim=28_672, **_LLAMA3),
    "llama3.1-8b": _llama(4096, 32, 32, hidden_dim=14_336, **_LLAMA31),
    "llama3.1-70b": _llama(8192, 80, 64, hidden_dim=28_672, **_LLAMA31),
    "llama3.2-1b": _llama(2048, 16, 32, hidden_dim=8192, **_LLAMA32),
    "llama3.2-3b": _llama(3072, 28, 24, hidden_dim=8192, **_LLAMA32),
    # Small ones for lessons; "course" is shipped trained. The stories-* shapes are those of llama2.c (Karpathy 2023).
    "stories-15m": _llama(288, 6, 6, hidden_dim=768, max_seq_len=256, tie_embeddings=True),
    "stories-42m": _llama(512, 8, 8, hidden_dim=1376, max_seq_len=1024, tie_embeddings=True),
    "stories-110m": _llama(768, 12, 12, hidden_dim=2048, max_seq_len=1024, tie_embeddings=True),
    "tiny": _llama(64, 4, 4, n_kv_heads=2, vocab_size=512, hidden_dim=176, max_seq_len=256),
    "small": _llama(128, 4, 4, n_kv_heads=2, vocab_size=1024, hidden_dim=352, max_seq_len=256),
    "course": _llama(256, 4, 8, n_kv_heads=2, vocab_size=2048, hidden_dim=688, max_seq_len=512, tie_embeddings=True),
}
