"""Numeric precision in training: which number format computes, and what keeps it safe."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from llama_minimal.config import Precision

# Weights, gradients and optimizer state are float32 in all three: the name says what matrices multiply in.
_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Compute matrix products in the given precision inside this context (Micikevicius et al. 2018, §3)."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return the loss scaler: float16 needs one, lest small gradients become 0; the others pass through."""
    kind = _ScalerOfMPS if device.type == "mps" else torch.amp.GradScaler
    return kind(device.type, enabled=precision == "fp16")


class _ScalerOfMPS(torch.amp.GradScaler):
    """Do what PyTorch's scaler does, with its state on the CPU and in operations that every ``mps`` has.

    PyTorch's own, in the older releases, asks ``mps`` for float64 and for a kernel that it does not have.
    """

    def scale(self, outputs: Tensor) -> Tensor:
        if not self.is_enabled():
            return outputs
        if self._scale is None:
            self._lazy_init_scale_growth_tracker(torch.device("cpu"))
        return outputs * self._scale.item()

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        for gradient in (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            gradient.mul_(inv_scale.item())
            if not gradient.isfinite().all():
                found_inf.fill_(1.0)
        return {found_inf.device: found_inf}
