"""The CUDA path; skipped, with the reason, where there is no CUDA device."""

import os
import subprocess
import sys

import numpy as np
import parallel_worker
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from llama_minimal.config import preset
from llama_minimal.data import EncodedExample, PackedExamples
from llama_minimal.finetuning import prepare, with_labels
from llama_minimal.generation import generate
from llama_minimal.model import build
from llama_minimal.offloading import offload
from llama_minimal.parallel import Mesh
from llama_minimal.parallel.mesh import DIMENSIONS
from llama_minimal.pruning import prune
from llama_minimal.quantization import quantize
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]

TOKENS = (np.random.default_rng(0).integers(1, 4, 20_000).cumsum() % 500).astype(np.uint16)


def curve(device, precision, *, compile=False):
    recipe = TrainConfig(steps=20, batch_size=8, seq_len=64, warmup_steps=4, precision=precision, compile=compile)
    trainer = Trainer(build(preset("tiny")).to(device), TOKENS, recipe)
    return [metrics["loss"] for metrics in trainer.run()], trainer


@pytest.mark.parametrize(("precision", "rtol"), [("fp32", 2e-3), ("bf16", 2e-2), ("fp16", 2e-2)])
def test_training_follows_the_curve_of_the_cpu(precision, rtol):
    expected, _ = curve("cpu", "fp32")
    losses, trainer = curve("cuda", precision)
    np.testing.assert_allclose(losses, expected, rtol=rtol)
    assert losses[-1] < losses[0] - 0.3
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_adamw_is_the_fused_one():
    _, trainer = curve("cuda", "bf16")
    assert all(group["fused"] for group in trainer.optimizer.param_groups)


def test_compiled_training_gives_the_same_curve():
    np.testing.assert_allclose(curve("cuda", "fp32", compile=True)[0], curve("cuda", "fp32")[0], rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_decoding_writes_the_same_tokens(dtype):
    model = build(preset("tiny")).to("cuda")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)  # logits far apart
    model = model.to(dtype)
    prompts = [[1, 2, 3], [5, 6, 7, 8, 9]]
    eager = [row.tokens for row in generate(model, None, prompts, max_new_tokens=40)]
    for _ in range(2):  # the second call replays what the first recorded
        compiled = [row.tokens for row in generate(model, None, prompts, max_new_tokens=40, compile=True)]
        if dtype == torch.float32:
            assert compiled == eager
        assert all(len(tokens) == 40 for tokens in compiled)


def test_a_gpu_writes_what_the_cpu_writes():
    model = build(preset("tiny"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    on_cpu = generate(model, None, [[1, 2, 3]], max_new_tokens=40)[0].tokens
    assert generate(model.to("cuda"), None, [[1, 2, 3]], max_new_tokens=40)[0].tokens == on_cpu


def lively(**changes):
    model = build(preset("tiny", **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)  # logits far apart
    return model


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "int8-dynamic"])
def test_a_quantized_model_computes_what_it_does_on_the_cpu(scheme):
    model = quantize(lively(), scheme)
    tokens = torch.arange(24).view(2, 12)
    with torch.no_grad():
        expected = model(tokens)
        torch.testing.assert_close(
            model.to("cuda")(tokens.cuda()).cpu(), expected, rtol=0.02, atol=0.02 * expected.std()
        )


@pytest.mark.parametrize("cache", ["int8", "int4"])
def test_a_quantized_cache_writes_what_it_does_on_the_cpu(cache):
    model = lively()
    rows = [generate(model.to(device), None, [[1, 2, 3]], max_new_tokens=20, cache=cache) for device in ("cpu", "cuda")]
    assert rows[0][0].tokens == rows[1][0].tokens


def test_a_draft_leaves_the_greedy_text_as_it_is():
    model, draft = lively().to("cuda"), lively(n_layers=1).to("cuda")
    prompts = [[1, 2, 3], [4, 5]]
    alone, helped = (generate(model, None, prompts, max_new_tokens=30, draft=d) for d in (None, draft))
    assert [row.tokens for row in alone] == [row.tokens for row in helped]


@pytest.mark.parametrize("keep", [0, 1, 3, 4])
def test_blocks_that_travel_write_what_they_do_at_home(keep):
    model = lively(n_layers=4)
    prompts = [[1, 2, 3], [4, 5]]
    expected = [row.tokens for row in generate(model, None, prompts, max_new_tokens=30)]
    for _ in range(2):  # placed anew, too
        offload(model, "cuda", keep=keep)
        assert [row.tokens for row in generate(model, None, prompts, max_new_tokens=30)] == expected
    assert {p.device.type for p in model.blocks()[-1].parameters()} == {"cuda" if keep == 4 else "cpu"}


def test_a_device_holds_two_of_the_blocks_that_travel_at_a_time():
    model = lively(n_layers=8, dim=1024, n_heads=16, hidden_dim=4096)
    block = sum(p.nbytes for p in model.blocks()[0].parameters())
    whole = sum(p.nbytes for p in model.parameters())
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    offload(model, "cuda", keep=1)
    torch.cuda.reset_peak_memory_stats()
    generate(model, None, [[1, 2, 3]], max_new_tokens=8)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < whole - 4 * block  # one stays, two travel, and there is room for what is computed
    assert all(p.is_pinned() for p in model.blocks()[-1].parameters())


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_pruned_weights_are_those_of_the_cpu(method):
    texts = (
        None if method == "magnitude" else [torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(0))]
    )
    zeros = []
    for device in ("cpu", "cuda"):
        model = build(preset("tiny")).to(device)
        prune(model, method, sparsity=0.5, calibration=texts)
        zeros.append(torch.cat([p.detach().cpu().flatten() == 0 for p in model.parameters()]))
    assert zeros[0].float().mean() > 0.2
    assert (zeros[0] == zeros[1]).float().mean() > 0.999


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_tuning_on_packed_examples_follows_the_curve_of_the_cpu(method):
    examples = [
        EncodedExample(row, [False] * 9 + [True] * 3, label=sum(row) % 2)
        for row in TOKENS[:4800].reshape(-1, 12).tolist()
    ]
    packed = PackedExamples.pack(examples, seq_len=64)
    recipe = TrainConfig(steps=20, batch_size=8, seq_len=64, warmup_steps=4, lr=0.01)
    curves = []
    for device in ("cpu", "cuda"):
        model = with_labels(build(preset("tiny")).to(device), ("even", "odd"))
        prepare(model, method)
        curves.append([metrics["loss"] for metrics in Trainer(model, packed, recipe).run()])
        assert all(p.device.type == device for p in model.parameters())
    np.testing.assert_allclose(*curves, rtol=5e-3)


