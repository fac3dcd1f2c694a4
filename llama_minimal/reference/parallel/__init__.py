"""Training on several processes, played through in one: lists of arrays, one per rank, and timelines.

Nothing here starts a process. What would travel between processes is passed in lists, so that every step can
be printed, counted and compared with the whole computation.
"""

from llama_minimal.reference.parallel.pipeline import Timeline, balance, interleaved_order, order, simulate

__all__ = [
    "Timeline",
    "balance",
    "interleaved_order",
    "order",
    "simulate",
]
