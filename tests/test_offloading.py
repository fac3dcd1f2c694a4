"""Offloading: the same text from blocks that come and go, each where it should be, and one at a time."""

import copy
from contextlib import nullcontext

import pytest
import torch
from tiny_models import draw_model, make_lively

from llama_minimal import offloading
from llama_minimal.checkpoint import load, save
from llama_minimal.cli import main
from llama_minimal.config import preset
from llama_minimal.generation import generate, stream
from llama_minimal.model import build
from llama_minimal.offloading import bytes_on, offload
from llama_minimal.quantization import quantize

PROMPTS = [[1, 2, 3], [5, 6, 7, 8]]


def lively(**changes):
    return make_lively(draw_model(**{"n_layers": 4, "n_kv_heads": 2} | changes), 1.3)


def texts(model, **options):
    return [row.tokens for row in generate(model, None, PROMPTS, max_new_tokens=20, **options)]


def watch(model, *, on):
    """Note before each block computes how many of its weights, and of all others', are on a device."""
    seen = []

    def look(block, _inputs):
        there = {name for name, p in model.named_parameters() if p.device.type == on and name.startswith("layers")}
        mine = [p.device.type == on for p in block.parameters()]
        seen.append((all(mine), {name.split(".")[1] for name in there}))

    for block in model.blocks():
        block.register_forward_pre_hook(look)
    return seen


@pytest.mark.parametrize("keep", [0, 1, 3, 4])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": True}, {"share_layers": 2}, {"norm_placement": "post", "bias": True}]
)
def test_the_text_is_that_of_the_whole_model(changes, keep):
    model = lively(**changes)
    expected = texts(model)
    keep = min(keep, len(model.blocks()))
    before = copy.deepcopy(model.state_dict())
    assert offload(model, "cpu", keep=keep) is model
    assert texts(model) == expected
    assert len({tuple(row) for row in expected}) == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_quantized_model_travels_in_its_few_bits(scheme):
    model = build(preset("tiny", n_layers=3))
    make_lively(model, 6.0)
    quantize(model, scheme, dtype="float32")
    expected, size = texts(model), bytes_on(model, "cpu")
    offload(model, "cpu", keep=1)
    assert texts(model) == expected
    assert bytes_on(model, "cpu") == size


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_what_the_cpu_laid_out_for_itself_is_put_back_first(scheme):
    model = make_lively(build(preset("tiny", n_layers=3)), 6.0)
    quantize(model, scheme)
    tokens = torch.tensor([[7]])
    with torch.no_grad():
        expected = model(tokens)  # by the processor's product, where it has one
        offload(model, "cpu", keep=1)
        torch.testing.assert_close(model(tokens), expected, rtol=0.05, atol=0.05 * float(expected.std()))
        offload(model, "cpu", keep=3)
        assert torch.equal(model(tokens), expected)


def test_bfloat16_whose_weights_lie_packed_gives_the_same_text():
    model = make_lively(build(preset("tiny", n_layers=3, dim=256)), 6.0).bfloat16()
    expected = texts(model)  # packs them
    assert texts(offload(model, "cpu", keep=1)) == expected


def test_a_cache_in_few_bits_and_beams_find_what_they_need():
    model = lively()
    expected = texts(model, cache="int8")
    assert texts(offload(model, "cpu", keep=2), cache="int8") == expected


def test_each_block_is_on_the_device_when_it_computes_and_at_home_otherwise():
    """On the meta device, which has no numbers, but knows what is where."""
    model = lively()
    offload(model, "meta", keep=1)
    resting = {name: p.device.type for name, p in model.named_parameters()}
    at_home = {name for name, device in resting.items() if device == "cpu"}
    assert at_home == {name for name in resting if name.startswith(("layers.1.", "layers.2.", "layers.3."))}
    assert model.device.type == "meta"
    seen = watch(model, on="meta")
    cache = model.make_cache(batch_size=2, max_seq_len=8)
    assert {buffer.device.type for buffer in (*cache.keys, *cache.values)} == {"meta"}
    with torch.no_grad():
        logits = model(torch.zeros(2, 5, dtype=torch.long, device="meta"), cache=cache)
    assert (logits.shape, logits.device.type) == ((2, 5, 61), "meta")
    assert seen == [(True, {"0"}), (True, {"0", "1"}), (True, {"0", "2"}), (True, {"0", "3"})]
    assert {name: p.device.type for name, p in model.named_parameters()} == resting


