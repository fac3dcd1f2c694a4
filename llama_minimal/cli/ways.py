"""Models that are not loaded whole onto one device: an ONNX graph, layers on several devices, layers that travel."""

from pathlib import Path
from typing import Any


def is_graph(folder: str) -> bool:
    """Return whether a folder holds an ONNX graph, which ``convert --format onnx`` wrote."""
    return (Path(folder) / "model.onnx").is_file()


def load_another_way(folder: str, flags: Any) -> tuple[Any, Any] | None:
    """Return a model and its tokenizer, if the folder or the flags ask for one of these ways, else None.

    Raises:
        ValueError: if the flags ask for what does not go together with it.
    """
    from llama_minimal.cli.write import dtype_of

    if is_graph(folder):
        return _graph(folder, flags)
    options = {"dtype": dtype_of(flags), "adapter": flags.adapter}
    if flags.offload is not None:
        from llama_minimal.checkpoint import load
        from llama_minimal.offloading import offload

        if flags.compile or flags.devices:
            raise ValueError("--offload lets weights come and go, which --compile and --devices do not; leave one out")
        model, tokenizer = load(folder, quantize=flags.quantize, **options)
        return offload(model, flags.device, keep=flags.offload), tokenizer
    if flags.devices:
        from llama_minimal.parallel.layerwise import load_layers

        if flags.quantize:
            raise ValueError("--quantize is for a model on one device; leave it out, or --devices")
        return load_layers(folder, flags.devices, **options)
    return None


def _graph(folder: str, flags: Any) -> tuple[Any, Any]:
    from llama_minimal.integrations.onnx import load

    for name in ("adapter", "quantize", "dtype", "device", "devices", "compile", "offload"):
        value = getattr(flags, name)
        if value is not None and value is not False and value not in ((), "cpu"):
            raise ValueError(f"onnxruntime computes an ONNX graph as it is; leave out --{name}")
    return load(folder)
