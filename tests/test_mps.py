"""Apple's ``mps`` without an Apple: the CPU, under a device's name and with its limits.

A tensor "on mps" is a wrapper around one on the CPU. It says that its device is ``mps:0``, and it refuses what PyTorch
refuses there: float64 and complex numbers (as before macOS 14), operands on another device, NumPy, fused AdamW, grouped
queries in attention (as in PyTorch 2.6), the loss scaler's kernels (as before PyTorch 2.8), copies that do not wait.

So these tests prove that nothing in the package asks for such a thing, that no tensor is left on the wrong device, and
that the ways around compute the right numbers. They prove nothing about Apple's own kernels.
"""

import contextlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

import llama_minimal as lm
from llama_minimal import checkpoint, devices
from llama_minimal.attention import attention
from llama_minimal.beams import beam_search
from llama_minimal.config import LlamaConfig
from llama_minimal.data import sequential_batches
from llama_minimal.evaluation import sum_loss
from llama_minimal.generation import generate
from llama_minimal.mixed_precision import grad_scaler
from llama_minimal.model import build
from llama_minimal.parallel import Mesh, open_mesh
from llama_minimal.settings import Sampling, TrainConfig
from llama_minimal.training import Trainer

MPS = torch.device("mps", 0)
CONFIG = LlamaConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=50, hidden_dim=48, max_seq_len=32)
TOKENS = (np.random.default_rng(0).integers(1, 4, 2000).cumsum() % 50).astype(np.uint16)
NO_KERNEL = ("_fused_adam", "_amp_foreach_non_finite_check_and_unscale", "_amp_update_scale")


class OnMps(torch.Tensor):
    """A tensor of the CPU that says that it is on ``mps``."""

    @staticmethod
    def __new__(cls, inner):
        if inner.dtype == torch.float64 or inner.is_complex():
            raise TypeError(f"mps does not support {inner.dtype}")
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="cpu"
        )

    def __init__(self, inner):
        self.held = inner

    def __repr__(self):
        return f"OnMps({self.held})"

    @property
    def device(self):
        return MPS

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        name = func.__name__
        if name.startswith(NO_KERNEL):
            raise NotImplementedError(f"mps has no kernel for {name}")
        for x in tree_flatten((args, kwargs))[0]:
            elsewhere = isinstance(x, torch.Tensor) and not isinstance(x, OnMps)
            # A number as a tensor may come from anywhere; a copy may, if its format is known.
            if elsewhere and ((x.ndim and not name.startswith("copy_")) or (x.ndim and x.dtype == torch.float64)):
                raise RuntimeError(f"{name}: all tensors must be on mps:0, but one of {x.dtype} is on {x.device}")
        out = func(
            *tree_map_only(OnMps, lambda x: x.held, args), **tree_map_only(OnMps, lambda x: x.held, kwargs or {})
        )
        if name.split(".")[0].endswith("_") and isinstance(args[0], torch.Tensor):
            return args[0]
        return tree_map_only(torch.Tensor, OnMps, out)


def is_mps(device):
    return device is not None and torch.device(device).type == "mps"


class Simulation(TorchFunctionMode):
    """Send to the CPU what is made on, or moved to, ``mps``."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return self.move(*args, **kwargs) if func is torch.Tensor.to else self.move(args[0], "cpu")
        on_mps = bool(args) and isinstance(args[0], OnMps)
        if on_mps and func is torch.Tensor.numpy:
            raise TypeError("cannot make an array of a tensor on mps:0; copy it to the CPU first")
        if on_mps and func is torch.Tensor.tolist:
            return args[0].held.tolist()
        if func is torch.nn.functional.scaled_dot_product_attention and on_mps and kwargs.get("enable_gqa"):
            raise AssertionError("PyTorch 2.6 ends the process here")
        if is_mps(kwargs.get("device")):
            return OnMps(self.on_cpu(func, args, kwargs))
        return func(*args, **kwargs)

    def on_cpu(self, func, args, kwargs):
        """Make a tensor on the CPU that is asked for on mps, of a number, a list, or something like a tensor."""
        args = tree_map_only(OnMps, lambda x: x.held, args)
        return func(*args, **(kwargs | {"device": "cpu"}))

    def move(self, x, *args, **kwargs):
        kwargs.pop("copy", None)
        if args and isinstance(args[0], torch.Tensor):
            device, dtype, does_not_wait = args[0].device, args[0].dtype, kwargs.get("non_blocking", False)
        else:
            device, dtype, does_not_wait, _ = torch._C._nn._parse_to(*args, **kwargs)
        assert not does_not_wait or x.device.type == torch.device(device or x.device).type == "cpu"
        dtype = dtype or x.dtype
        if isinstance(x, OnMps) and device is not None and not is_mps(device):
            if dtype == torch.float64:
                raise TypeError("a copy from mps that converts to float64")
            return torch.Tensor.to(x.detach().held, device, dtype, copy=True)
        if is_mps(device) and not isinstance(x, OnMps):
            assert not x.requires_grad or x.is_leaf
            if torch.float64 in (x.dtype, dtype):
                raise TypeError("mps does not support float64")
            return OnMps(torch.Tensor.to(x.detach(), dtype, copy=True))
        return torch.Tensor.to(x, dtype)


class Generator(torch.Generator):
    """Random numbers for any device; Apple's has generators of its own."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu" if is_mps(device) else device)


