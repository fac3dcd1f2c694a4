"""Costs: operations as PyTorch counts them, bytes as it stores them."""

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llama_minimal.config import PRESETS, LlamaConfig, preset
from llama_minimal.cost import flops_per_token, layer_activations, memory, parameters, training_memory
from llama_minimal.kv_cache import KVCache
from llama_minimal.model import build
from llama_minimal.optim import make_adamw
from llama_minimal.positions import rope_table


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
    assert need.kv_cache == sum(buffer.nbytes for buffer in (*cache.keys, *cache.values))


def test_training_takes_the_counted_bytes(make_model, switches):
    model = make_model(**switches)
    optimizer = make_adamw(model, lr=1e-3)
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    optimizer.step()
    held = sum(parameter.nbytes + parameter.grad.nbytes for parameter in model.parameters())
    held += sum(part.nbytes for state in optimizer.state.values() for part in state.values() if part.ndim)
    assert memory(model.config).training == held


@pytest.mark.parametrize("count", [memory, layer_activations, partial(training_memory, tokens=1)])
def test_a_precision_that_is_none_is_refused(count):
    with pytest.raises(ValueError, match="precision='bf17' is not one of 'fp32', 'bf16', 'fp16'"):
        count(preset("tiny"), precision="bf17")


def test_the_published_sizes_in_gigabytes():
    """LLaMA-7B in half precision is a download of 13.5 GB; its cache takes half a megabyte per token."""
    need = memory(preset("llama-7b"))
    assert need.weights == 13_476_831_232
    assert need.kv_cache / 2048 == 2 * 32 * 4096 * 2
    assert memory(preset("llama2-70b")).kv_cache / 4096 == 2 * 80 * 8 * 128 * 2


def kept_for_backward(model, x, rope):
    """Count the bytes of all tensors that a layer saves, weights and tables left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        is_table = tensor.is_complex()
        if storage.data_ptr() not in known and not is_table:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else another tensor might get its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.layers["0"](x, rope)
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("n_kv_heads", "ffn"), [(8, "swiglu"), (2, "swiglu"), (8, "relu"), (4, "gelu")])
def test_a_layer_keeps_the_counted_bytes(precision, n_kv_heads, ffn, monkeypatch):
    # On most CPUs half precision attends in float32; what is counted is what other devices keep.
    monkeypatch.setattr("llama_minimal.attention._is_wide_faster", lambda x: False)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    config = LlamaConfig(
        dim=256, n_layers=1, n_heads=8, n_kv_heads=n_kv_heads, vocab_size=9, hidden_dim=704, max_seq_len=64, ffn=ffn
    )
    x = torch.randn(2, 64, 256, dtype=dtype, requires_grad=True)
    rope = tuple(table[:, None] for table in rope_table(config.head_dim, 64))
    kept = kept_for_backward(build(config).to(dtype), x, rope)
    counted = 2 * 64 * layer_activations(config, precision=precision)
    of_statistics = 2 * 64 * (2 * 4 + 8 * 4)  # of the norms, and each head's logarithm of its softmax's sum
    assert kept == counted + of_statistics


def test_sequence_parallelism_divides_what_tensor_parallelism_leaves():
    config = preset("llama-7b")
    whole, cut = layer_activations(config), layer_activations(config, tensor=8)
    assert cut == whole / 8
    left = layer_activations(config, tensor=8, sequence_parallel=False)
    assert left - cut == pytest.approx(7 / 8 * 16 * 4096)  # in bytes: two norms of 4 + 2 + 2


def test_memory_of_one_rank_is_that_of_the_whole_divided():
    config = preset("llama-7b")
    whole = training_memory(config, tokens=2048)
    assert whole.states == memory(config).training
    assert whole.activations == 32 * 2048 * layer_activations(config)
    half = training_memory(config, tokens=2048, tensor=2)
    assert half.total == whole.total / 2
    assert training_memory(config, tokens=2048, shards=4).states == whole.states / 4
    assert training_memory(config, tokens=2048, shards=4).activations == whole.activations


def test_stages_divide_the_weights_and_not_the_activations_of_the_first():
    config = preset("llama-65b")
    whole, staged = training_memory(config, tokens=2048), training_memory(config, tokens=2048, pipeline=8)
    assert staged.activations == whole.activations  # an eighth of the layers, for eight micro-batches
    assert whole.states / 8 < staged.states < whole.states / 7
    assert training_memory(config, tokens=2048, pipeline=3).activations == pytest.approx(
        27 * 3 / 80 * whole.activations
    )


def test_checkpointing_keeps_the_inputs_and_one_layer():
    config = preset("llama-7b")
    kept = training_memory(config, tokens=10, checkpointing=True, tensor=2)
    assert kept.activations == 10 * (32 * 2 * 4096 / 2 + layer_activations(config, tensor=2))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pipeline": 100}, "pipeline=100 needs a layer for each stage, .* give 32 or fewer"),
        ({"pipeline": 0}, "pipeline=0 must be a whole number of at least 1"),
        ({"tensor": 3}, "tensor=3 does not divide n_kv_heads=32; .* among 1, 2, 4, 8, 16, 32 ranks"),
        ({"tensor": 0}, "tensor=0 must be a whole number of at least 1"),
        ({"tokens": -8}, "tokens=-8 must be a whole number of at least 1"),
        ({"shards": 0}, "shards=0 must be a whole number of at least 1"),
        ({"precision": "fp7"}, "precision='fp7' is not one of 'fp32', 'bf16', 'fp16'"),
    ],
)
def test_a_training_that_cannot_be_has_no_memory(options, says):
    config = preset("llama-7b")
    with pytest.raises(ValueError, match=says):
        training_memory(config, **{"tokens": 8} | options)
    if not {"tokens", "shards", "pipeline"} & set(options):
        with pytest.raises(ValueError, match=says):
            layer_activations(config, **options)


def test_the_precision_of_weights_and_cache_is_one_that_there_is():
    with pytest.raises(ValueError, match="precision='int8' is not one of"):
        memory(preset("tiny"), precision="int8")
