"""Costs: operations as PyTorch counts them, bytes as it stores them."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llama_minimal.config import PRESETS, LlamaConfig, preset
from llama_minimal.cost import flops_per_token, memory, parameters
from llama_minimal.kv_cache import KVCache
from llama_minimal.model import build
from llama_minimal.optim import make_adamw


def counted(run):
    """Count the operations of a function; the plain kernel also computes what the causal mask then hides."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


T = 7


def test_a_forward_pass_takes_the_counted_operations(make_model, switches):
    model = make_model(**switches)
    per_token = flops_per_token(model.config, context=T)  # unmasked: every token looks at all T
    assert counted(lambda: model(torch.zeros(3, T, dtype=torch.long))) == 3 * T * sum(per_token.values())


def test_training_takes_three_times_as_many(make_model, switches):
    model, tokens = make_model(**switches), torch.zeros(3, T, dtype=torch.long)
    forward = counted(lambda: model(tokens))
    assert counted(lambda: model(tokens).sum().backward()) == 3 * forward


@pytest.mark.parametrize("context", [1, 9])
def test_a_step_of_decoding_takes_the_counted_operations_of_one_token(make_model, context):
    model = make_model(n_kv_heads=2)
    cache = KVCache(model.config, batch_size=1, max_seq_len=context)
    position = torch.tensor([[context - 1]])
    step = counted(lambda: model(torch.zeros(1, 1, dtype=torch.long), positions=position, cache=cache))
    assert step == sum(flops_per_token(model.config, context=context).values())


def test_a_causal_sequence_looks_at_half_of_itself_and_half_a_token():
    config = preset("llama-7b")
    every_token = [flops_per_token(config, context=t)["attention scores"] for t in range(1, T + 1)]
    assert sum(every_token) == T * flops_per_token(config, context=(T + 1) / 2)["attention scores"]


@pytest.mark.parametrize("name", PRESETS)
def test_without_attention_scores_a_token_takes_two_operations_per_matrix_element(name):
    """The 2N of Kaplan et al. 2020, §2.1: the output layer multiplies even where it is the embedding."""
    config = PRESETS[name]
    counts = parameters(config)
    flops = flops_per_token(config, context=0)
    assert flops["attention projections"] == 2 * counts["attention"]
    assert flops["feed-forward"] == 2 * counts["feed-forward"]
    assert flops["output"] == 2 * counts["embeddings"]
    assert flops["attention scores"] == 0


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.half)]
)
def test_weights_and_cache_take_the_counted_bytes(precision, dtype, switches):
    config = LlamaConfig(dim=32, n_layers=2, n_heads=4, vocab_size=61, max_seq_len=20, **switches)
    model = build(config, dtype=dtype)
    cache = KVCache(config, batch_size=1, max_seq_len=config.max_seq_len, dtype=dtype)
    need = memory(config, precision=precision)
    assert need.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert need.kv_cache == cache.keys.nbytes + cache.values.nbytes


def test_training_takes_the_counted_bytes(make_model, switches):
    model = make_model(**switches)
    optimizer = make_adamw(model, lr=1e-3)
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    optimizer.step()
    held = sum(parameter.nbytes + parameter.grad.nbytes for parameter in model.parameters())
    held += sum(part.nbytes for state in optimizer.state.values() for part in state.values() if part.ndim)
    assert memory(model.config).training == held


def test_the_published_sizes_in_gigabytes():
    """LLaMA-7B in half precision is a download of 13.5 GB; its cache takes half a megabyte per token."""
    need = memory(preset("llama-7b"))
    assert need.weights == 13_476_831_232
    assert need.kv_cache / 2048 == 2 * 32 * 4096 * 2
    assert memory(preset("llama2-70b")).kv_cache / 4096 == 2 * 80 * 8 * 128 * 2