@pytest.fixture
def mps(monkeypatch):
    """Work as on an Apple computer whose only accelerator is ``mps``."""
    real_autocast, real_enabled, real_dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    real_save = checkpoint.tensors.save_file
    cpu = lambda device: "cpu" if is_mps(device) else device  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "autocast", lambda device, **options: real_autocast(cpu(device), **options))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: real_enabled(cpu(device)))
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: real_dtype(cpu(device)))
    # The library copies to the CPU in a way that the simulation cannot see.
    inner = lambda tensors: {name: getattr(x, "held", x) for name, x in tensors.items()}  # noqa: E731
    monkeypatch.setattr(checkpoint.tensors, "save_file", lambda x, path, **rest: real_save(inner(x), path, **rest))
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with Simulation():
        yield MPS
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def pair(**changes):
    """The same model on the CPU and on mps."""
    model = build(CONFIG.replace(**changes), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # logits far apart
    twin = build(model.config, device="mps", seed=None)
    twin.load_state_dict(model.state_dict())
    return model.eval(), twin.eval()


def assert_near(given, wanted):
    """The two rotations round differently, and the numbers after them differ in the last digits."""
    assert (given.cpu() - wanted.detach()).norm() < 1e-5 * (wanted.norm() + 1)


def test_the_simulation_refuses_what_mps_refuses(mps):
    x = torch.ones(3, device="mps")
    assert x.device == (x + 1).device == torch.zeros_like(x).device == mps
    assert (x + 1).cpu().device.type == "cpu"
    for wrong in (
        lambda: x.double(),
        lambda: x.to("cpu", torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64).to("mps"),
        lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda: torch.complex(x, x),
        lambda: x.numpy(),
        lambda: x + torch.ones(3),
        lambda: torch.ones(3)[x.long()],
        lambda: x.copy_(torch.ones(3, dtype=torch.float64)),
    ):
        with pytest.raises((TypeError, RuntimeError)):
            wrong()
    with pytest.raises(AssertionError):
        torch.ones(3).to("mps", non_blocking=True)


def test_mps_is_the_default_where_there_is_no_cuda(mps, monkeypatch):
    assert devices.default_device() == torch.device("mps")
    assert devices.find_device("mps:0") == MPS
    assert devices.available_devices() == ["mps", "cpu"]
    with open_mesh() as mesh:
        assert mesh.device.type == "mps"
    with pytest.raises(ValueError, match="'mps:1' is not available here; this computer has mps, cpu"):
        devices.find_device("mps:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.default_device() == torch.device("cuda")
    assert devices.available_devices() == ["cuda:0", "cuda:1", "mps", "cpu"]
    assert devices.find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="cuda:2"):
        devices.find_device("cuda:2")


def test_several_processes_do_not_share_mps(mps, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="not on mps; give cpu"), open_mesh("mps"):
        pass


@pytest.mark.parametrize(
    "changes", [{}, {"n_kv_heads": 4}, {"position": "sinusoidal", "bias": True}, {"norm": "layer"}]
)
def test_the_model_computes_the_same_logits_and_gradients(mps, changes):
    model, twin = pair(**changes)
    tokens = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(2, 9, 50, generator=torch.Generator().manual_seed(1))
    logits, same = model(tokens), twin(tokens.to("mps"))
    assert same.device == mps
    assert_near(same, logits)
    (logits * weights).sum().backward()
    (same * weights.to("mps")).sum().backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert_near(other.grad, mine.grad)


def test_shared_keys_are_repeated(mps):
    q, k, v = (torch.randn(2, n, 5, 8, generator=torch.Generator().manual_seed(n)) for n in (4, 2, 2))
    same = attention(*(x.to("mps") for x in (q, k, v)), is_causal=True)
    torch.testing.assert_close(same.cpu(), attention(q, k, v, is_causal=True))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(temperature=0.9),
        Sampling(temperature=1.1, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2),
    ],
)
def test_the_same_text_is_written(mps, sampling):
    model, twin = pair()
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    expected = generate(model, None, prompts, max_new_tokens=12, sampling=sampling, seed=5)
    assert generate(twin, None, prompts, max_new_tokens=12, sampling=sampling, seed=5) == expected


