"""Snapshots of models that are spread over processes: any layout goes on from those of any other."""

import gc
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import TESTS, run
from safetensors.torch import load_file, save_file
from snapshot_worker import RECIPE, SHAPES, go_on, make_trainer

from llama_minimal.checkpoint import load, open_checkpoint, sharded
from llama_minimal.cli import main
from llama_minimal.metrics import read_metrics
from llama_minimal.run_folder import remove_snapshot
from llama_minimal.snapshot import snapshots

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are listed by /proc")

# name: (source or None, shape, layout); a folder is called after its name.
TWO = {
    "fsdp2": (None, "shared", {"shard": True, "then": ["fill_the_disk", "disagree"]}),
    "tp2": (None, "transformer", {"tensor": 2}),
    "pp2": (None, "tied", {"pipeline": 2}),
}
FOUR = {
    "one-pp2fsdp2": ("one2 shared", "shared", {"pipeline": 2, "shard": True, "then": ["load_the_best", "damage"]}),
    "fsdp2-tp2pp2": ("fsdp2", "shared", {"tensor": 2, "pipeline": 2}),
    "tp2-fsdp4": ("tp2", "transformer", {"shard": True}),
    "pp2-tp2fsdp2": ("pp2", "tied", {"tensor": 2, "shard": True, "then": ["load_the_best"]}),
}


def start(folder, jobs, *, n, until):
    jobs = [
        {"out": f"{folder / name}", "source": source and f"{folder / source}", "shape": shape, "until": until} | rest
        for name, (source, shape, rest) in jobs.items()
    ]
    (folder / f"jobs{n}").write_text(json.dumps(jobs))
    status, _, stderr, left = run(TESTS / "snapshot_worker.py", folder / f"jobs{n}", n=n)
    assert status == 0, stderr
    assert not left


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of one process, unbroken and until step 2; of two, until step 2; of four, until step 4."""
    folder = tmp_path_factory.mktemp("runs")
    for shape in ("shared", "transformer", "tied"):
        go_on(folder / f"one {shape}", shape)
    go_on(folder / "one2 shared", "shared", until=2)
    start(folder, TWO, n=2, until=2)
    start(folder, FOUR, n=4, until=4)
    return folder


@pytest.mark.parametrize("name", ["fsdp2", "tp2", "pp2", *FOUR])
def test_one_process_goes_on_from_any_layout_as_if_the_run_had_never_stopped(folder, tmp_path, name):
    """1 → 4, 2 → 4 and then → 1: every step, before and after, has the loss of the unbroken run."""
    _, shape, _ = (TWO | FOUR)[name]
    unbroken = read_metrics(folder / f"one {shape}" / "metrics.jsonl")
    go_on(tmp_path / "run", shape, source=folder / name)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [m["step"] for m in metrics] == list(range(1, RECIPE.steps + 1))
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose([m[key] for m in metrics], [m[key] for m in unbroken], rtol=1e-5)
    validated = [[m["validation_loss"] for m in run if "validation_loss" in m] for run in (metrics, unbroken)]
    np.testing.assert_allclose(*validated, rtol=1e-5)


def newest(run):
    return snapshots(run / "snapshots")[-1]


@pytest.mark.parametrize("name", ["fsdp2-tp2pp2", "tp2-fsdp4", "pp2-tp2fsdp2"])
def test_a_snapshot_holds_every_tensor_of_a_whole_model_once(folder, name):
    """Also where a stage has a layer or a matrix under another name, or two stages have the same one."""
    path, shape = newest(folder / name), FOUR[name][1]
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}  # nothing pickled
    whole = make_trainer(None, shape).model
    shapes = {name: tuple(p.shape) for name, p in whole.named_parameters()}
    found = sharded.index(path)
    assert {name.removeprefix("model."): w.shape for name, w in found.items() if name.startswith("model.")} == shapes
    for key in ("exp_avg", "exp_avg_sq"):
        state = {name: w.shape for name, w in found.items() if name.endswith(f".{key}")}
        assert state == {f"optimizer.{name}.{key}": size for name, size in shapes.items()}
    n_bytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    assert n_bytes < 1.4 * 12 * sum(p.numel() for p in whole.parameters())  # names and places take the rest


@pytest.mark.parametrize("name", ["fsdp2-tp2pp2", "tp2-fsdp4", "pp2-tp2fsdp2"])
def test_the_whole_model_is_what_pytorch_reads(folder, name):
    """Against PyTorch's own reader, bit for bit, from the parts of four processes; twice, for it opens files anew."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint import load as load_together

    path = newest(folder / name)
    model, _ = load(folder / name)  # a run's folder: its newest snapshot
    theirs = {f"model.{name}": torch.empty_like(p) for name, p in model.named_parameters()}
    with warnings.catch_warnings(action="ignore"):
        load_together(theirs, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    checkpoint = open_checkpoint(path)
    for tensors in (dict(checkpoint.tensors()), dict(checkpoint.tensors()), dict(model.named_parameters())):
        assert tensors.keys() == {name.removeprefix("model.") for name in theirs}
        for key, tensor in tensors.items():
            assert torch.equal(tensor, theirs[f"model.{key}"]), key


def live_bytes():
    tensors = [item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter)]
    dense = [t for t in tensors if not t.is_meta and t.layout == torch.strided]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in dense}
    return sum(storages.values())