def test_a_resumed_run_repeats_the_unbroken_one(tmp_path):
    unbroken, _ = curve("cuda", "fp16")
    recipe = TrainConfig(steps=20, batch_size=8, seq_len=64, warmup_steps=4, precision="fp16", snapshot_every=10)
    first = Trainer(build(preset("tiny")).to("cuda"), TOKENS, recipe, out=tmp_path)
    for metrics in first.run():
        if metrics["step"] == 12:
            break
    second = Trainer(build(preset("tiny")).to("cuda"), TOKENS, recipe, out=tmp_path)
    assert second.resume()
    assert [metrics["loss"] for metrics in second.run()] == unbroken[10:]


@pytest.fixture
def nccl(tmp_path):
    """One process that speaks NCCL with itself: all the machinery, on a single GPU."""
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    device = torch.device("cuda:0")
    torch.cuda.set_device(device)
    yield Mesh(device=device, torch_mesh=init_device_mesh("cuda", (1, 1, 1), mesh_dim_names=DIMENSIONS))
    dist.destroy_process_group()


@pytest.mark.parametrize(("precision", "rtol"), [("fp32", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("compile", [False, True])
def test_sharded_training_follows_the_curve_of_the_cpu(nccl, precision, rtol, compile):
    """FSDP2, with its bf16 policy, eager and compiled."""
    expected, _ = curve("cpu", "fp32")
    recipe = TrainConfig(
        steps=20, batch_size=8, seq_len=64, warmup_steps=4, precision=precision, compile=compile, shard=True
    )
    trainer = Trainer(build(preset("tiny")).to("cuda"), TOKENS, recipe, mesh=nccl)
    np.testing.assert_allclose([metrics["loss"] for metrics in trainer.run()], expected, rtol=rtol)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices or more")
def test_every_layout_of_all_gpus_trains(tmp_path):
    n = 2 if torch.cuda.device_count() < 4 else 4
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    command = [*launcher, parallel_worker.__file__, tmp_path, "one layer"]
    subprocess.run(command, check=True, timeout=600, env=os.environ | {"DEVICE": "cuda"})
    mesh, changes = Mesh(device=torch.device("cuda:0")), parallel_worker.steps_of(n)
    _, one = parallel_worker.train(mesh, parallel_worker.SHAPES["one layer"], **changes)
    expected = [metrics["loss"] for metrics in one]
    for losses in parallel_worker.losses(tmp_path).values():
        np.testing.assert_allclose(losses, expected, rtol=1e-3)
