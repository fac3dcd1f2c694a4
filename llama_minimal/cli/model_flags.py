"""The flags that change a preset's shape."""

from dataclasses import asdict, dataclass

from llama_minimal.config import Bias, FeedForwardKind, LlamaConfig, Norm, NormPlacement, Position, preset


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Changes to the preset; what is left out stays as it is."""

    dim: int | None = None
    """Model width."""
    n_layers: int | None = None
    """Number of blocks."""
    n_heads: int | None = None
    """Query heads."""
    n_kv_heads: int | None = None
    """Key/value heads: as many as query heads (MHA), fewer (GQA) or one (MQA)."""
    head_dim: int | None = None
    """Width of a head; left out: width of the model / query heads."""
    hidden_dim: int | None = None
    """Width of the feed-forward."""
    max_seq_len: int | None = None
    """Longest context in tokens."""
    norm: Norm | None = None
    """Kind of norm."""
    norm_placement: NormPlacement | None = None
    """Norm before (pre) or after (post) each sublayer."""
    ffn: FeedForwardKind | None = None
    """Kind of feed-forward."""
    position: Position | None = None
    """Kind of positions."""
    bias: Bias | None = None
    """Biases in all linear layers but the last, or in one part alone."""
    tie_embeddings: bool | None = None
    """One matrix for embedding and output."""
    share_layers: int | None = None
    """How many neighboring layers are one."""

    def apply_to(self, name: str, *, vocab_size: int) -> LlamaConfig:
        """Return the named preset with these changes."""
        changes = {field: value for field, value in asdict(self).items() if value is not None}
        # What a preset derives from its width follows the new one.
        if "dim" in changes:
            changes.setdefault("hidden_dim", None)
        if "n_heads" in changes:
            changes.setdefault("n_kv_heads", None)
        return preset(name, vocab_size=vocab_size, **changes)
