"""Chapter 15: what do zeros save, and what does a smaller model? Numbers kept, bytes, and seconds of a processor."""

import time
import warnings

import torch
from torch import Tensor, nn

from llama_minimal.config import preset
from llama_minimal.generation import generate
from llama_minimal.model import Llama, build
from llama_minimal.pruning import find_layers, remove_features, remove_heads, remove_layers

WHAT = "Seconds of one processor core for a token of two shapes: dense, with zeros, stored sparse, and cut smaller."
BUDGET = (
    "Random weights in float32, vocabulary 2,048, one thread. Writing: 32 tokens, one text at a time. Reading: 512 "
    "tokens. Processor time of the fastest of three rounds; three repeats, one after the other for all variants."
)
CHECK = {"shape": "course", "variant": "dense", "task": "none", "repeat": 0}  # which measures no time

SHAPES = ("course", "stories-42m")
VARIANTS = ("dense", "zeros 2:4", "sparse 50%", "sparse 90%", "sparse 99%", "half", "half the layers")
POINTS = [CHECK] + [
    {"shape": shape, "variant": variant, "task": task, "repeat": repeat}
    for repeat in (0, 1, 2)
    for shape in SHAPES
    for task in ("write", "read")
    for variant in VARIANTS
]


class SparseLinear(nn.Module):
    """Keep a matrix as the values and places of what is not zero, row by row (PyTorch's CSR)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.out_features = len(weight)
        with warnings.catch_warnings(action="ignore"):  # PyTorch says that this is new
            self.register_buffer("kept", weight.to_sparse_csr())

    def forward(self, x: Tensor) -> Tensor:
        return (self.kept @ x.flatten(0, -2).T).T.unflatten(0, x.shape[:-1])

    def n_bytes(self) -> int:
        """Return how much memory values and places take."""
        return sum(part.nbytes for part in (self.kept.values(), self.kept.col_indices(), self.kept.crow_indices()))


def variant_of(model: Llama, variant: str) -> Llama:
    """Return a model with zeros that were not chosen, only placed; or a smaller one."""
    config = model.config
    if variant == "half":
        model = remove_heads(model, [range(config.n_heads // 2)] * config.n_layers)
        return remove_features(model, [range(config.hidden_dim // 2)] * config.n_layers)
    if variant == "half the layers":
        return remove_layers(model, range(config.n_layers // 2))
    dice = torch.Generator().manual_seed(0)
    for name, layer in find_layers(model).items():
        weight = layer.weight.data
        if variant == "zeros 2:4":
            weight.view(-1, 4)[:, :2] = 0
        elif variant.startswith("sparse"):
            share = int(variant.split()[1][:-1]) / 100
            weight[torch.rand(weight.shape, generator=dice) < share] = 0
            owner, part = name.rsplit(".", 1)
            setattr(model.get_submodule(owner), part, SparseLinear(weight))
    return model


def write(model: Llama) -> int:
    """Write 32 tokens, and return how many."""
    (text,) = generate(model, None, [[1, 2, 3]], max_new_tokens=32, stop_ids=())
    return len(text.tokens)


@torch.inference_mode()
def read(model: Llama) -> int:
    """Read 512 tokens, and return how many."""
    return model(torch.arange(512)[None]).shape[:2].numel()


def run(*, shape: str, variant: str, task: str, repeat: int) -> dict[str, float]:
    """Return the numbers that are not zero, the bytes of the weights, and processor seconds for a token.

    Args:
        task: "write", "read", or "none", which takes no time.
        repeat: its number; it changes nothing.
    """
    config = preset(shape, vocab_size=2048, max_seq_len=512)
    model = variant_of(build(config, seed=0).eval(), variant)
    sparse = [module for module in model.modules() if isinstance(module, SparseLinear)]
    dense = list(model.parameters())
    figures = {
        "kept": sum(int((p != 0).sum()) for p in dense) + sum(layer.kept.values().numel() for layer in sparse),
        "bytes": sum(p.nbytes for p in dense) + sum(layer.n_bytes() for layer in sparse),
        "seconds": 0.0,
    }
    if task != "none":
        work = {"write": write, "read": read}[task]
        rounds = []
        for _ in range(3):
            start = time.process_time()
            n = work(model)
            rounds.append((time.process_time() - start) / n)
        figures["seconds"] = min(rounds)
    return figures
