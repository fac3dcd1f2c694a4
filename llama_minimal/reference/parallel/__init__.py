"""Training on several processes, played through in one: lists of arrays, one per rank, and timelines.

Nothing here starts a process. What would travel between processes is passed in lists, so that every step can
be printed, counted and compared with the whole computation.
"""

from llama_minimal.reference.parallel.collectives import Collective, all_gather, all_reduce, reduce_scatter
from llama_minimal.reference.parallel.pipeline import Timeline, balance, interleaved_order, order, simulate
from llama_minimal.reference.parallel.zero import ZeroRanks, zero_memory, zero_traffic

__all__ = [
    "Collective",
    "Timeline",
    "ZeroRanks",
    "all_gather",
    "all_reduce",
    "balance",
    "interleaved_order",
    "order",
    "reduce_scatter",
    "simulate",
    "zero_memory",
    "zero_traffic",
]
