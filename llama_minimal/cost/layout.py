"""What a training step is, and over how many processes it is spread: what the planner is asked about."""

# D model width, F ffn width, V vocabulary, L layers

from dataclasses import dataclass
from functools import lru_cache

from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_integer, check_one_of
from llama_minimal.config.splitting import uneven
from llama_minimal.cost.counts import parameters
from llama_minimal.reference.parallel import balance


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Say how many processes there are along each dimension; together they are the product of the three."""

    data: int = 1
    """Processes that read other sequences."""
    tensor: int = 1
    """Processes that share each matrix."""
    pipeline: int = 1
    """Processes that share the layers."""
    shard: bool = False
    """Along ``data``, a slice of weights, gradients and optimizer state on each (FSDP2) instead of a copy."""

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "pipeline"):
            check_integer(name, getattr(self, name))
        check_one_of("shard", self.shard, (True, False))

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.data * self.tensor * self.pipeline

    def __str__(self) -> str:
        sharded = " sharded" if self.shard and self.data > 1 else ""
        return f"{self.data}{sharded} × {self.tensor} × {self.pipeline}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Say what one pipeline of a layout, or one process of it, does in a step."""

    seq_len: int
    """Tokens of a sequence."""
    sequences: int = 1
    """Of one step and one place along ``data``."""
    micro_batch: int | None = None
    """Sequences in memory at once; None: all."""
    precision: str = "bf16"
    """Of the matrix products: ``fp32`` or ``bf16``. Weights, gradients and moments are float32 in both."""
    checkpointing: bool = False
    """Keep each layer's input only, and compute what is inside anew."""
    chunked_loss: bool = True
    """Never hold all logits."""
    wide_attention: bool = False
    """Queries, keys and values in float32 under ``bf16``, as on CPUs without matrix units for it."""
    new_logits: bool = False
    """A chunk's logits in a third array, as where ``products.is_faster`` multiplies."""

    def __post_init__(self) -> None:
        for name in ("seq_len", "sequences"):
            check_integer(name, getattr(self, name))
        check_integer("micro_batch", self.rows)
        check_one_of("precision", self.precision, ("fp32", "bf16"))

    @property
    def rows(self) -> int:
        """Sequences in memory at once."""
        return self.sequences if self.micro_batch is None else min(self.micro_batch, self.sequences)

    @property
    def tokens(self) -> int:
        """Tokens in memory at once: those of a micro-batch."""
        return self.rows * self.seq_len

    @property
    def micro_batches(self) -> int:
        """Parts of a step that pass one after another."""
        return -(-self.sequences // self.rows)

    @property
    def size(self) -> int:
        """Bytes of a number that a matrix reads."""
        return 2 if self.precision == "bf16" else 4

    @property
    def attention_size(self) -> int:
        """Bytes of a number in queries, keys and values."""
        return 4 if self.wide_attention else self.size


def layer_sizes(config: LlamaConfig) -> list[int]:
    """Count the parameters of each layer, embedding and output included in those at the ends."""
    n = parameters(config)
    n_blocks = config.n_layers // config.share_layers
    sizes = [(n["attention"] + n["feed-forward"] + n["norms"]) // n_blocks] * config.n_layers
    sizes[0] += n["embeddings"]
    sizes[-1] += n["embeddings"]  # the output has as many, its own or shared ones
    return sizes


@lru_cache
def stage_layers(config: LlamaConfig, n_stages: int) -> tuple[int, ...]:
    """Return how many layers each stage of a pipeline gets: stages of about as many parameters."""
    return tuple(balance(layer_sizes(config), n_stages))


def why_not(config: LlamaConfig, layout: Layout) -> str | None:
    """Return why a model cannot be laid out so, or None if it can."""
    if left := uneven(config, layout.tensor):
        return f"tensor={layout.tensor} does not divide {left}"
    if layout.pipeline > config.n_layers:
        return f"pipeline={layout.pipeline} is more than the {config.n_layers} layers"
    if layout.tensor > config.vocab_size:
        return f"tensor={layout.tensor} is more than the {config.vocab_size} tokens of the vocabulary"
    return None
