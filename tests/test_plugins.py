"""An outside package, installed, brings a corpus, an application and an objective; a broken one stops nobody else."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from llama_minimal import plugins
from llama_minimal.applications import APPLICATIONS, application
from llama_minimal.cli import main
from llama_minimal.data import CORPORA, documents

ROOT = Path(__file__).parents[1]
MODULE = """
from llama_minimal.applications import Application, Example


def poems(argument):
    for i in range(int(argument or 40)):
        yield f"poem {i}", f"Rose number {i} is red, and violet number {i} is blue."


def doubled(model, batch):
    from llama_minimal.loss import next_token_loss

    total, count = next_token_loss(model(batch[0]), batch[1])
    return 2 * total, count


def _examples(n, *, split="train", seed=0):
    return [Example(f"{i} and one is", f" {i + 1}", "sums") for i in range(n)]


def _score(predictions, examples):
    return {"right": 100 * sum(a == e.answers[0] for a, e in zip(predictions, examples)) / len(examples)}


adding = Application(
    name="adding", metric="right", examples=_examples, score=_score, max_new_tokens=4,
    baselines=lambda train: {"always 1": lambda examples: ["1"] * len(examples)},
)


def odd(argument):
    yield "one", "text"
    yield {"text": "a dict"}


def failing(argument):
    yield "one", "text"
    raise KeyError("poem")


