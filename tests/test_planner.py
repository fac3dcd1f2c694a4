"""The planner: what it says of memory, held against what is alive; and of layouts, against what others published."""

import random

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from llama_minimal import cost
from llama_minimal.chunked_loss import chunk_rows
from llama_minimal.config import PRESETS, LlamaConfig, preset
from llama_minimal.cost import Layout, Work, machine, peak, plans, serving, traffic
from llama_minimal.course.live_bytes import LiveBytes
from llama_minimal.course.memory_runs import CASES, Case, live_bytes_of, planned
from llama_minimal.course.record import recorded
from llama_minimal.kv_cache import KVCache
from llama_minimal.model import build
from llama_minimal.optim import make_adamw
from llama_minimal.quantization import QuantizedKVCache, quantize
from llama_minimal.quantization import weight_bytes as counted_bytes
from llama_minimal.reference.parallel import all_gather, all_reduce, reduce_scatter

SMALL = LlamaConfig(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=97, hidden_dim=160, max_seq_len=32)


# ---- memory, planned and counted


@pytest.mark.parametrize("name", ["bfloat16, checkpointing", "accumulation"])
def test_a_step_holds_what_is_planned(name):
    _, alive = planned(name)
    assert sum(alive.values()) == pytest.approx(live_bytes_of(CASES[name]).peak, rel=0.03)


@pytest.mark.parametrize(
    ("shape", "train"),
    [
        ({"n_kv_heads": 2, "vocab_size": 3000, "n_layers": 2}, {}),  # a large output
        ({"ffn": "gelu"}, {"precision": "bf16"}),
        ({"tie_embeddings": True}, {"batch_size": 4, "activation_checkpointing": True}),
        ({"n_layers": 8, "hidden_dim": 320}, {"batch_size": 2, "seq_len": 64}),
    ],
)
def test_other_shapes_too(shape, train):
    case = Case(shape={"dim": 128, "n_heads": 4, "hidden_dim": 352} | shape, train=train)
    _, alive = peak(case.config, case.work)
    assert sum(alive.values()) == pytest.approx(live_bytes_of(case).peak, rel=0.03)


def test_all_recorded_runs_hold_what_was_planned():
    rows = recorded("planned_memory")
    assert len(rows) >= 12
    assert {CASES[row["case"]].processes for row in rows} == {1, 2, 4}
    for row in rows:
        assert row["planned"] == pytest.approx(row["live"], rel=0.05), row["case"]
        assert row["resident"] > row["live"]


def test_two_ways_to_count_agree():
    """PyTorch's profiler hears of every block that its allocator gives out or takes back."""
    config, tokens = SMALL, torch.arange(64).view(2, 32)

    def work():
        model = build(config)
        optimizer = make_adamw(model, lr=1e-3)
        for _ in range(2):
            model(tokens).logsumexp(-1).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    with LiveBytes() as live:
        work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    stack, changes = list(profiled.profiler.kineto_results.experimental_event_tree()), []
    while stack:
        event = stack.pop()
        stack += event.children
        if event.tag.name == "Allocation":
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    alive = np.cumsum([size for _, size in sorted(changes)])
    assert live.peak == pytest.approx(alive.max(), rel=0.01)


def test_memory_that_is_shared_counts_once_and_what_is_shrunk_no_more():
    with LiveBytes() as live:
        a = torch.zeros(100)
        views = a.view(10, 10), a[:5], a.detach()
        assert live.now() == 400
        b = a + 1
        assert live.now() == 800
        b.untyped_storage().resize_(0)  # as FSDP lets parameters go
        assert live.now() == 400
        del a, views
        assert live.now() == 0
    assert live.peak == 800


def test_a_chunk_is_as_long_as_the_loss_makes_it():
    draw = random.Random(0)
    for _ in range(500):
        numbers = draw.randrange(1, 1 << 15), draw.randrange(1, 1 << 13), draw.randrange(1, 1 << 17)
        for dtype in (torch.float32, torch.bfloat16):
            assert cost.chunk_rows(*numbers, dtype.itemsize) == chunk_rows(*numbers, dtype)


# ---- properties of the formulas


def total(config, work, layout=None):
    return sum(peak(config, work, layout)[1].values())


