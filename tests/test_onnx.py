"""The ONNX graph, run by onnxruntime, beside the model it was made from: logits, cache, and greedy text."""

import copy

import pytest
import torch
from tiny_models import draw_model, make_lively

from llama_minimal.checkpoint import load as load_checkpoint
from llama_minimal.checkpoint import save
from llama_minimal.cli import main
from llama_minimal.config import RopeScaling, preset
from llama_minimal.evaluation import sliding_batches, sum_loss
from llama_minimal.finetuning import with_labels
from llama_minimal.generation import generate, stream
from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.model import build
from llama_minimal.quantization import quantize
from llama_minimal.settings import Sampling

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
numpy_helper = onnx.numpy_helper

from llama_minimal.integrations import onnx as way  # noqa: E402

YARN = RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=16)
KINDS = {
    "llama": {"n_kv_heads": 2, "tie_embeddings": True, "rope_scaling": YARN},
    "others": {
        "norm": "layer", "norm_placement": "post", "ffn": "relu", "position": "sinusoidal", "bias": True,
        "share_layers": 2,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """A model, and what onnxruntime makes of its graph."""
    model = make_lively(draw_model(**KINDS[request.param]), 1.3 if request.param == "llama" else 4.0)
    model.eos_ids = (60,)
    folder = tmp_path_factory.mktemp(request.param)
    assert way.export(model, folder) == folder / "model.onnx"
    return model, way.load(folder)[0], folder


def read(folder):
    return onnx.load(folder / "model.onnx", load_external_data=False)


@pytest.mark.parametrize(("B", "T"), [(1, 1), (1, 7), (2, 1), (2, 7), (3, 32)])
def test_a_whole_text_has_the_logits_of_the_model(both, B, T):
    model, graph, _ = both
    tokens = torch.randint(0, 61, (B, T), generator=torch.Generator().manual_seed(B + T))
    assert graph(tokens).shape == (B, T, 61)
    assert way.difference(model, graph, tokens) < 1e-4
    assert model(tokens).std() > 1  # so that 1e-4 is little


def test_steps_of_any_size_give_the_logits_of_the_whole(both):
    """The cache grows from nothing; two rows are at different places, and a step has one token or several."""
    model, graph, _ = both
    tokens = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(tokens)
    cache = graph.make_cache(batch_size=2, max_seq_len=24)
    last = torch.tensor([5, 3])  # the second prompt is shorter: two tokens of its row are padding
    torch.testing.assert_close(
        graph.next_logits(tokens[:, :6], last, cache=cache),
        expected[torch.arange(2), last], rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    at = last + 1
    for n in (1, 1, 3, 1):
        positions = at[:, None] + torch.arange(n)
        logits = graph(tokens.gather(1, positions), positions=positions, cache=cache)
        torch.testing.assert_close(logits, expected[torch.arange(2)[:, None], positions], rtol=1e-4, atol=1e-4)
        at = at + n


def test_the_one_decoding_loop_writes_the_same_text(both):
    model, graph, _ = both
    prompts = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12]]
    options = [{}, {"sampling": Sampling(temperature=1.0, top_p=0.9), "seed": 5}]
    for how in options:
        for some in (prompts, prompts[:1]):
            expected = generate(model, None, some, max_new_tokens=20, **how)
            assert generate(graph, None, some, max_new_tokens=20, **how) == expected
    assert len({tuple(row.tokens) for row in generate(model, None, prompts, max_new_tokens=20)}) == 3


def test_a_draft_helps_it_and_changes_nothing(both):
    from llama_minimal.adaptive_computation import PromptLookup

    model, graph, _ = both
    prompts = [[1, 2, 3, 1, 2], [4, 5, 4, 5, 4]]
    expected = generate(model, None, prompts, max_new_tokens=16)
    assert generate(graph, None, prompts, max_new_tokens=16, draft=PromptLookup(n=3)) == expected


def test_a_text_has_the_loss_that_the_model_gives_it(both):
    model, graph, _ = both
    tokens = torch.randint(0, 61, (70,), generator=torch.Generator().manual_seed(4)).numpy()
    losses = [sum_loss(one, sliding_batches(tokens, size=16, stride=8)) for one in (model, graph)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_weights_are_in_the_file_once(both):
    """A tied matrix and a shared block, too; beside them stand the tables of the positions, and the graph is small."""
    model, _, folder = both
    weights = sum(p.nbytes for p in model.parameters())
    tables = sum(table.nbytes for table in model.positions.tables)
    size = sum(numpy_helper.to_array(one, str(folder)).nbytes for one in read(folder).graph.initializer)
    assert weights <= size < 1.01 * (weights + tables)
    assert (folder / "model.onnx").stat().st_size < 1e6


def test_the_graph_is_a_valid_one_of_standard_operators(both):
    onnx.checker.check_model(str(both[2] / "model.onnx"), full_check=True)
    graph = read(both[2])
    assert {node.domain for node in graph.graph.node} == {""}
    assert [one.name for one in graph.graph.input] == list(way.INPUTS)
    assert [one.name for one in graph.graph.output] == list(way.OUTPUTS)


def test_what_ends_a_text_comes_along(both):
    _, graph, _ = both
    assert graph.eos_ids == (60,)


def test_what_the_graph_cannot_do_is_said(both):
    _, graph, folder = both
    with pytest.raises(ValueError, match="leave out cache="):
        generate(graph, None, [[1]], max_new_tokens=4, cache="int8")
    with pytest.raises(ValueError, match="compile=True is for a model in one process"):
        generate(graph, None, [[1]], max_new_tokens=4, compile=True)
    with pytest.raises(ValueError, match="33 tokens do not fit the context of 32"):
        graph(torch.zeros(1, 33, dtype=torch.long))
    with pytest.raises(ValueError, match="this onnxruntime has no NoSuchProvider, only"):
        way.load(folder, providers=["NoSuchProvider"])


def test_models_of_other_kinds_are_refused(tmp_path):
    tiny = build(preset("tiny"))
    adapted, few_bits = copy.deepcopy(tiny), copy.deepcopy(tiny)
    add_adapter(adapted, "new", LoRAConfig())
    quantize(few_bits, "int8")
    refused = {
        "quantized": few_bits,
        "bfloat16 on cpu": copy.deepcopy(tiny).bfloat16(),
        "tells labels apart": with_labels(copy.deepcopy(tiny), ("a", "b")),
        "with adapters": adapted,
        "float32 on meta": build(preset("tiny"), device="meta"),
        "only a whole model": tiny.layers["0"],
    }
    for message, model in refused.items():
        with pytest.raises(ValueError, match=message):
            way.export(model, tmp_path / "new")
        assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"has no model\.onnx"):
        way.load(tmp_path)


def test_the_command_line_converts_and_writes_with_it(tmp_path, capsys):
    source, graph = str(tmp_path / "model"), str(tmp_path / "graph")
    _, tokenizer = load_checkpoint("course")
    model = build(preset("tiny", n_layers=1, vocab_size=tokenizer.vocab_size))
    save(make_lively(model, 6.0), source, tokenizer)
    main(["convert", source, graph, "--format", "onnx"])
    out = capsys.readouterr().out
    assert out.startswith(f"saved in {graph}; over 128 tokens its logits differ by at most")
    assert float(out.split()[-1]) < 1e-2
    main(["generate", graph, "-p", "Once upon a time", "--max-new-tokens", "12", "--temperature", "0"])
    text = "".join(stream(model, tokenizer, "Once upon a time", max_new_tokens=12))
    assert capsys.readouterr().out == f"Once upon a time{text}\n"
    for wrong, message in (
        (["generate", graph, "--quantize", "int8"], "leave out --quantize"),
        (["generate", graph, "--offload", "0"], "leave out --offload"),
        (["convert", graph, source + "2"], "is an ONNX graph"),
        (["convert", source, graph + "2", "--format", "onnx", "--quantize", "int8"], "leave out --quantize"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert message in capsys.readouterr().err