def test_converting_holds_one_model_and_never_reads_a_part_twice(folder, tmp_path, monkeypatch):
    """And transformers gives the logits of the snapshot."""
    gc.collect()
    before, seen, reads = live_bytes(), [], []
    checked = sharded.checked

    def watched(tensor, name, path):
        reads.append((path, name))
        if len(reads) % 10 == 0:  # each look at all objects takes a while
            seen.append(live_bytes() - before)
        return checked(tensor, name, path)

    monkeypatch.setattr(sharded, "checked", watched)
    main(["convert", str(folder / "pp2-tp2fsdp2"), str(tmp_path / "hf"), "--format", "huggingface"])
    monkeypatch.undo()
    assert len(reads) == len(set(reads)) > 40
    model, _ = load(folder / "pp2-tp2fsdp2")
    sizes = [p.nbytes for p in model.parameters()]
    assert max(seen) < sum(sizes) + 3 * max(sizes)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf", attn_implementation="eager").eval()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), rtol=1e-4, atol=1e-5)


@pytest.fixture
def copy(folder, tmp_path):
    """A run of four processes whose snapshots may be damaged."""
    shutil.copytree(folder / "fsdp2-tp2pp2", tmp_path / "run")
    return tmp_path / "run"


def lose(path: Path):
    path.unlink()


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-20])


def strip(path: Path):
    """What is no part: a file of whole tensors under the name of one."""
    save_file(load_file(path), path)


@pytest.mark.parametrize("number", [1, 4])
def test_a_file_that_is_gone_is_named(folder, tmp_path, number):
    """Also the last one, without which every tensor that it had a part of looks like a smaller one."""
    shutil.copytree(folder / "tp2-fsdp4", tmp_path / "run")
    path, name = newest(tmp_path / "run"), f"shard-{number:05d}-model-00001-of-00001.safetensors"
    lose(path / name)
    trainer = make_trainer(tmp_path / "run", "transformer")
    for read in (trainer.resume, lambda: load(tmp_path / "run")):
        with pytest.raises(ValueError, match=f"{path.name} lacks {name}; put that back"):
            read()
    state = json.loads((path / "trainer.json").read_text())
    assert len(state.pop("shards")) == 4
    (path / "trainer.json").write_text(json.dumps(state))  # as it was written before files were listed
    with pytest.raises(ValueError, match="is missing"):
        trainer.resume()


@pytest.mark.parametrize("spoil", [lose, cut, strip])
@pytest.mark.parametrize("number", [1, 4])
def test_damaged_parts_are_refused(copy, spoil, number):
    path = newest(copy)
    spoil(path / f"shard-{number:05d}-model-00001-of-00001.safetensors")
    trainer = make_trainer(copy, "shared")
    for read in (trainer.resume, lambda: load(copy)):
        with pytest.raises(ValueError, match=r"damaged|lacks|file is missing"):
            read()


def test_a_number_that_is_none_is_refused(copy):
    path = newest(copy) / "shard-00001-model-00001-of-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-400:] = b"\xff" * 400  # NaN, in a tensor that stands last
    path.write_bytes(content)
    with pytest.raises(ValueError, match="NaN or infinity"):
        make_trainer(copy, "shared").resume()


def test_another_shape_is_refused(copy):
    with pytest.raises(ValueError, match=r"n_layers was 8|could not read"):
        make_trainer(copy, "grouped").resume()


def test_an_unfinished_snapshot_is_none_and_a_removed_one_is_gone(copy):
    last = newest(copy)
    (last / "trainer.json").unlink()
    assert newest(copy).name == "step-00000002"
    remove_snapshot(last)
    assert not last.exists()
    trainer = make_trainer(copy, "shared")
    assert trainer.resume()
    assert trainer.step == 2
    assert SHAPES["shared"].share_layers == 2
