"""Models that a command reads in another way than from weights onto a device: an ONNX graph, one that is offloaded."""

from pathlib import Path
from typing import Any


def is_graph(folder: str) -> bool:
    """Return whether a folder holds an ONNX graph, which ``convert --format onnx`` wrote."""
    return (Path(folder) / "model.onnx").is_file()


def load_graph(folder: str, flags: Any) -> tuple[Any, Any]:
    """Load an ONNX graph and its tokenizer.

    Raises:
        ValueError: if the flags ask for what concerns weights.
    """
    from llama_minimal.integrations.onnx import load

    _refuse("an ONNX graph is computed by onnxruntime as it is", flags, "offload")
    return load(folder)


def load_offloaded(folder: str, flags: Any) -> tuple[Any, Any]:
    """Load a model into the computer's memory, and let it compute on the device, as ``offloading.offload`` does.

    Raises:
        ValueError: if the flags ask for what does not go together with that.
    """
    from llama_minimal.checkpoint import load
    from llama_minimal.cli.write import dtype_of
    from llama_minimal.offloading import offload

    if flags.compile or flags.devices:
        raise ValueError("--offload lets weights come and go, which --compile and --devices do not; leave one out")
    model, tokenizer = load(folder, dtype=dtype_of(flags), adapter=flags.adapter, quantize=flags.quantize)
    return offload(model, flags.device, keep=flags.offload), tokenizer


def _refuse(why: str, flags: Any, *names: str) -> None:
    names = ("adapter", "quantize", "dtype", "device", "devices", "compile", *names)
    asked = [
        name for name in names if getattr(flags, name) not in (None, (), "cpu") and getattr(flags, name) is not False
    ]
    if asked:
        raise ValueError(f"{why}; leave out --{asked[0]}")
