"""Several processes write what one writes: the same tokens, of which each computes its part."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import inference_worker
import launching
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import draw_model

from llama_minimal.checkpoint import load, save
from llama_minimal.checkpoint.tensors import write_safetensors
from llama_minimal.cli import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo over torchrun is tested on Linux and macOS")

BASE = {"n_layers": 4, "n_heads": 8, "n_kv_heads": 4}
SHAPES = {
    "grouped": {},
    "tied": {"tie_embeddings": True, "n_kv_heads": 8},
    "biased": {"bias": True, "head_dim": 12},
    "shared": {"share_layers": 2, "tie_embeddings": True},
    "transformer": {"norm": "layer", "norm_placement": "post", "ffn": "relu", "position": "sinusoidal", "bias": True},
}
LAYOUTS = [(n, layout) for n in (2, 4) for layout in inference_worker.LAYOUTS[n]]
CASES = [(n, layout, shape) for n, layout in LAYOUTS for shape in inference_worker.SHAPES[n]]
EACH_CASE = pytest.mark.parametrize(("n", "layout", "shape"), CASES, ids=lambda value: str(value).replace(", ", "x"))
EACH_LAYOUT = pytest.mark.parametrize(("n", "layout"), LAYOUTS, ids=lambda value: str(value).replace(", ", "x"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models on disk: float64, so that the order of sums does not matter, and one in 16 bits."""
    folder = tmp_path_factory.mktemp("models")
    for i, (name, changes) in enumerate(SHAPES.items()):
        model = draw_model(seed=i, **(BASE | changes)).double()
        save(model, folder / name, format="meta" if name == "grouped" else "auto")
    save(draw_model(**BASE).bfloat16(), folder / "half")
    save(draw_model(**BASE, dim=128, hidden_dim=256, vocab_size=512), folder / "large")
    save(draw_model(n_layers=1, n_heads=3, n_kv_heads=3, dim=36), folder / "odd")
    (folder / "text.txt").write_text("A cricket lived in the garden. The air was warm.\n" * 60)
    model, tokenizer = load("course", dtype="float32")
    for name in ("course", "damaged"):
        save(model, folder / name, tokenizer)
    path = folder / "damaged" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.3.self_attn.k_proj.weight"][-1, -1] = float("nan")  # in the last process's part
    write_safetensors(tensors, path)
    return folder


def torchrun(n, *arguments, stdin=None):
    """Start processes, leave none behind, and return what they wrote."""
    status, stdout, stderr, _ = launching.run(*arguments, n=n, timeout=600, stdin=stdin)
    return subprocess.CompletedProcess(arguments, status, stdout, stderr)


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    """Return a function: number of processes -> what each found, in their order; each number starts once."""

    @cache
    def run(n):
        out = tmp_path_factory.mktemp(f"processes-{n}")
        done = torchrun(n, Path(inference_worker.__file__), folder, out)
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads((out / f"{n}-{rank}.json").read_text()) for rank in range(n)]

    return run


@pytest.fixture(scope="module")
def alone(folder):
    """What one process writes with each model, as a JSON file would hold it."""
    return {name: json.loads(json.dumps(inference_worker.written(load(folder / name)[0]))) for name in SHAPES}


def of_layout(found, n, layout):
    return [process["x".join(map(str, layout))] for process in found(n)]


