"""Many processes in one: what each would store, compute and send, as lists with an entry for each rank."""

from llama_minimal.reference.parallel.collectives import Collective, all_gather, all_reduce, reduce_scatter
from llama_minimal.reference.parallel.zero import ZeroRanks, zero_memory, zero_traffic

__all__ = [
    "Collective",
    "ZeroRanks",
    "all_gather",
    "all_reduce",
    "reduce_scatter",
    "zero_memory",
    "zero_traffic",
]
