"""Low-rank adaptation (LoRA): small trained matrices beside frozen large ones, in sets that go by a name.

Adapters are applied to a whole model, before it is parallelized; the names of its own weights stay as they are.
"""

from llama_minimal.lora.adapters import (
    active_adapters,
    adapted_layers,
    adapter_tensors,
    adapters,
    add_adapter,
    base_tensors,
    disabled,
    find_targets,
    is_merged,
    refuse_adapters,
    remove_adapter,
    set_active,
)
from llama_minimal.lora.config import LoRAConfig
from llama_minimal.lora.layer import lora_update
from llama_minimal.lora.merging import merge, merge_and_unload, unmerge

__all__ = [
    "LoRAConfig",
    "active_adapters",
    "adapted_layers",
    "adapter_tensors",
    "adapters",
    "add_adapter",
    "base_tensors",
    "disabled",
    "find_targets",
    "is_merged",
    "lora_update",
    "merge",
    "merge_and_unload",
    "refuse_adapters",
    "remove_adapter",
    "set_active",
    "unmerge",
]
