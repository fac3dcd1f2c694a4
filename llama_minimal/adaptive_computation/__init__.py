"""Adaptive computation: as much work for a token as it needs."""

from llama_minimal.adaptive_computation.rule import (
    acceptance_probability,
    expected_speedup,
    expected_tokens,
    residual_distribution,
)
from llama_minimal.adaptive_computation.speculative import ModelDraft, PromptLookup, look_up

__all__ = [
    "ModelDraft",
    "PromptLookup",
    "acceptance_probability",
    "expected_speedup",
    "expected_tokens",
    "look_up",
    "residual_distribution",
]