def test_bytes_on_the_device_are_those_of_what_stays():
    model = lively(tie_embeddings=True)
    blocks = [sum(p.nbytes for p in block.parameters()) for block in model.blocks()]
    whole = sum(p.nbytes for p in model.parameters())
    for keep in range(5):
        offload(copy.deepcopy(model), "meta", keep=keep)
        moved = offload(copy.deepcopy(model), "meta", keep=keep)
        assert bytes_on(moved, "cpu") == sum(blocks[keep:])
        assert bytes_on(moved, "meta") == whole - sum(blocks[keep:])


def test_it_can_be_placed_anew_and_taken_back(tmp_path):
    model = lively()
    expected = texts(model)
    for keep in (0, 2, 1, 4):
        offload(model, "cpu", keep=keep)
        assert texts(model) == expected
    assert all(block.runs_on is None and not block._forward_pre_hooks for block in model.blocks())
    with torch.enable_grad():
        model(torch.tensor([[1, 2]])).sum().backward()  # it learns again
    offload(model, "cpu", keep=1)
    save(model, tmp_path)
    assert texts(load(tmp_path)[0]) == expected


class Side:
    """Be CUDA's streams without CUDA, and note what is asked of them."""

    def __init__(self):
        self.asked = []

    def wait_stream(self, other):
        self.asked.append("wait")

    def __enter__(self):
        self.asked.append("send")

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_the_next_block_travels_while_one_computes(monkeypatch, keep):
    """The way of a GPU, with a stream that only takes notes."""
    side = Side()
    monkeypatch.setattr(offloading, "_side_stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream or nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: side)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: side.asked.append("record"))
    model = lively()
    expected = texts(model)
    offload(model, "cpu", keep=keep)
    assert texts(model) == expected
    trips = [block.traveling for block in model.blocks()[keep:]]
    per_pass = [one for one in side.asked if one != "record"]
    if keep == 3:  # it is alone: nothing to travel meanwhile
        assert per_pass == []
        return
    assert per_pass[:4] == ["send", "wait", "send", "wait"]  # the first one is waited for, the second travels already
    assert per_pass.count("send") == per_pass.count("wait") + 1
    assert [trip.coming is not None for trip in trips] == [True] + [False] * (len(trips) - 1)  # of the next pass
    assert side.asked.count("record") == per_pass.count("wait") * len(trips[0].home)


def test_after_an_error_the_weights_are_at_home():
    model = offload(lively(), "meta", keep=0)
    blow = model.layers["2"].feed_forward.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.long, device="meta"))
    blow.remove()
    assert all(p.device.type == "cpu" for block in model.blocks() for p in block.parameters())


def test_with_gradients_a_pass_is_an_error():
    model = offload(lively(), "cpu", keep=1)
    with pytest.raises(ValueError, match=r"learns nothing; call it under torch\.no_grad"):
        model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(
    ("keep", "device", "message"),
    [(5, "cpu", "keep=5 blocks, and the model has 4"), (-1, "cpu", "keep"), (1, "cuda:7", "not available")],
)
def test_bad_arguments_are_refused(keep, device, message):
    with pytest.raises(ValueError, match=message):
        offload(lively(), device, keep=keep)


def test_the_command_line_writes_the_same_text(capsys):
    command = ["generate", "course", "-p", "Once", "--max-new-tokens", "10", "--temperature", "0", "--device", "cpu"]
    main(command)
    expected = capsys.readouterr().out
    main([*command, "--offload", "2"])
    assert capsys.readouterr().out == expected
    model, tokenizer = load("course")
    assert expected == "Once" + "".join(stream(model, tokenizer, "Once", max_new_tokens=10)) + "\n"
    for wrong, message in ((["99"], "keep=99 blocks"), (["1", "--compile"], "leave one out"), (["-1"], "at least 0")):
        with pytest.raises(SystemExit):
            main([*command, "--offload", *wrong])
        assert message in capsys.readouterr().err