@EACH_CASE
def test_every_process_writes_what_one_alone_writes(found, alone, n, layout, shape):
    for process in of_layout(found, n, layout):
        several, one = process[shape], alone[shape]
        for kind in ("greedy", "sampled", "beams"):
            assert several[kind] == one[kind]
        assert several.get("window") == one.get("window")  # of positions that are added, there is none
        np.testing.assert_allclose(several["logits"], one["logits"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(several["loss"], one["loss"], rtol=1e-12)
    assert all(len(set(row)) > 5 for row in alone[shape]["sampled"])  # no row is one token all along


@EACH_LAYOUT
def test_all_processes_have_the_same_bits(found, n, layout):
    """So that they choose the same token where two are almost equal, in 16 bits too."""
    logits = [process["half"] for process in of_layout(found, n, layout)]
    assert all(other == logits[0] for other in logits)


@EACH_LAYOUT
def test_in_16_bits_the_logits_are_as_good_as_one_processs(found, folder, n, layout):
    model = load(folder / "half")[0]
    tokens = torch.tensor([inference_worker.PROMPTS[1]])
    with torch.no_grad():
        in_16 = model(tokens).double()
        exact = model.double()(tokens)
    several = torch.tensor(of_layout(found, n, layout)[0]["half"]).double()
    assert (several - exact).norm() < 1.5 * (in_16 - exact).norm()


@EACH_CASE
def test_the_cache_holds_the_layers_and_kv_heads_of_its_process_only(found, n, layout, shape):
    tensor, _ = layout
    n_kv_heads = (BASE | SHAPES[shape])["n_kv_heads"]
    processes = [process[shape]["cache"] for process in of_layout(found, n, layout)]
    assert all(len(parts) == 1 and parts[0][1:] == [n_kv_heads // tensor, 9] for parts in processes)
    assert sum(parts[0][0] for parts in processes) == BASE["n_layers"] * tensor


@EACH_LAYOUT
def test_loading_holds_this_processs_part_and_at_most_one_whole_tensor(found, folder, n, layout):
    whole = sum(p.nbytes for p in load(folder / "large")[0].parameters())
    largest = max(p.nbytes for p in load(folder / "large")[0].parameters())
    kept = [process["memory"]["kept"] for process in of_layout(found, n, layout)]
    for process in of_layout(found, n, layout):
        assert process["memory"]["peak"] <= process["memory"]["kept"] + largest + 1024  # and single numbers
    assert max(kept) + largest < 0.8 * whole  # else the line above would say little
    assert whole <= sum(kept) < 1.1 * whole


@EACH_LAYOUT
def test_a_text_is_streamed_alike(found, n, layout):
    texts = {process["streamed"] for process in of_layout(found, n, layout)}
    assert len(texts) == 1
    assert texts != {""}


@pytest.mark.parametrize("n", [2, 4])
def test_what_cannot_be_split_is_refused_with_the_values_that_would(found, n):
    for process in found(n):
        assert process["refusals"]["compile"] == "compile=True is for a model in one process; leave it out"
        tensor, pipeline, data = (process["refusals"][name] for name in ("tensor", "pipeline", "data"))
        assert len(tensor) == len(pipeline) == len(data) == 2  # in memory, and from a file
        assert all(f"tensor={n} does not divide n_kv_heads=3" in reason for reason in tensor)
        assert all("can be split among 1, 3 processes" in reason for reason in tensor)
        assert all(f"pipeline={n} needs a layer for each stage" in reason for reason in pipeline)
        assert all(f"{n} processes are more than tensor=1 × pipeline=1" in reason for reason in data)


def printed(capsys, *arguments):
    main(list(map(str, arguments)))
    return capsys.readouterr().out


@pytest.mark.parametrize("n", [2, 4])
def test_the_command_line_prints_what_one_process_prints_and_prints_it_once(found, folder, capsys, n):
    commands = [process["commands"] for process in found(n)]
    writing = ["generate", "course", "--prompt", "Once", "--max-new-tokens", 24, "--dtype", "float32"]
    text = folder / "text.txt"
    expected = {
        "greedy": printed(capsys, *writing, "--temperature", 0),
        "sampled": printed(capsys, *writing, "--num-samples", 2),
        "evaluate": printed(
            capsys, "evaluate", folder / "course", "--corpus", text, "--seq-len", 64, "--max-batches", 2
        ),
    }
    for name, one in expected.items():
        assert all(process[name]["status"] == 0 for process in commands)
        assert [process[name]["out"] for process in commands] == [one] + [""] * (n - 1)


@pytest.mark.parametrize("n", [2, 4])
def test_what_is_wrong_is_said_once(found, n):
    for name, words in {
        "damaged": "holds NaN or infinity",
        "too long": "shorten it",
        "chat": "start it without torchrun",
        "too few": "torchrun --nproc-per-node 3 -m llama_minimal generate … --tensor 3",
        "no flags": f"torchrun --nproc-per-node 2 -m llama_minimal generate … --tensor {n}",
        "devices": "--devices, --compile, --adapter and --offload are for one process",
    }.items():
        processes = [process["commands"][name] for process in found(n)]
        assert [process["status"] for process in processes] == [2] * n
        assert [process["out"] for process in processes] == [""] * n
        said = [process["err"] for process in processes if process["err"]]
        assert len(said) == 1, name
        assert words in " ".join(said[0].split())


def test_torchrun_reads_the_prompt_from_standard_input_once(folder, capsys):
    flags = ["--temperature", 0, "--max-new-tokens", 12, "--dtype", "float32", "--device", "cpu"]
    done = torchrun(2, "-m", "llama_minimal", "generate", "course", "-p", "-", "--tensor", 2, *flags, stdin="Once\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed(capsys, "generate", "course", "-p", "Once", *flags)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, and there are not so many")
@pytest.mark.parametrize("flag", ["--tensor", "--pipeline"])
def test_two_gpus_write_what_one_writes(capsys, flag):
    flags = ["-p", "Once", "--temperature", 0, "--max-new-tokens", 24, "--dtype", "float32", "--device", "cuda"]
    done = torchrun(2, "-m", "llama_minimal", "generate", "course", flag, 2, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed(capsys, "generate", "course", *flags)


def test_without_torchrun_the_message_says_how_to_start(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "course", "--tensor", "2", "--pipeline", "2"])
    error = capsys.readouterr().err
    assert "torchrun --nproc-per-node 4 -m llama_minimal generate … --tensor 2 --pipeline 2" in error
