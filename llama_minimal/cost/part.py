"""One process's part of a model: how many parameters it holds, gathers and casts."""

# D model width, F ffn width, V vocabulary, L layers, P processes along ``tensor``

from dataclasses import dataclass
from functools import lru_cache

from llama_minimal.config import LlamaConfig
from llama_minimal.cost.counts import parameters
from llama_minimal.cost.kept import stream_size
from llama_minimal.cost.layout import Layout, Work

_counts = lru_cache(parameters)


@dataclass(frozen=True)
class Part:
    """Hold a process's place in a layout, and what follows from it."""

    config: LlamaConfig
    work: Work
    layout: Layout
    stage: int
    layers: int
    """Of this stage."""

    @property
    def is_last(self) -> bool:
        """Whether it computes the loss."""
        return self.stage == self.layout.pipeline - 1

    @property
    def is_sharded(self) -> bool:
        """Whether it holds slices of parameters along ``data``."""
        return self.layout.shard and self.layout.data > 1

    @property
    def is_replica(self) -> bool:
        """Whether it holds a whole copy, whose gradients ``DistributedDataParallel`` averages."""
        return not self.layout.shard and self.layout.data == self.layout.size

    @property
    def vocab(self) -> int:
        """Rows of the embedding and of the output that it holds."""
        return -(-self.config.vocab_size // self.layout.tensor)

    @property
    def of_matrices(self) -> float:
        """Parameters of a layer's matrices."""
        n = _counts(self.config)
        return (n["attention"] + n["feed-forward"]) / self.config.n_layers / self.layout.tensor

    @property
    def of_layer(self) -> float:
        """Parameters of a layer."""
        return self.of_matrices + 2 * self.config.dim

    @property
    def of_ends(self) -> float:
        """Parameters of the embedding, and of the last norm and the output, where it has them."""
        table, is_tied = self.vocab * self.config.dim, self.config.tie_embeddings
        last = self.config.dim + (0 if is_tied and self.stage == 0 else table)
        return (table if self.stage == 0 else 0) + (last if self.is_last else 0)

    @property
    def whole(self) -> float:
        """Parameters of its stage, before they are sharded."""
        return self.layers * self.of_layer + self.of_ends

    @property
    def shards(self) -> int:
        """Processes along ``data`` that share each parameter."""
        return self.layout.data if self.is_sharded else 1

    @property
    def held(self) -> float:
        """Parameters that it holds between steps."""
        return self.whole / self.shards

    @property
    def largest(self) -> float:
        """Entries of its largest parameter."""
        table = self.vocab * self.config.dim if self.of_ends else 0
        return max(table, self.config.dim * self.config.hidden_dim / self.layout.tensor) / self.shards

    @property
    def buckets(self) -> float:
        """Bytes of the buckets in which gradients travel where each process has a whole copy."""
        return 4 * self.whole if self.layout.data > 1 and self.is_replica else 0.0

    @property
    def accumulates(self) -> bool:
        """Whether gradients of earlier micro-batches are there at the fullest moment."""
        return self.work.micro_batches > 1

    @property
    def accumulated(self) -> float:
        """Gradients of earlier micro-batches; FSDP exchanges them with the last, and has whole ones until then."""
        return self.whole if self.accumulates else 0.0

    @property
    def in_flight(self) -> int:
        """Micro-batches that are forth and not yet back, under 1F1B."""
        return min(self.layout.pipeline - self.stage, self.work.micro_batches)

    @property
    def stream(self) -> float:
        """Bytes of a token in the residual stream."""
        return stream_size(self.work, self.layout) * self.config.dim / self.layout.tensor

    @property
    def input_kept(self) -> float:
        """Bytes of a token that a checkpoint and the first norm keep as one."""
        return self.stream if stream_size(self.work, self.layout) == 4 else 0.0

    @property
    def tables(self) -> float:
        """Bytes of cosines and sines, of all positions and of those of the sequence."""
        return 4.0 * self.config.head_dim * (self.config.max_seq_len + self.work.seq_len)

    @property
    def rotations(self) -> float:
        """Bytes that a layer keeps of cosines and sines, once for all sequences: for queries and keys, complex."""
        return 2 * 4.0 * self.config.head_dim * self.work.seq_len

    def casts(self, layers: int) -> float:
        """Bytes of the copies of weights in 16 bits that autocast makes for so many layers."""
        if self.work.size == 4 or self.is_sharded:
            return 0.0
        return self.work.size * layers * self.of_matrices

    def gathered(self, *, layers: int) -> float:
        """Bytes of whole parameters that FSDP holds: of the ends, and of so many layers; a pipeline's stay."""
        if not self.is_sharded:
            return 0.0
        layers = self.layers if self.layout.pipeline > 1 else layers
        return self.work.size * (self.of_ends + layers * self.of_layer)

    @property
    def on_its_way(self) -> float:
        """Bytes of the buffer in which FSDP gathers a layer's parameters."""
        return self.work.size * self.of_layer if self.is_sharded else 0.0

    @property
    def scattered(self) -> float:
        """Bytes of the buffer, in float32, from which FSDP scatters the sums of a layer's gradients."""
        return 4 * self.of_layer if self.is_sharded else 0.0

    def new_gradients(self, layers_done: int) -> float:
        """Bytes of this micro-batch's gradients when so many layers are done, and the output before them."""
        if self.accumulates:
            return 0.0
        head = 4.0 * self.vocab * self.config.dim if self.is_last else 0.0
        return head + 4 * layers_done * self.of_layer / self.shards
