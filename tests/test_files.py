"""Saving is all or nothing: failures at every step, full disks and kills leave the old model or the new one."""

import errno
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_minimal.checkpoint import load, save
from llama_minimal.checkpoint.native import write_config
from llama_minimal.files import atomic_folder, made_folder, replace_file, replace_files, update_folder
from llama_minimal.locks import hold_folder
from llama_minimal.run_folder import remove_run
from llama_minimal.snapshot import snapshots

FORMATS = {
    "one-file": {"format": "huggingface"},
    "sharded": {"format": "huggingface", "max_shard_bytes": 12_000},
    "meta": {"format": "meta", "n_shards": 2},
    "native": {"format": "native"},
}
SIZES = {"vocab_size": 60, "hidden_dim": 200}  # even, so that Meta's format can cut them; one matrix has 25,600 bytes
every_format = pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """That the waiting is asked for, and when, shows in the calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def short(content: bytes) -> bytes | str:
    """Return long content as a digest: pytest needs minutes to explain how two long ones differ."""
    return content if len(content) < 100 else hashlib.sha256(content).hexdigest()


def content(folder) -> dict:
    """Return every file below a folder, hidden ones too, and what it holds."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): short(file.read_bytes()) for file in files}


def weights(model) -> str:
    return short(b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters()))


def outcome(folder) -> str | None:
    """Return the weights of the model in a folder, or None if the folder is recognized as incomplete."""
    try:
        return weights(load(folder)[0])
    except ValueError as error:
        assert "is it the folder of a model" in str(error)  # noqa: PT017 - a model is as good an outcome
        return None


class Killed(BaseException):
    """Stands for a signal: no handler of errors catches it."""


MOVES = ("mkdir", "replace", "rename", "unlink", "remove", "rmdir")


