"""Adaptive computation: as much work for a token as it needs."""

from llama_minimal.adaptive_computation.calibration import Calibration, Trial, calibrate, read_with_exits
from llama_minimal.adaptive_computation.early_exit import EarlyExit, ExitRule, exit_confidence, fill_cache
from llama_minimal.adaptive_computation.exits import ExitLoss, exit_logits, first_layers
from llama_minimal.adaptive_computation.rule import (
    acceptance_probability,
    expected_speedup,
    expected_tokens,
    residual_distribution,
)
from llama_minimal.adaptive_computation.speculative import ModelDraft, PromptLookup, look_up

__all__ = [
    "Calibration",
    "EarlyExit",
    "ExitLoss",
    "ExitRule",
    "ModelDraft",
    "PromptLookup",
    "Trial",
    "acceptance_probability",
    "calibrate",
    "exit_confidence",
    "exit_logits",
    "expected_speedup",
    "expected_tokens",
    "fill_cache",
    "first_layers",
    "look_up",
    "read_with_exits",
    "residual_distribution",
]
