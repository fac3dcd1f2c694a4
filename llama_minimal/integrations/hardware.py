"""Which hardware runs what: a table that is computed where you are, beside what was tried elsewhere.

``python -m llama_minimal.integrations.hardware`` prints it. Each way is tried with a tiny model, and compared with the
CPU; one that is not there says why.
"""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from llama_minimal.config import preset
from llama_minimal.devices import find_device
from llama_minimal.generation import generate
from llama_minimal.loss import next_token
from llama_minimal.model import Llama, build
from llama_minimal.offloading import offload
from llama_minimal.quantization import quantize

WAYS = ("cpu", "cuda", "mps", "xla", "onnx")
PATHS = ("logits", "text", "gradient", "int8", "offloading")
TRIED = {
    "cpu": "all tests and every figure: x86, Linux, PyTorch 2.13",
    "cuda": "34 trainings of the course's recipes on one H200, PyTorch 2.11 (benchmarks/course_sweep.json); "
    "benchmarks/gpu.py and tests/test_gpu.py as they are now: at toy size on a CPU, and not on a GPU",
    "mps": "the CPU under its name and with its limits (tests/test_mps.py); not on an Apple computer",
    "xla": "nothing",
    "onnx": "onnxruntime 1.32 on a CPU (tests/test_onnx.py); none of its other providers",
}
"""What was run where, when this was written: a claim about the past, which no computation here repeats."""
_PROMPTS = [[1, 2, 3], [5, 6, 7, 8, 9]]


@dataclass(frozen=True, slots=True)
class Found:
    """Hold what one way does here."""

    way: str
    is_here: bool
    why_not: str = ""
    paths: dict[str, str] = field(default_factory=dict)
    """Path → how far from the CPU, or why it does not run."""

    @property
    def tried(self) -> str:
        """What was run elsewhere."""
        return TRIED[self.way]


def table() -> list[Found]:
    """Try every way here, in the order of ``WAYS``; takes some seconds."""
    return [probe(way) for way in WAYS]


def probe(way: str) -> Found:
    """Try one of ``WAYS``: each path of it beside the CPU.

    Raises:
        ValueError: if there is no such way.
    """
    if way not in WAYS:
        raise ValueError(f"way={way!r} is not one of {', '.join(WAYS)}")
    if why := _why_not(way):
        return Found(way, False, why)
    if way == "onnx":
        return Found(way, True, paths=_onnx())
    return Found(way, True, paths={name: _tried(lambda path=path: path(way)) for name, path in _PATHS.items()})


def as_text(found: list[Found]) -> str:
    """Return the table as lines: a way, whether it is here, its paths, and what was tried elsewhere."""
    lines = []
    for row in found:
        here = "runs here" if row.is_here else row.why_not
        lines += [f"{row.way:5} {here}"]
        lines += [f"      {name:11} {result}" for name, result in row.paths.items()]
        lines += [f"      tried: {row.tried}"]
    return "\n".join(lines)


def _why_not(way: str) -> str:
    if way == "onnx":
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        return f"{missing[0]} is not installed" if missing else ""
    if way == "xla" and find_spec("torch_xla") is None:
        return "torch_xla is not installed"
    try:
        find_device(way)
    except ValueError:
        return "no such device here"
    return ""


def _model() -> Llama:
    """Build a tiny model whose logits lie far apart, so that rounding does not change the largest."""
    model = build(preset("tiny", n_layers=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


def _tokens() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 512, (2, 24)))


@torch.no_grad()
def _apart(model: nn.Module, other: nn.Module, device: str = "cpu") -> str:
    expected = model(_tokens())
    far = (other(_tokens().to(device)).cpu() - expected).abs().max() / expected.std()
    return f"{far.item():.0e} apart"


def _same_text(model: Llama, other: nn.Module) -> str:
    texts = [[row.tokens for row in generate(one, None, _PROMPTS, max_new_tokens=24)] for one in (model, other)]
    return "same text" if texts[0] == texts[1] else "ANOTHER TEXT"


def _logits(device: str) -> str:
    model = _model()
    return _apart(model, copy.deepcopy(model).to(device), device)


def _text(device: str) -> str:
    model = _model()
    return _same_text(model, copy.deepcopy(model).to(device))


def _gradient(device: str) -> str:
    gradients = []
    for place in ("cpu", device):
        model = _model().to(place)
        tokens = _tokens().to(place)
        total, count = next_token(model, (tokens[:, :-1], tokens[:, 1:]))
        (total / count).backward()
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters()]))
    return f"{((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item():.0e} apart"


def _int8(device: str) -> str:
    model = _model()
    quantize(model, "int8", dtype="float32")
    return _apart(model, copy.deepcopy(model).to(device), device)


def _offloading(device: str) -> str:
    model = _model()
    return _same_text(model, offload(copy.deepcopy(model), device, keep=1))


def _onnx() -> dict[str, str]:
    from llama_minimal.integrations import onnx

    model = _model()
    with tempfile.TemporaryDirectory() as folder:
        onnx.export(model, Path(folder))
        graph = onnx.OnnxLlama(Path(folder))
        done = {"logits": _apart(model, graph), "text": _same_text(model, graph)}
    return done | {"gradient": "a graph learns nothing", "int8": "refused", "offloading": "refused"}


def _tried(path: Callable[[], str]) -> str:
    try:
        return path()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # what a device lacks
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"


_PATHS = dict(zip(PATHS, (_logits, _text, _gradient, _int8, _offloading), strict=True))


if __name__ == "__main__":
    print(as_text(table()))
