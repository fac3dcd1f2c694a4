"""The shape of a LLaMA: one frozen dataclass, checked once, and the published sizes.

Field names are those of Meta's ``params.json``. Everything else in the package trusts a ``LlamaConfig``.
"""

from llama_minimal.config.json_file import read_json
from llama_minimal.config.presets import PRESETS, preset
from llama_minimal.config.rope_scaling import RopeScaling
from llama_minimal.config.shape import (
    Bias,
    FeedForwardKind,
    LlamaConfig,
    Norm,
    NormPlacement,
    Position,
    Precision,
    ffn_width,
)

__all__ = [
    "PRESETS",
    "Bias",
    "FeedForwardKind",
    "LlamaConfig",
    "Norm",
    "NormPlacement",
    "Position",
    "Precision",
    "RopeScaling",
    "ffn_width",
    "preset",
    "read_json",
]