def fail_at(monkeypatch, names, n, error, *, for_good=False) -> list:
    """Let the n-th call of the named functions of ``os`` raise; return a list of the calls.

    Args:
        n: a number, or several.
        for_good: so do all later ones, as of a process that is dead.
    """
    calls, ns = [], n if isinstance(n, set) else {n}

    def failing(name, real):
        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) in ns or (for_good and len(calls) > n):
                raise error
            return real(*args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(os, name, failing(name, getattr(os, name)))
    return calls


# ----------------------------------------------------------------- the three helpers


def fill_file(tmp_path):
    return replace_files(tmp_path / "folder" / "file.txt"), lambda files: files[0].write(b"new")


def fill_folder(tmp_path):
    return atomic_folder(tmp_path / "folder" / "sub"), lambda path: (path / "file.txt").write_text("new")


def fill_update(tmp_path):
    def write(path):
        for name in ("file.txt", "last.txt"):
            (path / name).write_text("new")

    return update_folder(tmp_path / "folder", last="last.txt", obsolete=["old*"]), write


@pytest.mark.parametrize("make", [fill_file, fill_folder, fill_update])
def test_an_error_in_the_middle_changes_nothing(tmp_path, make):
    (tmp_path / "folder").mkdir()
    for name in ("file.txt", "last.txt", "old.txt"):
        (tmp_path / "folder" / name).write_text("old")
    before = content(tmp_path)
    manager, write = make(tmp_path)
    with pytest.raises(ZeroDivisionError), manager as path:
        write(path)
        raise ZeroDivisionError
    assert content(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("make", [fill_file, fill_folder, fill_update])
def test_without_an_error_all_is_there_and_nothing_else(tmp_path, make):
    manager, write = make(tmp_path)
    with manager as path:
        write(path)
        assert not {file.name for file in (tmp_path / "folder").iterdir()} & {"file.txt", "last.txt", "sub"}
    assert set(content(tmp_path).values()) == {b"new"}
    assert not list(tmp_path.rglob(".*"))


def test_an_update_keeps_what_it_does_not_replace_and_removes_what_is_obsolete(tmp_path):
    for name in ("file.txt", "last.txt", "old-1.txt", "old-2.txt", "mine.txt"):
        (tmp_path / name).write_text("old")
    with update_folder(tmp_path, last="last.txt", obsolete=["old*", "*-2.txt", "absent"]) as path:
        for name in ("last.txt", "old-2.txt", "new.txt"):
            (path / name).write_text("new")
    new = dict.fromkeys(["last.txt", "old-2.txt", "new.txt"], b"new")
    assert content(tmp_path) == {"file.txt": b"old", "mine.txt": b"old"} | new


def test_everything_is_on_the_disk_before_the_first_file_is_replaced(tmp_path, monkeypatch):
    calls = fail_at(monkeypatch, ["fsync", "replace", "unlink"], 0, None)
    with update_folder(tmp_path, last="b") as path:
        for name in "abc":
            (path / name).write_text(name)
    assert calls[:3] == ["fsync"] * 3
    assert [call for call in calls[3:] if call != "unlink"] == ["replace"] * 3 + ["fsync"]  # the last: of the new names


# ------------------------------------------------------------------------- save


@every_format
def test_a_save_that_fails_at_any_moment_before_the_exchange_changes_nothing(
    tmp_path, make_model, monkeypatch, options
):
    """Let each flush to the disk fail in turn; only the last one comes after the exchange."""
    save(make_model(seed=1, **SIZES), tmp_path / "model", **options)
    before = content(tmp_path)
    for n in itertools.count(1):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            calls = fail_at(patch, ["fsync"], n, OSError(errno.ENOSPC, "No space left on device"))
            save(make_model(seed=2, **SIZES), tmp_path / "model", **options)
        if content(tmp_path) != before:
            break
        assert len(calls) == n
    assert n == len(before) + 1  # one flush per file, then the folder's
    assert weights(load(tmp_path / "model")[0]) == weights(make_model(seed=2, **SIZES))
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(FORMATS, 2)))
def test_a_kill_during_the_exchange_leaves_the_old_model_the_new_one_or_none_but_no_mixture(
    tmp_path, make_model, monkeypatch, old, new
):
    """Stop at each renaming and each removal in turn."""
    save(make_model(seed=1, **SIZES), tmp_path / "old", **FORMATS[old])
    known = [weights(make_model(seed=seed, **SIZES)) for seed in (1, 2)]
    for n in itertools.count(1):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(tmp_path / "old", tmp_path / "model")
        with monkeypatch.context() as patch:
            fail_at(patch, MOVES, n, Killed(), for_good=True)
            try:
                save(make_model(seed=2, **SIZES), tmp_path / "model", **FORMATS[new])
                break
            except Killed:
                pass
        assert outcome(tmp_path / "model") in [None, *known]
    assert n > 2
    # Nothing of the old model is left behind.
    save(make_model(seed=2, **SIZES), tmp_path / "fresh", **FORMATS[new])
    assert content(tmp_path / "model").keys() == content(tmp_path / "fresh").keys()
    assert weights(load(tmp_path / "model")[0]) == known[1]


@every_format
def test_a_kill_during_an_exchange_of_equal_formats_is_noticed(tmp_path, make_model, monkeypatch, options):
    """Old and new files have the same names here, so only the missing config tells that they do not belong together."""
    outcomes = []
    for n in itertools.count(1):
        save(make_model(seed=1, **SIZES), tmp_path, **options)
        with monkeypatch.context() as patch:
            fail_at(patch, MOVES, n, Killed(), for_good=True)
            try:
                save(make_model(seed=2, **SIZES), tmp_path, **options)
                break
            except Killed:
                pass
        outcomes.append(outcome(tmp_path))
    old, new = (weights(make_model(seed=seed, **SIZES)) for seed in (1, 2))
    assert [found for found, _ in itertools.groupby(outcomes)] == [old, None, new]  # the config goes first, comes last


@pytest.mark.parametrize(("old", "new"), list(itertools.product(FORMATS, repeat=2)))
def test_after_a_kill_the_next_save_has_the_former_model_back_even_if_it_is_refused(
    tmp_path, make_model, monkeypatch, old, new
):
    whole = []
    for name, seed, options in (("old", 1, FORMATS[old]), ("new", 2, FORMATS[new])):
        save(make_model(seed=seed, **SIZES), tmp_path / name, **options)
        whole.append(content(tmp_path / name))
    for n in itertools.count(1):
        model = shutil.copytree(tmp_path / "old", tmp_path / f"model-{n}")
        with monkeypatch.context() as patch:
            fail_at(patch, MOVES, n, Killed(), for_good=True)
            try:
                save(make_model(seed=2, **SIZES), model, **FORMATS[new])
                break
            except Killed:
                pass
        with pytest.raises(ValueError, match="n_shards=3"):
            save(make_model(seed=3, **SIZES), model, format="meta", n_shards=3)
        assert content(model) in whole
    assert n > 5