@pytest.mark.parametrize("name", ["llama-7b", "llama-65b", "llama3-8b"])
def test_more_tokens_need_more_and_more_processes_less(name):
    config, work = preset(name), Work(seq_len=2048, sequences=8, micro_batch=2)
    whole = Work(seq_len=2048, sequences=8)
    assert total(config, Work(seq_len=2048, sequences=4)) < total(config, whole)
    assert total(config, Work(seq_len=2048, sequences=8, checkpointing=True)) < total(config, whole)
    assert total(config, whole) < total(config, Work(seq_len=2048, sequences=8, chunked_loss=False))
    for dimension in ("tensor", "pipeline"):
        needs = [total(config, work, Layout(**{dimension: n})) for n in (1, 2, 4, 8)]
        assert needs == sorted(needs, reverse=True)
    one = Work(seq_len=2048, checkpointing=True)
    needs = [total(config, one, Layout(data=n, shard=True)) for n in (2, 4, 8, 16)]
    assert needs == sorted(needs, reverse=True)


def test_what_is_alive_are_at_least_the_states():
    """Rajbhandari et al. 2020, §3.1: 16 bytes a parameter; after the step nothing else is there."""
    config = preset("llama-7b")
    n = sum(cost.parameters(config).values())
    step = cost.moments(config, Work(seq_len=1))["optimizer step"]
    assert step["weights"] + step["gradients"] + step["optimizer"] == 16 * n
    sharded = cost.moments(config, Work(seq_len=1), Layout(data=8, shard=True))["optimizer step"]
    assert sharded["optimizer"] == n  # 8 bytes of each, an eighth of them


def test_the_buckets_of_gradients_are_counted_as_communication():
    config, work = preset("llama-65b"), cost.Work(seq_len=2048)
    size = 4 * sum(cost.parameters(config).values())
    for layout, buckets in ((cost.Layout(data=64), size), (cost.Layout(), 0)):
        alive = cost.moments(config, work, layout)["optimizer step"]
        assert (alive["weights"], alive["communication"]) == (size, buckets)


def test_a_model_that_is_no_llama_is_refused():
    with pytest.raises(ValueError, match=r"norm='layer': the planner knows a LLaMA's layers, norm='rms'"):
        peak(LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=7, norm="layer"), Work(seq_len=4))
    with pytest.raises(ValueError, match=r"tensor=3 does not divide n_kv_heads=2; give another layout"):
        peak(SMALL, Work(seq_len=4), Layout(tensor=3))
    with pytest.raises(ValueError, match=r"micro_batch=0 must be a whole number of at least 1"):
        Work(seq_len=4, micro_batch=0)
    with pytest.raises(ValueError, match=r"data=-1 must be"):
        Layout(data=-1)


# ---- traffic


