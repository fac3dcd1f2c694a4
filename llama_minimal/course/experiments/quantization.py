"""Chapter 14: what rounding to few bits costs, by method, by grid, by part of the model, and in the activations."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

import llama_minimal as lm
from llama_minimal.course.lab import small_run, small_text
from llama_minimal.data.valley import stories
from llama_minimal.loss import next_token_loss
from llama_minimal.model import Llama
from llama_minimal.observing import watching
from llama_minimal.pruning import find_layers
from llama_minimal.quantization import from_codes, round_to_grid, round_weights, symmetric_grid, to_codes

WHAT = "Loss of four models, in nats per token, when matrices or activations of their blocks are rounded to few bits."
BUDGET = (
    "32 rows of 128 held-out tokens to be tested on, 24 other rows to calibrate on. The small models: two layers of "
    "width 64, vocabulary 300, 600 steps of 8 × 64 tokens, four times as many rows, of 64 tokens."
)
CHECK = {"model": "course", "seed": 0, "method": "rtn", "bits": 4}
TOLERANCE = 0.05  # the small models are trained anew by whoever records

TESTED, CALIBRATED = 32, 24  # rows
MODELS = (("course", 0), ("small", 0), ("small", 1), ("small", 2))
GRIDS = {"row": None, "group": 32}
TABLES = ("tok_embeddings", "output")
PARTS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")

POINTS = [
    {"model": model, "seed": seed, "method": method, "bits": bits}
    for model, seed in MODELS
    for method, all_bits in (
        ("rtn", (8, 4, 3, 2)),
        ("awq", (4, 3)),
        ("gptq", (4, 3, 2)),
        ("parts", (3,)),
        ("activations", (8, 4)),
    )
    for bits in all_bits
]


def find_model(name: str, seed: int) -> tuple[Llama, Tensor, Tensor]:
    """Return a model in float32, and rows of token ids (B, T + 1): some to calibrate on, some to be tested on."""
    if name == "small":
        text, model = small_text(), small_run(seed=seed, steps=600).model
        train, test = (torch.from_numpy(ids.astype("int64")) for ids in (text.train, text.validation))
        return model, *(ids[: n * 65].view(n, 65) for ids, n in ((train, 4 * CALIBRATED), (test, 4 * TESTED)))
    model, tokenizer = lm.load("course", dtype=torch.float32)
    rows = []
    for split, n in (("train", CALIBRATED), ("test", TESTED)):
        ids = (tokenizer.encode(story.text(), bos=True)[:129] for story in stories(2 * n, split=split))
        rows.append(torch.tensor([one for one in ids if len(one) == 129][:n]))
    return model, *rows


@torch.no_grad()
def mean_loss(model: Llama, rows: Tensor) -> float:
    """Return the loss in nats per token."""
    total, count = next_token_loss(model(rows[:, :-1]), rows[:, 1:])
    return (total / count).item()


def by_grid(model: Llama, calibration: Tensor, tests: Tensor, method: str, bits: int) -> dict[str, float]:
    """Return the loss with all matrices of the blocks rounded, for each grid."""
    losses, options = {}, {"method": method, "skip": TABLES}
    if method == "rtn":
        losses["tensor"] = _with_rounded(model, find_layers(model), tests, bits, "tensor")
    else:
        options["calibration"] = calibration[:, :-1]
    for grid, size in GRIDS.items():
        losses[grid] = mean_loss(round_weights(copy.deepcopy(model), bits, group_size=size, **options), tests)
    return losses


def by_part(model: Llama, tests: Tensor, bits: int) -> dict[str, float]:
    """Return the loss with one kind of matrix, the tables, or one layer rounded to the nearest, a grid for each row."""
    layers = find_layers(model)
    chosen = {part: [name for name in layers if name.endswith(f".{part}")] for part in PARTS}
    chosen |= {f"layer {i}": [n for n in layers if n.startswith(f"layers.{i}.")] for i in range(model.config.n_layers)}
    return {part: _with_rounded(model, some, tests, bits, "row") for part, some in {**chosen, "tables": TABLES}.items()}


def by_activations(model: Llama, calibration: Tensor, tests: Tensor, bits: int) -> dict[str, float]:
    """Return the loss with rounded inputs: one step for a batch, one for each token, or that with a few columns kept.

    The few are the hundredth part of the columns, those with the largest numbers on the calibration rows.
    """
    layers, largest, losses = find_layers(model).values(), {}, {}

    def look(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        largest[layer] = inputs[0].abs().amax((0, 1))

    with watching(dict.fromkeys(layers, look)):
        mean_loss(model, calibration)
    for arm in ("tensor", "token", "token, few kept"):

        def hook(layer: nn.Module, inputs: tuple[Tensor], arm: str = arm) -> Tensor:
            kept = largest[layer] >= largest[layer].quantile(0.99 if "kept" in arm else 1.0)
            return _rounded(inputs[0], bits, kept if "kept" in arm else torch.zeros_like(kept), arm == "tensor")

        with watching(dict.fromkeys(layers, hook)):
            losses[arm] = mean_loss(model, tests)
    return losses


def run(*, model: str, seed: int, method: str, bits: int) -> dict[str, float]:
    """Return the loss of the whole model, "full", and with something of it rounded: by grid, by part or by arm.

    Args:
        model: "course" or "small"; ``seed``: of the small one.
        method: "rtn", "awq" or "gptq" by grid; "parts"; or "activations".
    """
    network, calibration, tests = find_model(model, seed)
    full = {"full": mean_loss(network, tests)}
    if method == "parts":
        return full | by_part(network, tests, bits)
    if method == "activations":
        return full | by_activations(network, calibration, tests, bits)
    return full | by_grid(network, calibration, tests, method, bits)


def _with_rounded(model: Llama, names: Iterable[str], tests: Tensor, bits: int, grid: str) -> float:
    """Return the loss with some matrices rounded to the nearest."""
    model = copy.deepcopy(model)
    for name in names:
        weight = model.get_submodule(name).weight
        if name != "output" or weight is not model.tok_embeddings.weight:  # a tied table is rounded already
            weight.data = round_to_grid(weight.data, bits, group_size=grid)
    return mean_loss(model, tests)


def _rounded(x: Tensor, bits: int, kept: Tensor, together: bool) -> Tensor:
    rest = x.masked_fill(kept, 0)
    scale = symmetric_grid(rest.reshape(1, -1) if together else rest, bits)
    return torch.where(kept, x, from_codes(to_codes(rest, scale, bits=bits), scale))