SETS = {  # of files that belong together, and which goes first and comes last
    "one": ({"config.json": "1", "model.txt": "1"}, "config.json"),
    "other": ({"config.json": "2", "model.txt": "2"}, "config.json"),
    "cut": ({"config.json": "3", "index.json": "3", "model-1.txt": "3", "model-2.txt": "3"}, "config.json"),
    "meta": ({"params.json": "4", "weights.txt": "4"}, "params.json"),
}


def put(folder, name) -> None:
    files, last = SETS[name]
    with update_folder(folder, last=last, obsolete=["config.json", "params.json", "index.json", "*.txt"]) as path:
        for file, text in files.items():
            (path / file).write_text(text)


def put_all(folder, *names) -> list[dict]:
    """Put each set into a folder of its own, and return what is in them."""
    for name in names:
        put(folder / name, name)
    return [content(folder / name) for name in names]


@pytest.mark.parametrize(("old", "new"), [*itertools.permutations(SETS, 2)])
@pytest.mark.parametrize("second", [1, 2, 3, 5])
def test_whoever_is_killed_while_putting_files_back_loses_nothing_either(tmp_path, monkeypatch, old, new, second):
    whole = put_all(tmp_path, old, new)
    for n in itertools.count(1):
        folder = shutil.copytree(tmp_path / old, tmp_path / f"folder-{n}")
        with monkeypatch.context() as patch, suppress(Killed):
            calls = fail_at(patch, MOVES, n, Killed(), for_good=True)
            put(folder, new)
        if len(calls) < n:
            break
        with monkeypatch.context() as patch, suppress(Killed, ZeroDivisionError):
            fail_at(patch, MOVES, second, Killed(), for_good=True)
            with update_folder(folder, last=SETS[old][1]):
                raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), update_folder(folder, last=SETS[old][1]):
            raise ZeroDivisionError
        assert content(folder) in whole
    assert n > 5


@pytest.mark.parametrize(("old", "new"), [*itertools.permutations(SETS, 2)])
@pytest.mark.parametrize("again", [None, 1, 2, 3])
def test_ctrl_c_at_any_moment_leaves_the_old_files_or_the_new_ones(tmp_path, monkeypatch, old, new, again):
    """Pressed once nothing is missing; pressed again, while files are put back, the next save has them."""
    whole = put_all(tmp_path, old, new)
    for n in itertools.count(1):
        folder = shutil.copytree(tmp_path / old, tmp_path / f"folder-{n}")
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            pressed = {n, n + again} if again else {n}
            calls = fail_at(patch, MOVES, pressed, KeyboardInterrupt())
            put(folder, new)
        if len(calls) < n:
            break
        if again:
            with suppress(ZeroDivisionError), update_folder(folder, last=SETS[old][1]):
                raise ZeroDivisionError
        assert {name: text for name, text in content(folder).items() if not name.startswith(".")} in whole
    assert n > 5


def test_files_that_somebody_put_in_the_place_of_those_moved_aside_stay(tmp_path, monkeypatch):
    put(tmp_path, "one")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        fail_at(patch, ["rename", "replace"], 3, Killed(), for_good=True)
        put(tmp_path, "other")
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(ZeroDivisionError), update_folder(tmp_path, last="config.json"):
        raise ZeroDivisionError
    assert (tmp_path / "config.json").read_text() == "mine"
    assert {path.read_text() for path in tmp_path.glob(".update.*/old/*")} == {"1"}  # nothing is lost