def test_beam_search_finds_the_same(mps):
    model, twin = pair()
    expected, found = (beam_search(m, [1, 2, 3], beam_size=3, max_new_tokens=6, stop_ids=[7]) for m in (model, twin))
    assert [beam.tokens for beam in found] == [beam.tokens for beam in expected]


def curve(device, precision, tmp_path, *, steps=6):
    recipe = TrainConfig(
        steps=steps, batch_size=4, micro_batch_size=2, seq_len=16, warmup_steps=2, precision=precision, snapshot_every=3
    )
    model = build(CONFIG, seed=1)
    if device.type == "mps":
        model.to(device)
    out = tmp_path / f"{device.type}-{precision}"
    trainer = Trainer(model, TOKENS, recipe, out=out, validation=TOKENS[:200], mesh=Mesh(device=device))
    return [metrics["loss"] for metrics in trainer.run()], trainer


@pytest.mark.parametrize(("precision", "rtol"), [("fp32", 1e-6), ("bf16", 1e-4), ("fp16", 1e-4)])
def test_training_follows_the_curve_of_the_cpu(mps, precision, rtol, tmp_path):
    expected, first = curve(torch.device("cpu"), precision, tmp_path)
    losses, second = curve(mps, precision, tmp_path)
    np.testing.assert_allclose(losses, expected, rtol=rtol)
    assert second.validation_loss == pytest.approx(first.validation_loss, rel=rtol)
    assert all(p.device == mps and p.dtype == torch.float32 for p in second.model.parameters())
    assert not any(group["fused"] for group in second.optimizer.param_groups)
    assert second.scaler.state_dict() == first.scaler.state_dict()


def test_a_run_resumes_from_its_snapshot(mps, tmp_path):
    whole, trainer = curve(mps, "fp16", tmp_path)
    again = Trainer(build(CONFIG, seed=9).to(mps), TOKENS, trainer.config, out=tmp_path / "mps-fp16", mesh=trainer.mesh)
    for path in sorted((tmp_path / "mps-fp16" / "snapshots").glob("step-*6"))[:1]:
        path.rename(tmp_path / "set-aside")
    assert again.resume()
    assert again.step == 3
    assert [metrics["loss"] for metrics in again.run()] == whole[3:]


def test_the_scaler_skips_the_same_steps(mps):
    """Against PyTorch's own on the CPU: gradients that overflow now and then, scales that grow and shrink."""
    states = {}
    for device in ("cpu", "mps"):
        weight = torch.nn.Parameter(torch.ones(3).to(device))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        scaler = grad_scaler("fp16", torch.device(device))
        scaler.set_growth_interval(2)
        seen = states[device] = []
        for i, factor in enumerate([1.0, 1e38, 2.0, 3.0, float("nan"), 1.0, 1.0, 1e-30]):
            scaler.scale((weight * factor).sum()).backward()
            scaler.unscale_(optimizer)
            gradient = weight.grad.cpu().clone()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            seen.append((i, scaler.state_dict(), weight.detach().cpu().tolist(), gradient.nan_to_num().tolist()))
    assert states["mps"] == states["cpu"]
    scales = [state["scale"] for _, state, _, _ in states["cpu"]]
    assert any(a > b for a, b in pairwise(scales))
    assert any(a < b for a, b in pairwise(scales))


def test_evaluation_and_sums(mps):
    model, twin = pair()
    batches = list(sequential_batches(TOKENS[:300], batch_size=2, seq_len=16))
    expected = sum_loss(model, batches)
    assert sum_loss(twin, batches, device=mps) == pytest.approx(expected, rel=1e-6)
    third = torch.tensor(1 / 3, device="mps")
    assert Mesh(device=mps).sum(third, 1 / 3, 2) == [float(np.float32(1 / 3)), 1 / 3, 2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_checkpoints_load_and_save(mps, dtype, tmp_path):
    model = build(CONFIG, seed=3).to(dtype)
    lm.save(model, tmp_path / "cpu")
    refused = (
        pytest.raises(ValueError, match="mps has no float64") if dtype == torch.float64 else contextlib.nullcontext()
    )
    with refused:
        lm.load(tmp_path / "cpu", device="mps")
    twin, _ = lm.load(tmp_path / "cpu", device="mps", dtype=torch.float32)
    lm.save(twin, tmp_path / "mps")
    again, _ = lm.load(tmp_path / "mps")
    for mine, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine.float(), other, rtol=0, atol=0)


def test_weights_are_drawn_from_a_seed(mps):
    one, same, other = (build(CONFIG, device="mps", seed=seed) for seed in (1, 1, 2))
    weights = [model.output.weight.cpu() for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
