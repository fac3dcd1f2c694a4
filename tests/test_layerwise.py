"""Layers on several devices compute what they compute on one."""

import pytest
import torch
from tiny_models import draw_model

from llama_minimal.beams import beam_search
from llama_minimal.checkpoint import load, save
from llama_minimal.cli import main
from llama_minimal.config import LlamaConfig
from llama_minimal.generation import generate
from llama_minimal.loss import next_token_loss
from llama_minimal.model import build
from llama_minimal.parallel.layerwise import load_layers, place_layers
from llama_minimal.settings import Sampling

TOKENS = torch.randint(61, (2, 13), generator=torch.Generator().manual_seed(1))
PROMPTS = [[1, 2, 3], [7, 60, 9, 11]]
SHAPE = {"dim": 32, "n_layers": 6, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 61, "hidden_dim": 48, "max_seq_len": 32}


def devices_of(model):
    return [next(layer.parameters()).device.type for layer in model.layers.values()]


def written(model):
    rows = generate(model, None, PROMPTS, max_new_tokens=12, sampling=Sampling(temperature=0.9), stop_ids=[])
    return [row.tokens for row in rows], beam_search(model, PROMPTS[0], beam_size=3, max_new_tokens=6)


def losses_of_training(model, n=4):
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for _ in range(n):
        total, count = next_token_loss(model(TOKENS[:, :-1]), TOKENS[:, 1:])
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


def test_a_placed_model_computes_writes_and_learns_what_it_did_before(switches):
    """Bit for bit: nothing is computed in another order."""
    one, placed = draw_model(**switches), draw_model(**switches)
    assert place_layers(placed, ["cpu", "cpu"]) is placed
    with torch.no_grad():
        torch.testing.assert_close(placed(TOKENS), one(TOKENS), rtol=0, atol=0)
    assert written(placed) == written(one)
    assert losses_of_training(placed) == losses_of_training(one)
    assert list(placed.state_dict()) == list(one.state_dict())


@pytest.mark.parametrize("changes", [{}, {"norm_placement": "post", "position": "sinusoidal"}], ids=str)
def test_everything_is_on_the_device_of_its_layer(changes):
    """The meta device holds no numbers, and refuses to add those of another device to its own."""
    model = place_layers(build(LlamaConfig(**SHAPE, **changes)), ["cpu", "meta"], balance=(2, 4))
    assert devices_of(model) == ["cpu"] * 2 + ["meta"] * 4
    assert (model.tok_embeddings.weight.device.type, model.output.weight.device.type) == ("cpu", "meta")
    cache = model.make_cache(batch_size=2, max_seq_len=16)
    assert [(part.keys[0].device.type, len(part.keys)) for part in cache.parts] == [("cpu", 2), ("meta", 4)]
    with torch.no_grad():
        prefill = model.hidden_states(TOKENS, cache=cache)
        positions = torch.full((2, 1), 13)
        step = model.hidden_states(TOKENS[:, :1], positions=positions, cache=cache)
    cache.select([1, 1])
    assert (prefill.device.type, prefill.shape) == ("meta", (2, 13, 32))
    assert (step.device.type, step.shape) == ("meta", (2, 1, 32))
    assert (
        torch.stack(cache.parts[0].keys)[:, :, :, :14].abs().sum(-1).min() > 0
    )  # the layers on the CPU have written theirs


def test_a_block_whose_input_stays_behind_is_found():
    """Without this the test above might pass on everything."""
    model = place_layers(build(LlamaConfig(**SHAPE)), ["cpu", "meta"])
    for layer in model.layers.values():
        layer._forward_pre_hooks.clear()
    with pytest.raises(RuntimeError, match=r"meta|device"):
        model.hidden_states(TOKENS)