def test_what_an_earlier_version_left_moved_aside_comes_back(tmp_path, make_model):
    save(make_model(seed=1, **SIZES), tmp_path)
    aside = tmp_path / ".update.123.tmp" / "old"
    aside.mkdir(parents=True)
    for path in tmp_path.glob("*.*"):
        if path.is_file():
            path.rename(aside / path.name)
    assert outcome(tmp_path) is None
    with pytest.raises(ValueError, match="n_shards=3"):
        save(make_model(seed=2, **SIZES), tmp_path, format="meta", n_shards=3)
    assert outcome(tmp_path) == weights(make_model(seed=1, **SIZES))
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_save_left_is_removed_even_if_its_process_had_our_id(tmp_path, make_model):
    """In a container every run may have the same process id."""
    for name in (f".update.{os.getpid()}.tmp", ".update.1.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    save(make_model(), tmp_path)
    assert content(tmp_path).keys() == {"config.json", "model.safetensors"}
    assert not list(tmp_path.glob(".*"))


@contextmanager
def largest_file(size: int):
    """Let writing past a size fail, as on a full disk (Python ignores the signal that would end the process)."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@every_format
@pytest.mark.parametrize("size", [0, 500, 5000, 10_000, 15_000, 22_000])
def test_a_full_disk_is_an_os_error_that_names_the_file_and_changes_nothing(tmp_path, make_model, options, size):
    model = make_model(seed=2, **SIZES)
    save(make_model(seed=1, **SIZES), tmp_path, **options)
    before = content(tmp_path)
    with pytest.raises(OSError, match=r"could not write (model.*safetensors|consolidated.00.pth)"), largest_file(size):
        save(model, tmp_path, **options)
    assert content(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_target_that_cannot_be_a_folder_is_named(tmp_path, make_model, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        save(make_model(), tmp_path / "file" / below)
    assert content(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "safetensors"}, "'huggingface', 'meta', 'native'"),
        ({"format": "meta", "n_shards": 3}, "n_kv_heads=4 cannot be cut into n_shards=3"),
        ({"format": "meta", "n_shards": 0}, "n_shards=0 must be a whole number of at least 1"),
    ],
    ids=["unknown", "uneven", "none"],
)
def test_a_save_that_cannot_be_is_refused_and_changes_nothing(tmp_path, make_model, options, says):
    save(make_model(seed=1, **SIZES), tmp_path)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=says):
        save(make_model(seed=2, **SIZES), tmp_path, **options)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        *({"norm": "layer"}, {"norm_placement": "post"}, {"ffn": "gelu"}, {"position": "none"}, {"share_layers": 2}),
        {"ffn": "relu", "position": "sinusoidal"},
    ],
    ids=str,
)
def test_switches_that_a_format_lacks_are_named_before_anything_changes(tmp_path, make_model, changes):
    save(make_model(seed=1, **SIZES), tmp_path)
    before = content(tmp_path)
    for format, more in (("huggingface", {}), ("meta", {}), ("meta", {"bias": True})):
        with pytest.raises(ValueError, match="format='native'") as error:
            save(make_model(**changes, **more), tmp_path, format=format)
        assert all(f"{name}={value!r}" in str(error.value) for name, value in (changes | more).items())
        assert content(tmp_path) == before


def test_what_is_not_the_models_stays_in_the_folder(tmp_path, make_model):
    """A run's folder holds its data and its log beside the model."""
    mine = {"data/validation.bin": b"1", "metrics.jsonl": b"{}", "README.md": b"x", "data/old.safetensors": b"2"}
    for name, bytes in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes)
    for options in FORMATS.values():
        save(make_model(**SIZES), tmp_path, **options)
        assert mine.items() <= content(tmp_path).items()


def test_saving_leaves_the_model_as_it_was(tmp_path, make_model):
    model = make_model(n_kv_heads=2, **SIZES)
    before = [parameter.clone() for parameter in model.parameters()]
    for name, options in FORMATS.items():
        save(model, tmp_path / name, **options)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(p.requires_grad and p.is_contiguous() for p in model.parameters())


# --------------------------------------------------------------------- Windows


@pytest.fixture
def windows(monkeypatch):
    """The rules of Windows: folders cannot be opened, only what is open for writing can be flushed.

    Files in the set that this gives are open in another program: they can be neither moved nor replaced nor deleted.
    """
    fcntl = pytest.importorskip("fcntl")
    opened = set()
    real = {name: getattr(os, name) for name in ("open", "rename", "replace", "unlink")}

    def w_open(path, flags, *args, **kwargs):
        if os.path.isdir(path):  # noqa: PTH112
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real["open"](path, flags, *args, **kwargs)

    def w_fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    def guarded(name):
        def call(*paths, **kwargs):
            for path in paths:
                if os.fspath(path) in opened:
                    raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))
            return real[name](*paths, **kwargs)

        return call

    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # how it removes folders there
    monkeypatch.setattr(os, "open", w_open)
    monkeypatch.setattr(os, "fsync", w_fsync)
    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, guarded(name))
    return opened