@pytest.mark.parametrize("P", [2, 3, 4, 8])
def test_rings_send_what_the_traffic_says(P):
    """The rings of chapters 10 and 11 count every byte."""
    n = 24
    work, config = Work(seq_len=4, sequences=2, micro_batch=1, precision="fp32"), SMALL.replace(vocab_size=96)
    arrays = [np.zeros(n, np.float32)] * P
    whole = sum(cost.parameters(config).values())
    copies = traffic(config, work, Layout(data=P))["data"]
    assert copies / whole == pytest.approx(all_reduce(arrays).sent[0] / n)
    shards = traffic(config, work, Layout(data=P, shard=True))["data"]
    gathers = 2 * 2 * all_gather([np.zeros(n // P, np.float32)] * P).sent[0]  # of 2 micro-batches, twice each
    assert shards / whole == pytest.approx((gathers + reduce_scatter(arrays).sent[0]) / n)


def test_sharding_sends_half_as_much_again():
    """Rajbhandari et al. 2020, §7.2: 3Ψ instead of 2Ψ, where parameters and gradients are as wide."""
    work = Work(seq_len=8, precision="fp32")
    copies, shards = (traffic(SMALL, work, Layout(data=4, shard=shard))["data"] for shard in (False, True))
    assert shards == pytest.approx(1.5 * copies)


def test_a_single_process_sends_nothing():
    assert set(traffic(SMALL, Work(seq_len=8), Layout()).values()) == {0}


# ---- plans


@pytest.mark.parametrize("gpus", [1, 7, 12, 64])
def test_every_layout_is_there_once(gpus):
    found = list(cost.layouts(gpus))
    assert len(set(found)) == len(found)
    assert all(layout.size == gpus for layout in found)
    triples = {(a, b, gpus // a // b) for a in range(1, gpus + 1) for b in range(1, gpus + 1) if gpus % (a * b) == 0}
    assert {(one.tensor, one.pipeline, one.data) for one in found} == triples


def test_plans_fit_and_the_fastest_comes_first():
    gpu = machine("a100-80gb")
    found = plans(preset("llama-13b"), gpu, gpus=16)
    fitting = [plan for plan in found if not plan.why_not]
    assert fitting == found[: len(fitting)]
    assert 0 < len(fitting) < len(found)
    seconds = [plan.seconds for plan in fitting]
    assert seconds == sorted(seconds)
    for plan in fitting:
        assert plan.needs == total(preset("llama-13b"), plan.work, plan.layout) <= cost.USABLE * gpu.memory
        assert 0 < plan.utilization <= 0.6
    copies = next(plan for plan in found if plan.layout == Layout(data=16))
    assert "even with checkpointing" in copies.why_not
    assert "of 80 GB 72 are for tensors" in copies.why_not


def test_the_largest_takes_as_long_as_its_makers_say():
    """Touvron et al. 2023, §2.4: 65B, 1.4 T tokens, 2,048 A100 of 80 GB, about 21 days."""
    best = plans(preset("llama-65b"), machine("a100-80gb"), gpus=2048, batch_tokens=2**22)[0]
    days = 1.4e12 / 2**22 * best.seconds / 86_400
    assert days == pytest.approx(21, rel=0.15)


def test_fsdp_trains_70b_as_torchtitan_does():
    """torchtitan, docs/performance.md: Llama 3 70B on 64 A100, shards only, all computed anew: 51.7 % of the peak."""
    found = plans(preset("llama3-70b"), machine("a100-80gb"), gpus=64, batch_tokens=64 * 8192)
    shards = next(plan for plan in found if plan.layout == Layout(data=64, shard=True))
    assert not shards.why_not
    assert shards.work.checkpointing
    assert shards.utilization == pytest.approx(0.517, abs=0.1)


def test_a_layout_that_cannot_be_says_why():
    reasons = {str(plan.layout): plan.why_not for plan in plans(preset("llama2-70b"), machine("h100-80gb"), gpus=160)}
    assert reasons["1 × 160 × 1"] == "tensor=160 does not divide n_kv_heads=8"
    assert reasons["1 × 1 × 160"] == "pipeline=160 is more than the 80 layers"
    few = plans(preset("llama-7b"), machine("h100-80gb"), gpus=64, batch_tokens=8 * 2048)
    assert any(plan.why_not == "a step has 8 sequences, fewer than data=64" for plan in few)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 0}, "gpus=0 must be a whole number of at least 1"),
        ({"gpus": 2.5}, "gpus=2.5 must be a whole number"),
        ({"gpus": 2, "utilization": 1.5}, "utilization=1.5 must be above 0 and at most 1"),
        ({"gpus": 2, "batch_tokens": 100}, "batch_tokens=100 is less than one sequence of 2048 tokens"),
        ({"gpus": 2, "seq_len": -1}, "seq_len=-1 must be"),
        ({"gpus": 2, "precision": "int8"}, "precision"),
    ],
)
def test_odd_questions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plans(preset("llama-7b"), machine("a100-80gb"), **options)
    with pytest.raises(ValueError, match="machine='abacus' is unknown; known are a100-40gb"):
        machine("abacus")


# ---- writing


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_take_what_the_formats_take(form, tied):
    config = SMALL.replace(tie_embeddings=tied)
    model = build(config, dtype=torch.float32 if form == "fp32" else torch.bfloat16)
    if form.startswith("int"):
        model = quantize(model, form)
    assert cost.weight_bytes(config, form) == counted_bytes(model)


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_the_cache_takes_what_it_takes(form):
    kind = QuantizedKVCache if form == "int8" else KVCache
    dtype = torch.float32 if form == "fp32" else torch.bfloat16
    kept = kind(SMALL, batch_size=3, max_seq_len=20, dtype=dtype)
    tensors = {id(t): t for part in vars(kept).values() if isinstance(part, list) for t in part if torch.is_tensor(t)}
    planned_bytes = serving(SMALL, machine("l4-24gb"), batch=3, context=20, cache_form=form).cache
    assert planned_bytes == sum(t.nbytes for t in tensors.values())


def test_few_texts_wait_for_memory_and_many_for_arithmetic():
    config, gpu = preset("llama-7b"), machine("a100-80gb")
    one, many = (serving(config, gpu, batch=batch, context=16) for batch in (1, 512))
    assert (one.limit, many.limit) == ("bandwidth", "arithmetic")
    assert one.seconds == (one.weights + one.cache) / gpu.bandwidth
    assert many.tokens_per_second > 50 * one.tokens_per_second
    assert not serving(preset("llama-65b"), gpu).fits
    assert serving(preset("llama-65b"), gpu, tensor=2).fits
    with pytest.raises(ValueError, match="tensor=3 does not divide n_kv_heads=32; give another number of GPUs"):
        serving(config, gpu, tensor=3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_planned(name):
    config = PRESETS[name]
    assert peak(config, Work(seq_len=128))[1]["weights"] >= 4 * sum(cost.parameters(config).values())