def test_layers_are_shared_out_by_parameters_or_by_a_list():
    large = SHAPE | {"vocab_size": 2000}
    model = place_layers(build(LlamaConfig(**large), device="meta"), ["cpu", "meta", "cpu"], balance=(2, 2, 2))
    assert devices_of(model) == ["cpu"] * 2 + ["meta"] * 2 + ["cpu"] * 2
    # Embedding and output weigh more than three layers, so those in the middle go together.
    model = place_layers(build(LlamaConfig(**large), device="meta"), ["cpu", "meta", "cpu"])
    assert devices_of(model) == ["cpu"] + ["meta"] * 4 + ["cpu"]


def test_one_matrix_and_one_shared_block_stay_one():
    config = LlamaConfig(**SHAPE, tie_embeddings=True, share_layers=3)
    model = place_layers(build(config), ["cpu", "meta"], balance=(2, 4))
    assert devices_of(model) == ["cpu"] * 3 + ["meta"] * 3  # the first block is where it is used first
    assert model.output.weight is model.tok_embeddings.weight
    assert model.layers["0"] is model.layers["2"]


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True, "share_layers": 2}, {"norm": "layer"}], ids=str)
def test_a_model_is_loaded_straight_onto_its_devices(tmp_path, changes):
    model = draw_model(**(SHAPE | changes))
    save(model, tmp_path)
    loaded, _ = load_layers(tmp_path, ["cpu", "cpu"], balance=(2, 4))
    assert written(loaded) == written(load(tmp_path)[0])
    half, _ = load_layers(tmp_path, ["cpu", "meta"])
    assert set(devices_of(half)) == {"cpu", "meta"}


def test_the_command_line_knows_several_devices(capsys):
    flags = ["generate", "course", "-p", "Once", "--max-new-tokens", "8", "--temperature", "0"]
    main([*flags, "--device", "cpu"])
    expected = capsys.readouterr().out
    main([*flags, "--devices", "cpu", "cpu", "cpu"])
    assert capsys.readouterr().out == expected
    with pytest.raises(SystemExit):
        main([*flags, "--device", "cpu", "--devices", "cpu"])
    assert "give one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("devices", "balance", "words"),
    [
        (["cpu"] * 7, None, "7 devices cannot share 6 layers; give 1 to 6"),
        ([], None, "0 devices cannot share 6 layers"),
        ("cpu", None, "give a list"),
        (["cpu", "cuda:99"], None, "'cuda:99' is not available here"),
        (["cpu", "nonsense"], None, "is unknown"),
        (["cpu", "cpu"], (2, 2), r"must be 2 numbers of layers, each at least 1, that add up to n_layers=6"),
    ],
)
def test_devices_that_cannot_serve_are_refused_and_nothing_is_moved(devices, balance, words):
    model = build(LlamaConfig(**SHAPE))
    with pytest.raises(ValueError, match=words):
        place_layers(model, devices, balance)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"share_layers": 2, "bias": True}], ids=str)
def test_a_gpu_and_the_cpu_share_a_model(tmp_path, changes):
    one = draw_model(**(SHAPE | changes)).double()
    save(one, tmp_path)
    placed, _ = load_layers(tmp_path, ["cuda:0", "cpu"])
    assert devices_of(placed) == ["cuda"] * 3 + ["cpu"] * 3
    logits = placed(TOKENS.cuda())
    assert logits.device.type == "cuda"
    torch.testing.assert_close(logits.cpu(), one(TOKENS), rtol=1e-9, atol=1e-9)
    assert [row.tokens for row in generate(placed, None, PROMPTS, max_new_tokens=12, stop_ids=[])] == [
        row.tokens for row in generate(one, None, PROMPTS, max_new_tokens=12, stop_ids=[])
    ]
    total, _ = next_token_loss(logits[:, :-1], TOKENS[:, 1:].cuda())
    total.backward()
    next_token_loss(one(TOKENS)[:, :-1], TOKENS[:, 1:])[0].backward()
    for (name, mine), theirs in zip(placed.named_parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.cpu(), theirs.grad, rtol=1e-9, atol=1e-9, msg=name)