@every_format
def test_a_model_is_saved_under_the_rules_of_windows(tmp_path, make_model, windows, options):
    for seed in (1, 2):
        save(make_model(seed=seed, **SIZES), tmp_path / "model", **options)
    assert weights(load(tmp_path / "model")[0]) == weights(make_model(seed=2, **SIZES))
    assert not list(tmp_path.rglob(".*"))


def test_a_run_is_trained_under_the_rules_of_windows(tmp_path, windows):
    from llama_minimal.cli import main

    text = tmp_path / "text.txt"
    text.write_text("One line after another. " * 200)
    flags = "--preset tiny --vocab-size 280 --warmup-steps 1 --batch-size 2 --seq-len 16 --samples 0 --snapshot-every 1"
    for more in (["--steps", "2"], ["--steps", "4", "--resume"], ["--steps", "2", "--overwrite"]):
        main(["train", "--corpus", str(text), "--out", str(tmp_path / "run"), *flags.split(), *more])
    assert load(tmp_path / "run")[1]


def test_an_old_snapshot_that_is_read_elsewhere_does_not_stop_a_run(tmp_path, windows):
    from llama_minimal.cli import main

    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("One line after another. " * 200)
    flags = "--preset tiny --vocab-size 280 --warmup-steps 1 --batch-size 2 --seq-len 16 --samples 0 --snapshot-every 1"
    train = ["train", "--corpus", str(text), "--out", str(run), "--keep-snapshots", "1", "--no-keep-best"]
    main([*train, *flags.split(), "--steps", "1"])
    windows.add(str(run / "snapshots" / "step-00000001" / "model.safetensors"))
    main([*train, *flags.split(), "--steps", "2", "--resume"])
    assert [path.name for path in snapshots(run / "snapshots")] == ["step-00000002"]
    windows.clear()
    main([*train, *flags.split(), "--steps", "3", "--resume"])
    assert [path.name for path in (run / "snapshots").iterdir()] == ["step-00000003"]
    windows.add(str(run / "model.safetensors"))
    with pytest.raises(PermissionError, match="another program may have it open"):
        remove_run(run)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells which files are mapped")
