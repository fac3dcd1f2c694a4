"""Which devices and formats there are, and what Apple's cannot do.

PyTorch calls the GPU of an Apple computer ``mps``. It has no float64: what needs it is computed on the CPU
(``as_float64``).
"""

import torch
from torch import Tensor

_WITHOUT_FLOAT64 = ("mps",)  # PyTorch: "the MPS framework doesn't support float64"


def available_devices() -> list[str]:
    """Return the devices to compute on, best first: CUDA's, Apple's ``mps``, the CPU."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def default_device() -> torch.device:
    """Return the best device there is: the current CUDA device, else Apple's ``mps``, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device(available_devices()[0])


def find_device(name: torch.device | str | None = None) -> torch.device:
    """Return a device that tensors can be put on.

    Args:
        name: such as ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"``; None means the best there is.

    Raises:
        ValueError: if there is no such device on this computer.
    """
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {str(name)!r} is unknown; {_choice()}") from None
    if not _is_there(device):
        raise ValueError(f"device {str(name)!r} is not available here; {_choice()}{_hint(device)}")
    return device


def _is_there(device: torch.device) -> bool:
    if device.type in ("cuda", "mps"):  # asked without touching it: that would take memory of a GPU that is not meant
        return str(device).removesuffix(":0") in [there.removesuffix(":0") for there in available_devices()]
    if device.type == "meta":  # holds shapes, and no numbers to compute with
        return False
    try:
        torch.empty(0, device=device)
    except (AssertionError, ImportError, RuntimeError):  # what the parts of PyTorch raise that are not built in
        return False
    return True


def _choice() -> str:
    return f"this computer has {', '.join(available_devices())}: give one of these, or none for the first of them"


def _hint(device: torch.device) -> str:
    built = {"cuda": torch.backends.cuda.is_built(), "mps": torch.backends.mps.is_built()}
    if built.get(device.type, True):
        return ""
    return f" (this PyTorch was built without {device.type}; install one that has it, to use such a device)"


def find_dtype(name: torch.dtype | str) -> torch.dtype:
    """Return a format that weights can have.

    Args:
        name: such as ``torch.bfloat16``, ``"bfloat16"`` or ``"bf16"``.

    Raises:
        ValueError: if it is none of float32, bfloat16, float16, float64.
    """
    text = str(name).removeprefix("torch.")
    text = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(text, text)
    if text not in ("float32", "bfloat16", "float16", "float64"):
        raise ValueError(f"dtype {text!r} is not one of float32, bfloat16, float16, float64")
    return getattr(torch, text)


def float64_device(device: torch.device) -> torch.device:
    """Return where to keep float64 numbers: the device itself, or the CPU where it knows no float64."""
    return torch.device("cpu") if device.type in _WITHOUT_FLOAT64 else device


def as_float64(x: Tensor) -> Tensor:
    """Return the numbers in float64, on ``float64_device``."""
    # In two steps: a copy that also converts may convert before it leaves the device.
    return x.to(float64_device(x.device)).double()


def has_complex(device: torch.device) -> bool:
    """Whether to multiply complex numbers on the device: ``mps`` can do so only since macOS 14."""
    return device.type != "mps"
