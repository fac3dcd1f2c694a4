"""Many processes in one: what each would store, compute and send, as lists with an entry for each rank.

Nothing here starts a process, so that every step can be printed, counted and compared with the whole computation.
"""

from llama_minimal.reference.parallel.collectives import Collective, all_gather, all_reduce, reduce_scatter
from llama_minimal.reference.parallel.pipeline import Step, Timeline, balance, interleaved_order, order, simulate
from llama_minimal.reference.parallel.tensor import (
    PLAN,
    column_linear_vjp,
    copy_vjp,
    cut,
    gather_vjp,
    local_config,
    parallel_attention_vjp,
    parallel_feed_forward_vjp,
    reduce_vjp,
    row_linear_vjp,
    scatter_vjp,
    sequence_norm_vjp,
    shard,
)
from llama_minimal.reference.parallel.vocabulary import parallel_loss_vjp, vocabulary_embedding_vjp
from llama_minimal.reference.parallel.zero import ZeroRanks, zero_memory, zero_traffic

__all__ = [
    "PLAN",
    "Collective",
    "Step",
    "Timeline",
    "ZeroRanks",
    "all_gather",
    "all_reduce",
    "balance",
    "column_linear_vjp",
    "copy_vjp",
    "cut",
    "gather_vjp",
    "interleaved_order",
    "local_config",
    "order",
    "parallel_attention_vjp",
    "parallel_feed_forward_vjp",
    "parallel_loss_vjp",
    "reduce_scatter",
    "reduce_vjp",
    "row_linear_vjp",
    "scatter_vjp",
    "sequence_norm_vjp",
    "shard",
    "simulate",
    "vocabulary_embedding_vjp",
    "zero_memory",
    "zero_traffic",
]