def test_nothing_is_deleted_or_moved_that_is_mapped_into_memory(tmp_path, monkeypatch):
    """Windows refuses to."""
    from llama_minimal.cli import main

    seen = []

    def watched(call):
        def check(path, *others, **options):
            maps = Path("/proc/self/maps").read_text()
            mapped = [line for line in maps.splitlines() if str(path) in line]
            seen.append(str(path))
            assert not mapped, mapped
            return call(path, *others, **options)

        return check

    for module, name in ((shutil, "rmtree"), (shutil, "move"), (os, "unlink")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("One line after another. " * 200)
    flags = "--preset tiny --vocab-size 280 --warmup-steps 1 --batch-size 2 --samples 0 --snapshot-every 1".split()
    train = ["train", "--corpus", str(text), "--out", str(run), *flags, "--keep-snapshots", "1"]
    with pytest.raises(SystemExit):
        main([*train, "--seq-len", "5000", "--max-seq-len", "5000"])
    assert not run.exists()
    main([*train, "--seq-len", "16", "--steps", "2"])
    main([*train, "--seq-len", "16", "--steps", "4", "--resume"])
    main([*train, "--seq-len", "16", "--steps", "2", "--overwrite"])
    assert any(path.endswith("trainer.safetensors") for path in seen)


def test_a_new_folder_that_is_watched_gets_a_sentence(tmp_path, monkeypatch):
    """As antivirus programs do it."""

    def refuse(*paths):
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError, match="another program may have it open"), atomic_folder(tmp_path / "a") as new:
        (new / "file").write_text("x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("victim", ["model.safetensors", "config.json", "model-00002-of-00003.safetensors"])
def test_a_file_that_is_open_elsewhere_is_named_and_the_old_model_stays_whole(tmp_path, make_model, windows, victim):
    old = {"max_shard_bytes": 12_000} if "of" in victim else {}
    save(make_model(seed=1, **SIZES), tmp_path, **old)
    before = content(tmp_path)
    names = {name for name in before if name.startswith("model-00002")} if "of" in victim else {victim}
    windows.update(str(tmp_path / name) for name in names)
    with pytest.raises(PermissionError, match=r"another program may have it open.*close it and try again") as error:
        save(make_model(seed=2, **SIZES), tmp_path)
    assert next(iter(names)) in str(error.value)
    assert content(tmp_path) == before
    windows.clear()
    save(make_model(seed=2, **SIZES), tmp_path)
    assert weights(load(tmp_path)[0]) == weights(make_model(seed=2, **SIZES))


def test_an_exchange_that_fails_at_any_file_is_undone(tmp_path, make_model, monkeypatch):
    """Old and new have other files: those that came are gone again, and those that went are back."""
    save(make_model(seed=1, **SIZES), tmp_path, max_shard_bytes=12_000)
    before = content(tmp_path)
    for n in itertools.count(1):
        with monkeypatch.context() as patch:
            fail_at(patch, ["replace"], n, OSError(errno.EIO, "Input/output error"))
            try:
                save(make_model(seed=2, **SIZES), tmp_path, format="meta", n_shards=2)
                break
            except OSError:
                pass
        assert content(tmp_path) == before
        assert not list(tmp_path.rglob(".*"))
    assert n > 2
    assert weights(load(tmp_path)[0]) == weights(make_model(seed=2, **SIZES))


def test_saving_leaves_hidden_and_unknown_files_of_others(tmp_path, make_model):
    mine = {".notes.tmp": b"1", ".draft.v2.tmp": b"2", "lora.safetensors": b"3", "model_old.safetensors": b"4"}
    mine |= {".notes.1.tmp": b"5", ".notes.20240131.tmp": b"6", ".backup.2024.tmp/letter.txt": b"7"}
    (tmp_path / ".backup.2024.tmp").mkdir()
    for name, bytes in mine.items():
        (tmp_path / name).write_bytes(bytes)
    (tmp_path / ".model.safetensors.llama-0123abcd.tmp").touch()  # what a killed process left
    for options in FORMATS.values():
        save(make_model(**SIZES), tmp_path, **options)
        assert mine.items() <= content(tmp_path).items()
    assert not (tmp_path / ".model.safetensors.llama-0123abcd.tmp").exists()


# -------------------------------------------------- what else may be in a folder


def write_parts(model, folder) -> None:
    """Write a folder as several processes do, each its part; here one has all."""
    folder.mkdir()
    write_config(model, folder)
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    offsets = {name: {"saved_offsets": [0] * tensor.dim()} for name, tensor in tensors.items()}
    metadata = {"DCP_SHARDING_INFO": json.dumps(offsets)}
    save_file(tensors, folder / "shard-00001-model-00001-of-00001.safetensors", metadata)


def write_pickled(model, folder) -> None:
    """Write a folder as the transformers library once did."""
    save(model, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("write", [write_parts, write_pickled, *FORMATS])
def test_what_is_loaded_is_what_was_saved_last_whatever_was_there(tmp_path, make_model, write, options):
    old, new = (make_model(seed=seed, **SIZES) for seed in (1, 2))
    if callable(write):
        write(old, tmp_path / "model")
    else:
        save(old, tmp_path / "model", **FORMATS[write])
    assert weights(load(tmp_path / "model")[0]) == weights(old)
    save(new, tmp_path / "model", **options)
    assert weights(load(tmp_path / "model")[0]) == weights(new)
    assert not list((tmp_path / "model").glob("shard-*"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "consolidated.00.pth", "generation_config.json"])
def test_a_folder_with_the_name_of_a_file_is_refused_and_stays(tmp_path, make_model, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match=rf"{name} is a folder.*move it, or give another name"):
        save(make_model(), tmp_path)
    assert content(tmp_path) == {f"{name}/letter.txt": b"mine"}


def test_a_folder_that_comes_to_have_the_name_of_a_new_file_is_refused_and_stays(tmp_path):
    with pytest.raises(ValueError, match="is a folder"), update_folder(tmp_path, last="last") as path:
        (path / "file").write_text("new")
        (tmp_path / "file").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_links_among_the_files_that_change_place_come_back_after_an_error(tmp_path, monkeypatch):
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "lost").symlink_to("nowhere")
    for n in (3, 0):
        update = update_folder(tmp_path, last="link")
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt), update as path:
            for name in ("link", "lost", "new"):
                (path / name).write_text("new")
            fail_at(patch, ["replace"], n, KeyboardInterrupt())
        assert (tmp_path / "link").is_symlink() == (tmp_path / "lost").is_symlink() == (n == 3)
    assert content(tmp_path) == {"there": b"old", "link": b"new", "lost": b"new", "new": b"new"}


