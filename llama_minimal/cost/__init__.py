"""What a LLaMA costs, from its config alone: parameters, arithmetic, memory; and where and how it can be trained."""

from llama_minimal.cost.counts import (
    Memory,
    RankMemory,
    flops_per_token,
    layer_activations,
    memory,
    parameters,
    training_memory,
)
from llama_minimal.cost.kept import layer_keeps
from llama_minimal.cost.layout import Layout, Work, layer_sizes, stage_layers, why_not
from llama_minimal.cost.peak import Moment, moments, peak, shares

__all__ = [
    "Layout",
    "Memory",
    "Moment",
    "RankMemory",
    "Work",
    "flops_per_token",
    "layer_activations",
    "layer_keeps",
    "layer_sizes",
    "memory",
    "moments",
    "parameters",
    "peak",
    "shares",
    "stage_layers",
    "training_memory",
    "why_not",
]