number = 7
"""
GOOD = {
    "corpora": {"poems": "outside_poems:poems", "odd": "outside_poems:odd", "failing": "outside_poems:failing"},
    "applications": {"adding": "outside_poems:adding"},
    "objectives": {"doubled": "outside_poems:doubled", "clash": "outside_poems:doubled"},
}
BAD = {
    "corpora": {"lost": "no_such_module:poems", "number": "outside_poems:number", "valley": "outside_poems:poems"},
    "applications": {"plain": "outside_poems:poems", "quits": "outside_quits:app"},
    "objectives": {"nameless": "outside_poems:nothing", "clash": "outside_poems:doubled"},
}


def wheel(folder, name, groups, modules):
    """Write a wheel by hand, as a build tool would: a package's files, and what it says of itself."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    lines = [
        f"[llama_minimal.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in of.items()) for group, of in groups.items()
    ]
    files = {
        **modules,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(lines),
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with two outside packages, put there by pip: a good one, and one of which everything is broken."""
    folder = tmp_path_factory.mktemp("outside")
    wheels = [
        wheel(folder, "poems-for-llamas", GOOD, {"outside_poems.py": MODULE}),
        wheel(folder, "broken-plugins", BAD, {"outside_quits.py": "raise SystemExit(3)\n"}),
    ]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", folder / "site", *wheels], check=True, timeout=300, capture_output=True)
    return folder / "site"


@pytest.fixture
def outside(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    yield
    for name in ("outside_poems", "outside_quits"):
        sys.modules.pop(name, None)


def command(site, *args):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    done = subprocess.run(
        [sys.executable, "-m", "llama_minimal", *map(str, args)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


TRAIN = (
    "train --vocab-size 300 --dim 16 --n-layers 1 --n-heads 2 --max-seq-len 32 --seq-len 16 --batch-size 4 "
    "--warmup-steps 1 --samples 0 --steps 3"
).split()


def test_training_on_an_outside_corpus_by_an_outside_objective(site, outside, tmp_path, capsys):
    run = ("--corpus", "poems:60", "--out", tmp_path / "run")
    done = command(site, *TRAIN, *run, "--objective", "doubled")
    assert done.returncode == 0, done.stderr
    assert "validation loss, as doubled counts it" in done.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["objective"] == "doubled"
    done = command(site, "evaluate", tmp_path / "run", "--application", "adding", "--n", "4")
    assert done.returncode == 0, done.stderr
    assert "adding: 4 test examples" in done.stdout
    assert "(2) always 1" in done.stdout
    assert done.stdout.splitlines()[2].split()[::2] == ["right", "25.0"]
    main([*TRAIN, "--corpus", "poems:60", "--out", str(tmp_path / "usual")])
    twice, once = ((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0] for name in ("run", "usual"))
    assert json.loads(twice)["loss"] == pytest.approx(2 * json.loads(once)["loss"], rel=1e-5)
    capsys.readouterr()
    # What a run began with, it goes on with.
    with pytest.raises(SystemExit):
        main(["train", "--out", str(tmp_path / "run"), "--resume", "--objective", "next-token"])
    assert "--objective was 'doubled', is 'next-token'" in capsys.readouterr().err
    main(["train", "--out", str(tmp_path / "run"), "--resume", "--steps", "4"])
    assert "resumed at step 3 of 4" in capsys.readouterr().out


def test_info_lists_them_and_names_the_broken_ones(site):
    done = command(site, "info")
    assert done.returncode == 0
    for line in (
        "corpora: failing (poems-for-llamas)",
        "corpora: poems (poems-for-llamas)",
        "applications: adding (poems-for-llamas)",
        "objectives: doubled (poems-for-llamas)",
    ):
        assert line in done.stdout
    for line in (
        "warning: the corpus 'lost' of the package broken-plugins cannot be used: loading no_such_module:poems gives "
        "ModuleNotFoundError: No module named 'no_such_module'",
        "the corpus 'number' of the package broken-plugins cannot be used: outside_poems:number is of the type int, "
        "and must be a function",
        "the corpus 'valley' of the package broken-plugins cannot be used: the name is built in, and no package can",
        "the application 'plain' of the package broken-plugins cannot be used: outside_poems:poems is of the type "
        "function, and must be an Application",
        "the application 'quits' of the package broken-plugins cannot be used: loading outside_quits:app gives "
        "SystemExit: 3",
        "the objective 'nameless' of the package broken-plugins cannot be used: loading outside_poems:nothing gives "
        "AttributeError",
        "the objective 'clash' of the package broken-plugins, poems-for-llamas cannot be used: 2 packages bring one",
    ):
        assert line in " ".join(done.stderr.split())
    assert len(done.stderr.splitlines()) == 7


def test_without_packages_nothing_is_listed(capsys):
    if any(entry_points(group=group) for group in plugins.GROUPS):
        pytest.skip("a plug-in is installed here")
    main(["info"])
    assert "installed packages" not in capsys.readouterr().out


def test_the_names_of_corpora(outside, tmp_path, monkeypatch):
    read = list(documents("poems:2"))
    assert [document.name for document in read] == ["poem 0", "poem 1"]
    assert read[1].text == "Rose number 1 is red, and violet number 1 is blue."
    assert len(list(documents("poems"))) == 40
    assert set(plugins.names(plugins.CORPORA)) == {*GOOD["corpora"], *BAD["corpora"]}
    assert next(documents("valley:1")).text != read[0].text
    for source, message in (
        ("odd", r"the corpus 'odd' of the package poems-for-llamas failed with '': it gave .* instead of a pair"),
        ("failing:x", r"the corpus 'failing' of the package poems-for-llamas failed with 'x': KeyError: 'poem'"),
        ("poems:many", r"failed with 'many': invalid literal for int"),
        ("lost:1", r"the corpus 'lost' of the package broken-plugins cannot be used: .* No module named"),
        ("number", r"type int, and must be a function"),
        (
            "poem",
            r"neither a path nor a known corpus; known are python-docs, .*, course, failing, lost, number, odd, poems$",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            list(documents(source))
    # What is there goes first: a new package does not change what a command reads.
    monkeypatch.chdir(tmp_path)
    Path("poems").mkdir()
    Path("poems/a.txt").write_text("mine")
    assert [document.text for document in documents("poems")] == ["mine"]


def test_the_names_of_applications(outside):
    adding = application("adding")
    assert adding.score(["1", "3"], adding.examples(2)) == {"right": 50.0}
    assert application("question_answering").name == "question_answering"
    for name, message in (
        ("plain", "must be an Application"),
        ("quits", r"gives SystemExit: 3"),
        ("nothing", "application='nothing' is not one of .*reports, adding, plain, quits"),
    ):
        with pytest.raises(ValueError, match=message):
            application(name)


def test_an_outside_application_writes_its_examples(outside, tmp_path, capsys):
    main(["examples", "adding", "--n", "2", "--out", str(tmp_path / "sums.jsonl")])
    assert json.loads((tmp_path / "sums.jsonl").read_text().splitlines()[1]) == {
        "prompt": "1 and one is",
        "completion": " 2",
    }
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main(["examples", "quits", "--out", str(tmp_path / "none.jsonl")])
    assert ending.value.code == 2
    assert "error: the application 'quits' of the package broken-plugins cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "none.jsonl").exists()


def test_find_returns_what_works_and_warns_of_the_rest(outside):
    with pytest.warns(UserWarning, match="broken-plugins") as warned:
        found = plugins.find(plugins.CORPORA, built_in=CORPORA)
    assert set(found) == set(GOOD["corpora"])
    assert len(warned) == 3
    with pytest.warns(UserWarning, match="broken-plugins"):
        assert set(plugins.find(plugins.APPLICATIONS, built_in=APPLICATIONS)) == {"adding"}
    with pytest.raises(ValueError, match="group='console_scripts' is not one of llama_minimal"):
        plugins.find("console_scripts")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nameless", "error: the objective 'nameless' of the package broken-plugins cannot be used: "),
        ("unheard", "error: --objective unheard is neither built in nor of an installed package; known are next-token"),
    ],
)
def test_an_objective_that_cannot_be_used_starts_nothing(outside, name, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ending:
        main([*TRAIN, "--out", str(tmp_path / "run"), "--objective", name])
    assert ending.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