def test_what_is_no_file_is_never_replaced_by_one(tmp_path, monkeypatch):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        monkeypatch.chdir(tmp_path)
        made.bind("socket")  # whose names must be short
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    for name in before:
        with pytest.raises(ValueError, match="is a folder" if name == "folder" else "a pipe, a socket or a device"):
            replace_file(tmp_path / name, b"new")
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file").write_text("old")
    (tmp_path / "link").symlink_to("disk/file")
    (tmp_path / "new").symlink_to("disk/new")
    for name in ("link", "new"):
        replace_file(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
    assert content(tmp_path / "disk") == {"file": b"new", "new": b"new"}
    assert not list(tmp_path.rglob(".*"))


# ------------------------------------------------------------- two processes at once


def forked(*works) -> None:
    """Run functions in processes of their own, at the same time; fail if one of them does."""
    children = []
    for work in works:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(works)


def test_processes_that_write_into_one_folder_spoil_nothing_of_each_other(tmp_path):
    pytest.importorskip("fcntl")
    whole = put_all(tmp_path, "one", "cut", "meta")
    folder = tmp_path / "folder"
    folder.mkdir()

    def update(name):
        done = 0
        while done < 30:
            try:
                put(folder, name)
                done += 1
            except ValueError as error:
                assert "another process is at work in" in str(error)  # noqa: PT017

    def write():
        for i in range(300):
            with replace_files(folder / "log") as (file,):
                file.write(b"x")
            with atomic_folder(folder / f"step-{i:08d}") as path:
                (path / "file").write_text("x")

    forked(lambda: update("one"), lambda: update("cut"), lambda: update("meta"), write)
    assert len(list(folder.glob("step-*/file"))) == 300
    found = content(folder)
    assert {name: text for name, text in found.items() if text != b"x"} in whole
    assert found["log"] == b"x"
    assert not list(folder.glob(".*"))


def test_a_save_leaves_what_another_process_is_writing(tmp_path):
    pytest.importorskip("fcntl")
    with replace_files(tmp_path / "model.gguf") as (file,), atomic_folder(tmp_path / "step-00000001") as path:
        (path / "file").write_text("x")
        forked(lambda: put(tmp_path, "one"))
        file.write(b"x")
    assert {"model.gguf": b"x", "step-00000001/file": b"x", "config.json": b"1"}.items() <= content(tmp_path).items()


def test_a_folder_that_another_process_holds_is_refused_and_whoever_holds_it_may_save(tmp_path):
    pytest.importorskip("fcntl")
    code = "import sys, pathlib; from llama_minimal.files import update_folder as u\n"
    code += "with u(pathlib.Path(sys.argv[1]), last='a') as path: (path / 'a').touch()"
    put(tmp_path, "one")
    before = content(tmp_path)
    with hold_folder(tmp_path):
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert f"another process is at work in {tmp_path}; wait for it, or give another folder" in other.stderr
        assert content(tmp_path) == before
        put(tmp_path, "other")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0
    assert (tmp_path / "a").exists()


def test_a_folder_is_held_by_one_at_a_time_and_new_folders_go_with_a_failure(tmp_path):
    pytest.importorskip("fcntl")
    with hold_folder(tmp_path), pytest.raises(ValueError, match="another process"), hold_folder(tmp_path):
        pass
    with hold_folder(tmp_path):
        pass
    (tmp_path / "old").mkdir()
    with pytest.raises(ZeroDivisionError), made_folder(tmp_path / "old" / "new" / "newest"):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), made_folder(tmp_path / "full" / "of"):
        (tmp_path / "full" / "mine").touch()
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "mine", "old"]
