"""What a device computes beside the CPU: each check returns how far they are apart, and how far they may be.

For logits and losses that is the largest difference as a share of their spread or size; for texts, the number of tokens
that differ.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from llama_minimal.beams import beam_search
from llama_minimal.chunked_loss import chunked_loss
from llama_minimal.config import preset
from llama_minimal.data import EncodedExample, PackedExamples
from llama_minimal.finetuning import prepare
from llama_minimal.generation import generate
from llama_minimal.long_context import Window
from llama_minimal.loss import next_token
from llama_minimal.model import Llama, build
from llama_minimal.offloading import offload
from llama_minimal.parallel import Mesh
from llama_minimal.parallel.mesh import DIMENSIONS
from llama_minimal.pruning import prune
from llama_minimal.quantization import quantize
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

Far = tuple[float, float]
Check = Callable[[torch.device], Far]
PARITY: dict[str, Check] = {}
_PROMPTS = [[1, 2, 3], [5, 6, 7, 8, 9]]
_TEXT = (np.random.default_rng(0).integers(1, 4, 20_000).cumsum() % 500).astype(np.uint16)


def named(name: str) -> Callable[[Check], Check]:
    """Put a check into the list."""

    def put(check: Check) -> Check:
        PARITY[name] = check
        return check

    return put


def lively(**changes: object) -> Llama:
    """Build a tiny model whose logits lie far apart, so that rounding does not change the largest."""
    model = build(preset("tiny", n_layers=2, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


def _logits(device: torch.device, change: Callable[[Llama], object], allowed: float) -> Far:
    tokens, model = torch.arange(48).view(2, 24), lively()
    change(model)
    with torch.no_grad():
        expected = model(tokens).float()
        given = copy.deepcopy(model).to(device)(tokens.to(device)).float().cpu()
    return ((given - expected).abs().max() / expected.std()).item(), allowed


def _text(device: torch.device, *, here: dict[str, object] | None = None, **how: object) -> Far:
    """Compare greedy texts; ``here`` is what differs on the device alone."""
    model = lively()
    how = {"max_new_tokens": 24, **how}
    expected = generate(model, None, _PROMPTS, **how)
    given = generate(model.to(device), None, _PROMPTS, **how, **(here or {}))
    pairs = [(a, b) for x, y in zip(expected, given, strict=True) for a, b in zip(x.tokens, y.tokens, strict=True)]
    return float(sum(a != b for a, b in pairs)), 0


def _curve(device: torch.device | str, *, mesh: Mesh | None = None, method: str | None = None, **how: object) -> Tensor:
    recipe = TrainConfig(**{"steps": 8, "batch_size": 4, "seq_len": 32, "warmup_steps": 2, **how})
    model, tokens = build(preset("tiny", n_layers=2)).to(device), _TEXT
    if method:
        rows = _TEXT[:2400].reshape(-1, 12).tolist()
        tokens = PackedExamples.pack([EncodedExample(row, [False] * 9 + [True] * 3) for row in rows], seq_len=32)
        prepare(model, method)
    return torch.tensor([metrics["loss"] for metrics in Trainer(model, tokens, recipe, mesh=mesh).run()])


def _losses(expected: Tensor, given: Tensor, allowed: float) -> Far:
    return ((given - expected).abs() / expected).max().item(), allowed


for _name, _dtype, _allowed in (("float32", torch.float32, 1e-4), ("bfloat16", torch.bfloat16, 0.1)):
    named(f"logits, {_name}")(lambda d, dtype=_dtype, far=_allowed: _logits(d, lambda m: m.to(dtype), far))
for _name in ("int8", "int4", "fp8", "int8-dynamic"):
    named(f"logits, {_name}")(lambda d, scheme=_name: _logits(d, lambda m: quantize(m, scheme), 0.1))

named("text")(_text)
named("text, compiled step")(lambda d: _text(d, here={"compile": True}))
named("text, a draft")(lambda d: _text(d, here={"draft": lively(n_kv_heads=4).to(d)}))
named("text, keys and values in int8")(lambda d: _text(d, cache="int8"))
named("text, keys and values in int4")(lambda d: _text(d, cache="int4"))
named("text, a window with sinks")(lambda d: _text(d, cache=Window(size=16, n_sinks=4)))


@named("text, blocks that travel")
def _offloaded(device: torch.device) -> Far:
    model = lively()
    texts = [
        generate(one, None, _PROMPTS, max_new_tokens=24)
        for one in (model, offload(copy.deepcopy(model), device, keep=1))
    ]
    return float(sum(a.tokens != b.tokens for a, b in zip(*texts, strict=True))), 0


@named("text, beam search")
def _beams(device: torch.device) -> Far:
    model = lively()
    best = [beam_search(model.to(d), [1, 2, 3], max_new_tokens=16)[0].tokens for d in ("cpu", device)]
    return float(sum(a != b for a, b in zip(*best, strict=True))), 0


@named("gradients, loss in chunks")
def _gradients(device: torch.device) -> Far:
    batch, found = (torch.arange(64).view(2, 32), torch.arange(1, 65).view(2, 32)), []
    for place in ("cpu", device):
        model = lively().to(place)
        total, count = next_token(model, tuple(part.to(place) for part in batch), loss=chunked_loss)
        (total / count).backward()
        found.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters()]))
    return ((found[0] - found[1]).norm() / found[0].norm()).item(), 1e-3


@named("zeros of pruning")
def _zeros(device: torch.device) -> Far:
    zeros = []
    for place in ("cpu", device):
        model = lively().to(place)
        prune(model, "wanda", sparsity=0.5, calibration=[torch.arange(256).view(4, 64) % 512])
        zeros.append(torch.cat([p.detach().flatten().cpu() == 0 for p in model.parameters()]))
    return (zeros[0] != zeros[1]).float().mean().item(), 1e-3


_HOW = {
    "float32": ({}, 2e-3),
    "bf16": ({"precision": "bf16"}, 2e-2),
    "fp16": ({"precision": "fp16"}, 2e-2),
    "compiled": ({"compile": True}, 2e-3),
    "parts of a batch, activations computed again": (
        {"micro_batch_size": 2, "activation_checkpointing": True},
        2e-3,
    ),
    "muon": ({"optimizer": "muon"}, 1e-2),
    "tuning, full": ({"method": "full"}, 5e-3),
    "tuning, LoRA": ({"method": "lora"}, 5e-3),
}
for _name, (_how, _allowed) in _HOW.items():
    _plain = {key: value for key, value in _how.items() if key in ("method", "optimizer")}
    named(f"training, {_name}")(
        lambda d, how=_how, plain=_plain, far=_allowed: _losses(_curve("cpu", **plain), _curve(d, **how), far)
    )


@named("training, sharded (FSDP2)")
def _sharded(device: torch.device) -> Far:
    with _alone(device) as mesh:
        return _losses(_curve("cpu"), _curve(device, mesh=mesh, shard=True), 2e-3)


@contextmanager
def _alone(device: torch.device) -> Iterator[Mesh]:
    """One process that speaks NCCL (gloo on a CPU) with itself: all the machinery on one device."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{Path(folder) / 'store'}", rank=0, world_size=1)
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            yield Mesh(device=device, torch_mesh=init_device_mesh(device.type, (1, 1, 1), mesh_dim_names=DIMENSIONS))
        finally:
            dist.destroy_process_group()
