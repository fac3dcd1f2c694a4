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
from llama_minimal.cost.loss_arrays import chunk_rows
from llama_minimal.cost.machines import MACHINES, Machine, machine
from llama_minimal.cost.peak import Moment, moments, peak, shares
from llama_minimal.cost.planner import USABLE, Plan, layouts, plans, seconds_per_step
from llama_minimal.cost.serving import Serving, serving, weight_bytes
from llama_minimal.cost.traffic import traffic

__all__ = [
    "MACHINES",
    "USABLE",
    "Layout",
    "Machine",
    "Memory",
    "Moment",
    "Plan",
    "RankMemory",
    "Serving",
    "Work",
    "chunk_rows",
    "flops_per_token",
    "layer_activations",
    "layer_keeps",
    "layer_sizes",
    "layouts",
    "machine",
    "memory",
    "moments",
    "parameters",
    "peak",
    "plans",
    "seconds_per_step",
    "serving",
    "shares",
    "stage_layers",
    "traffic",
    "training_memory",
    "weight_bytes",
    "why_not",
]
