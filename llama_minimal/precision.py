"""Numeric precision in training: which number format computes, and what keeps it safe."""

from contextlib import AbstractContextManager

import torch

from llama_minimal.config import Precision

# Weights, gradients and optimizer state are float32 in all three: the name says what matrices multiply in.
_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Compute matrix products in the given precision inside this context (Micikevicius et al. 2018, §3)."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return the loss scaler: float16 needs one, lest small gradients become 0; the others pass through."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
