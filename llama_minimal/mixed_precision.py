"""Numeric precision: which number format computes in training, what keeps it safe, and weights kept in fewer bits."""

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.config import Precision
from llama_minimal.linear import Linear

# Weights, gradients and optimizer state are float32 in all three: the name says what matrices multiply in.
_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Compute matrix products in the given precision inside this context (Micikevicius et al. 2018, §3)."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return the loss scaler: float16 needs one, lest small gradients become 0; the others pass through."""
    kind = _ScalerOfMPS if device.type == "mps" else torch.amp.GradScaler
    return kind(device.type, enabled=precision == "fp16")


def round_stochastically(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Round float32 to bfloat16 so that the mean is x: up with the probability of what rounding down would lose.

    A bfloat16 is the upper half of a float32. A random number below 2¹⁶ added to the lower half carries into the upper
    with the probability (lower half)/2¹⁶. Infinities and NaN stay.

    Args:
        x: float32.
        generator: on x's device.

    Raises:
        ValueError: if x is not float32.

    Source: Gupta et al. 2015, "Deep Learning with Limited Numerical Precision", for fixed point.
    """
    if x.dtype != torch.float32:
        raise ValueError(f"x is {_name(x.dtype)}, and the bits that are rounded are those of float32: give x.float()")
    bits = x.view(torch.int32)
    carry = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32, device=x.device, generator=generator)
    rounded = ((bits + carry) & -(1 << 16)).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).to(torch.bfloat16)  # exact: the lower half is zero


def store_float8(w: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    """Return a matrix in 8 bits, and a scale for each row that makes the most of their range.

    w ≈ values·scale with scale = max|row| / largest, 1 for a row of zeros.

    Args:
        w: (out, in).
        dtype: ``torch.float8_e4m3fn`` or ``torch.float8_e5m2``.

    Returns:
        (out, in) in ``dtype``, and (out, 1) in at least float32.

    Raises:
        ValueError: if ``dtype`` is another.
    """
    if dtype not in _FLOAT8:
        raise ValueError(f"dtype={_name(dtype)} is not one of {', '.join(map(_name, _FLOAT8))}")
    w = w.to(torch.promote_types(w.dtype, torch.float32))
    scale = w.abs().amax(dim=-1, keepdim=True) / torch.finfo(dtype).max
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (w / scale).to(dtype), scale


class Float8Linear(nn.Module):
    """Be a linear layer whose weight is kept in 8 bits, and decoded whenever it is used."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, dtype: torch.dtype = torch.float8_e4m3fn) -> None:
        super().__init__()
        values, scale = store_float8(weight.detach(), dtype)
        self.dtype = dtype
        # As whole numbers: a cast of the model, such as model.bfloat16(), would turn floats of 8 bits into its own.
        self.register_buffer("patterns", values.view(torch.uint8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.patterns.view(self.dtype).to(self.scale.dtype) * self.scale
        return F.linear(x, weight.to(x.dtype), self.bias)


def keep_layers_in_float8(model: nn.Module, dtype: torch.dtype = torch.float8_e4m3fn) -> nn.Module:
    """Put a ``Float8Linear`` in the place of every linear layer of the blocks, in place; return the model.

    Embedding and output stay: they may share one matrix. What remains can compute, and no longer learn.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear) and name.startswith("layers."):
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, Float8Linear(module.weight, module.bias, dtype))
    return model


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
