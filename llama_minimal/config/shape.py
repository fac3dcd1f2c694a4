"""One frozen dataclass that describes a LLaMA, checked once."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from llama_minimal.config.checks import check_divides, check_integer, check_number, check_one_of, settle
from llama_minimal.config.rope_scaling import RopeScaling

Norm = Literal["rms", "layer"]
NormPlacement = Literal["pre", "post"]
FeedForwardKind = Literal["swiglu", "gelu", "relu"]
Position = Literal["rope", "sinusoidal", "none"]
Bias = bool | Literal["attention", "feed_forward"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Describe a LLaMA completely: sizes, and the closed switches that the course compares.

    The defaults of the switches are LLaMA's own. ``n_kv_heads`` left out means one per query head;
    ``hidden_dim`` left out means two thirds of 4·dim (LLaMA, §2.2), rounded up to a multiple of 256 (the
    released code); ``head_dim`` left out means dim / n_heads. ``bias`` is True for all linear layers but the
    last, or names the part that has biases. With ``labels``, the output layer tells these apart instead of tokens.

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
    bias: Bias = False
    tie_embeddings: bool = False
    share_layers: int = 1
    head_dim: int | None = None
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "vocab_size", "max_seq_len", "share_layers"):
            settle(self, name, check_integer(name, getattr(self, name)))
        self._fill_in()
        if not isinstance(self.rope_scaling, RopeScaling | None):
            raise ValueError(f"rope_scaling={self.rope_scaling!r} must be a RopeScaling or None")
        for name in ("n_kv_heads", "hidden_dim", "head_dim"):
            settle(self, name, check_integer(name, getattr(self, name)))
        for name, least in (("norm_eps", 0.0), ("rope_theta", 1.0)):
            settle(self, name, check_number(name, getattr(self, name), at_least=least))
        for name, allowed in (
            ("norm", get_args(Norm)),
            ("norm_placement", get_args(NormPlacement)),
            ("ffn", get_args(FeedForwardKind)),
            ("position", get_args(Position)),
            ("bias", (True, False, "attention", "feed_forward")),
            ("tie_embeddings", (True, False)),
        ):
            check_one_of(name, getattr(self, name), allowed)
        check_divides("n_kv_heads", self.n_kv_heads, "n_heads", self.n_heads)
        check_divides("share_layers", self.share_layers, "n_layers", self.n_layers)
        self._check_positions()
        if self.labels is not None:
            settle(self, "labels", _checked_labels(self.labels))
            if self.tie_embeddings:
                raise ValueError("an output layer for labels is not the embedding of tokens; set tie_embeddings=False")

    def _fill_in(self) -> None:
        # A frozen dataclass fills in its derived fields once, here.
        if self.n_kv_heads is None:
            settle(self, "n_kv_heads", self.n_heads)
        if self.hidden_dim is None:
            settle(self, "hidden_dim", ffn_width(self.dim))
        if self.head_dim is None:
            check_divides("n_heads", self.n_heads, "dim", self.dim)
            settle(self, "head_dim", self.dim // self.n_heads)
        if isinstance(self.rope_scaling, dict):
            settle(self, "rope_scaling", RopeScaling.from_dict(self.rope_scaling))

    def _check_positions(self) -> None:
        even = {"rope": self.head_dim, "sinusoidal": self.dim}.get(self.position, 0)
        if even % 2:
            raise ValueError(
                f"position={self.position!r} turns features in pairs, but dim={self.dim}, n_heads={self.n_heads} and "
                f"head_dim={self.head_dim} give an odd width of {even}; choose sizes that make it even"
            )
        kind = self.rope_scaling.kind if self.rope_scaling else None
        if kind in ("ntk", "dynamic") and self.head_dim < 4:
            raise ValueError(f"rope_scaling {kind!r} needs a head width of 4 or more, not {self.head_dim}")
        if kind == "yarn" and self.rope_theta <= 1:
            raise ValueError(f"rope_scaling 'yarn' needs a rope_theta of more than 1, not {self.rope_theta:g}")

    def __repr__(self) -> str:
        usual = {"head_dim": self._head_dim_follows, "labels": self.labels is None}
        shown = [field.name for field in fields(self) if not usual.get(field.name)]
        return f"LlamaConfig({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def _head_dim_follows(self) -> bool:
        return self.head_dim * self.n_heads == self.dim

    @property
    def n_outputs(self) -> int:
        """How many numbers the output layer gives for each token: one a token id, or one a label."""
        return len(self.labels) if self.labels else self.vocab_size

    @property
    def attention_bias(self) -> bool:
        """Whether the four matrices of attention have biases."""
        return self.bias in (True, "attention")

    @property
    def ffn_bias(self) -> bool:
        """Whether the matrices of the feed-forward have biases."""
        return self.bias in (True, "feed_forward")

    def replace(self, **changes: Any) -> "LlamaConfig":
        """Return a copy with some fields changed, checked again; a usual ``head_dim`` follows ``dim / n_heads``."""
        if self._head_dim_follows:
            changes = {"head_dim": None} | changes
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


def _checked_labels(labels: Any) -> tuple[str, ...]:
    given = tuple(labels) if isinstance(labels, tuple | list) else ()
    if len(given) < 2 or len(set(given)) < len(given) or not all(isinstance(one, str) and one for one in given):
        raise ValueError(f"labels={labels!r} must be two or more different texts, such as ('bad', 'good')")
    return given


def ffn_width(dim: int, *, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    """Return Meta's SwiGLU width: ⌊multiplier · ⌊2/3 · 4·dim⌋⌋, rounded up to a multiple.

    Two thirds, because SwiGLU has three matrices where a plain feed-forward has two (LLaMA, §2.2). The multiple is
    that of the released code.
    """
    width = int(multiplier * int(2 * 4 * dim / 3))
    return multiple_of * -(-width // multiple_of)
