"""Recorded runs: resumable, honest about the code that made them, and true of the code that is here."""

import importlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from llama_minimal.course import experiments, record
from llama_minimal.course.experiments import find, is_timed, names
from llama_minimal.course.lab import small_run
from llama_minimal.course.record import recorded, rerun

ROOT = Path(__file__).parents[1]
RECORDED = sorted((ROOT / "chapters" / "recorded").glob("*.json"))

MODULE = '''"""Powers."""

WHAT = "Powers of two numbers."
BUDGET = "One multiplication."
POINTS = [{"base": base, "seed": seed} for base in (2, 3) for seed in (0, 1)]


def run(*, base: float, seed: int) -> dict[str, float]:
    return {"power": base**2.5 + seed, "log": float("inf") if seed else -1.5, "count": base}
'''


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """An empty folder of chapters, and beside it one for made-up experiments: ``put(name, source)``."""
    code = tmp_path / "code"
    code.mkdir()
    (tmp_path / "chapters").mkdir()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within a second would look like one
    monkeypatch.setattr(record, "CHAPTERS", tmp_path / "chapters")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(code)])
    put("powers", MODULE, tmp_path)
    yield tmp_path / "chapters"
    forget("powers")


def put(name, source, folder):
    """Write an experiment as a user would who then starts Python anew."""
    (folder / "code" / f"{name}.py").write_text(source, encoding="utf-8")
    forget(name)


def forget(name):
    sys.modules.pop(f"llama_minimal.course.experiments.{name}", None)
    importlib.invalidate_caches()


def content(chapters, name="powers"):
    return json.loads((chapters / "recorded" / f"{name}.json").read_text(encoding="utf-8"))


def same(a, b, tolerance=0.0):
    return a.keys() == b.keys() and all(
        math.isclose(a[name], b[name], rel_tol=tolerance) or (math.isnan(a[name]) and math.isnan(b[name])) for name in a
    )


def test_points_and_figures_come_back_as_a_direct_run_gives_them(chapters):
    record.record("powers")
    module = find("powers")
    assert recorded("powers") == [point | dict(module.run(**point)) for point in module.points]
    assert rerun("powers", base=3, seed=1) == {"power": 3**2.5 + 1, "log": math.inf, "count": 3}
    assert rerun("powers", base=7, seed=0)["power"] == 7**2.5  # none of the list
    written = content(chapters)
    assert (written["what"], written["budget"], written["seeds"]) == (module.what, module.budget, [0, 1])
    assert set(written["machine"]) == {"cpu", "cores", "threads", "platform"}
    assert set(written["versions"]) >= {"python", "torch", "numpy"}
    assert "Infinity" not in (chapters / "recorded" / "powers.json").read_text()  # which is no JSON


def test_a_run_that_is_killed_goes_on_where_it_was(chapters, tmp_path):
    """The killed one runs in another process, and is ended in its third point."""
    calls = tmp_path / "calls"
    slow = MODULE.replace(
        "    return {",
        f"    import pathlib, time\n    calls = pathlib.Path({str(calls)!r})\n"
        "    calls.open('a').write(f'{base}{seed} ')\n"
        "    if (base, seed) == (3, 0) and calls.read_text().count('30') == 1:\n        time.sleep(300)\n    return {",
    )
    put("powers", slow, tmp_path)
    code = (
        "import sys, pathlib\nfrom llama_minimal.course import experiments, record\n"
        f"experiments.__path__.append({str(tmp_path / 'code')!r})\n"
        f"record.CHAPTERS = pathlib.Path({str(chapters)!r})\nrecord.main(sys.argv[1:])"
    )
    running = subprocess.Popen([sys.executable, "-c", code, "powers"], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            if running.poll() is not None or (calls.exists() and "30" in calls.read_text()):
                break
            time.sleep(0.1)
    finally:
        running.kill()
        running.communicate(timeout=60)
    before = content(chapters)["points"]
    assert [entry["point"] for entry in before] == find("powers").points[:2]
    with pytest.raises(ValueError, match=r"2 of 4 points; go on with: python -m llama_minimal.course.record powers"):
        recorded("powers")
    done = subprocess.run([sys.executable, "-c", code, "powers"], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout.splitlines()[0].startswith("powers: 4 of 4 points")) == (0, True)
    assert calls.read_text().split() == ["20", "21", "30", "30", "31"]  # the killed one twice, the others once
    assert content(chapters)["points"][:2] == before
    assert len(recorded("powers")) == 4


def test_ctrl_c_keeps_what_is_done(chapters, tmp_path, capsys):
    put(
        "powers",
        MODULE.replace("    return {", "    if base == 3:\n        raise KeyboardInterrupt\n    return {"),
        tmp_path,
    )
    with pytest.raises(SystemExit) as ended:
        record.main(["powers"])
    assert ended.value.code == 130
    assert "are kept" in capsys.readouterr().err
    assert len(content(chapters)["points"]) == 2


def test_other_code_makes_all_points_stale_and_says_so(chapters, tmp_path):
    record.record("powers")
    put("powers", MODULE.replace("2.5", "3.5"), tmp_path)
    with pytest.raises(ValueError, match=r"other code than experiments/powers\.py; run: python -m"):
        recorded("powers")
    assert "to be run anew" in record.status("powers")
    said = []
    record.record("powers", say=said.append)
    assert said == ["powers.json was recorded with other code; all points are run anew"]
    assert recorded("powers")[0]["power"] == 2**3.5
    put("powers", MODULE.replace("2.5", "3.5").replace("One multi", "A multi"), tmp_path)
    with pytest.raises(ValueError, match="other code"):
        recorded("powers")


def test_points_may_be_added_and_taken_away_without_running_the_others(chapters, tmp_path, monkeypatch):
    record.record("powers")
    was = content(chapters)["points"]
    put("powers", "# a comment\n" + MODULE.replace("(2, 3)", "(\n    3,\n    5)") + "\nTOLERANCE = 0.1\n", tmp_path)
    monkeypatch.setattr(
        record, "run_point", lambda experiment, point: {"point": point, "figures": {}, "cpu_seconds": 0}
    )
    record.record("powers")
    now = content(chapters)["points"]
    assert now[:2] == was[2:]
    assert [entry["figures"] for entry in now[2:]] == [{}, {}]
    put("powers", MODULE.replace("(2, 3)", "(3,)").replace("(0, 1)", "(1,)"), tmp_path)
    record.record("powers")
    assert (content(chapters)["points"], content(chapters)["seeds"]) == (was[3:], [1])


def test_fresh_runs_all_anew_and_other_machines_are_remembered(chapters, monkeypatch):
    record.record("powers")
    first = content(chapters)["points"]
    path = chapters / "recorded" / "powers.json"
    cut = content(chapters)
    cut["points"], cut["machine"]["cpu"] = cut["points"][:1], "abacus"
    path.write_text(json.dumps(cut))
    record.record("powers")
    assert [row["machine"]["cpu"] for row in content(chapters)["earlier"]] == ["abacus"]
    monkeypatch.setattr(
        record, "run_point", lambda experiment, point: {"point": point, "figures": {}, "cpu_seconds": 0}
    )
    record.record("powers", fresh=True)
    assert "earlier" not in content(chapters)
    assert [entry["point"] for entry in content(chapters)["points"]] == [entry["point"] for entry in first]
    assert {len(entry["figures"]) for entry in content(chapters)["points"]} == {0}


def test_unknown_names_list_the_known(chapters, capsys):
    for call in (recorded, rerun, record.record, record.status):
        with pytest.raises(ValueError, match=r"no experiment 'power'; there are: .*ffn_widths.*powers"):
            call("power")
    with pytest.raises(SystemExit) as ended:
        record.main(["power"])
    assert ended.value.code == 2
    assert "ffn_widths" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has not been recorded; run: "):
        recorded("powers")
    with pytest.raises(ValueError, match="a point of powers has base, seed; given base: missing"):
        rerun("powers", base=1)


def test_the_list_says_what_each_is_and_costs(chapters, capsys):
    record.record("powers")
    record.main(["--list"])
    printed = capsys.readouterr().out
    assert "powers: 4 of 4 points, 0.0 CPU-minutes, 20" in printed
    assert "Powers of two numbers.\n  One multiplication." in printed
    assert "ffn_widths: 0 of" in printed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("WHAT", "WHY", "lacks WHAT"),
        ("(0, 1)]", "(0, 0)]", "twice"),
        ("(0, 1)]", "(None, 1)]", "plain numbers and strings"),
        ('"count": base', '"count": [base]', "should be a dict of numbers"),
        ('"count": base', '"base": base', "an argument's name"),
        ('"count": base', '"n" * 60_000: base', "would take about 24.,... bytes with all its points, and 200,000"),
    ],
)
def test_an_experiment_that_cannot_be_recorded_says_why(chapters, tmp_path, old, new, message):
    put("powers", MODULE.replace(old, new), tmp_path)
    with pytest.raises(ValueError, match=message):
        record.record("powers")
    assert not (chapters / "recorded" / "powers.json").exists()


def test_a_failing_point_is_named_and_the_others_are_kept(chapters, tmp_path):
    put("powers", MODULE.replace("base**2.5 + seed", "1 / (3 - base)"), tmp_path)
    with pytest.raises(ZeroDivisionError) as failed:
        record.record("powers")
    assert failed.value.__notes__ == ["in the point {'base': 3, 'seed': 0} of powers; those before it are kept"]
    assert len(content(chapters)["points"]) == 2


def test_damaged_files_and_missing_chapters_are_explained(chapters, monkeypatch):
    path = chapters / "recorded" / "powers.json"
    path.parent.mkdir()
    for text in ("{", "[]", '{"points": 3}', '{"source": "", "date": "", "points": [{}]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"powers\.json"):
            record.record("powers")
    record.record("powers", fresh=True)
    assert len(recorded("powers")) == 4


def test_without_chapters_runs_are_read_from_the_package_and_not_made(chapters, monkeypatch):
    record.record("powers")
    made = recorded("powers")
    monkeypatch.setattr(record, "CHAPTERS", chapters / "nowhere")
    for call in (recorded, record.record, record.status):
        with pytest.raises(ValueError, match="installed without its chapters; work in a checkout"):
            call("powers")
    monkeypatch.setattr(record, "SHIPPED", chapters / "recorded")
    assert recorded("powers") == made
    assert record.status("powers").startswith("powers: 4 of 4")
    with pytest.raises(ValueError, match="installed without its chapters; work in a checkout"):
        record.record("powers")


def test_a_built_package_has_the_recorded_runs_where_they_are_looked_for():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {ROOT / source: ROOT / target for source, target in build["force-include"].items()} == {
        ROOT / "chapters" / "recorded": record.SHIPPED
    }
    assert (ROOT / "chapters" / "recorded").is_dir()  # without which nothing is built


def test_the_variants_of_chapter_04_train_as_its_small_runs_do():
    """SwiGLU and ReLU are built otherwise here than in the package; the losses have to be the same to the last bit."""
    for layer, width, changes in (("swiglu", 171, {}), ("relu", 256, {"ffn": "relu"})):
        figures = rerun("ffn_widths", layer=layer, width=width, lr=3e-3, seed=1, steps=20)
        assert figures == {"loss": small_run(seed=1, steps=20, hidden_dim=width, **changes).loss}


def test_every_experiment_is_recorded():
    assert [path.stem for path in RECORDED] == names()


def check_recorded(path):
    """Compare a file with its code: the cheapest point, or the one that the module names, is run anew."""
    experiment, rows = find(path.stem), recorded(path.stem)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size <= record.MAX_BYTES
    assert [entry["point"] for entry in written["points"]] == experiment.points
    assert "seed" not in experiment.points[0] or len(written["seeds"]) >= 3
    cheapest = min(written["points"], key=lambda entry: entry["cpu_seconds"])["point"]
    point = experiment.check or cheapest
    (there,) = (row for row in rows if row.items() >= point.items())
    figures = rerun(path.stem, **point)
    assert figures.keys() == there.keys() - point.keys()
    compared = [name for name in figures if not is_timed(name)]  # no test depends on the clock
    assert same(*({name: row[name] for name in compared} for row in (figures, there)), experiment.tolerance)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_run_is_what_its_code_gives(path):
    check_recorded(path)


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (lambda points: points[2]["figures"].update(power=2**2.5 + 2.1), True),  # within the 2 % of 7.66
        (lambda points: points[2]["figures"].update(power=2**2.5 + 2.2), False),
        (lambda points: points[2]["figures"].update(log=-1.5), False),
        (lambda points: points[2]["figures"].pop("log"), False),
        (lambda points: points[2]["figures"].update(more=1.0), False),
        (lambda points: points.reverse(), False),
        (lambda points: points.append(points[0] | {"point": {"base": 5, "seed": 0}}), False),
    ],
)
def test_figures_that_the_code_does_not_give_are_noticed(chapters, tmp_path, change, passes):
    check = '\nCHECK = {"base": 2, "seed": 2}\n'
    put("powers", MODULE.replace("(0, 1)", "(0, 1, 2)") + check, tmp_path)
    path = record.record("powers")
    check_recorded(path)
    altered = content(chapters)
    change(altered["points"])
    path.write_text(json.dumps(altered), encoding="utf-8")
    if passes:
        check_recorded(path)
    else:
        with pytest.raises(AssertionError):
            check_recorded(path)


@pytest.mark.parametrize("name", ["tokens_per_second", "seconds", "loading_seconds"])
def test_what_depends_on_the_clock_is_recorded_and_not_compared(chapters, tmp_path, name):
    put("powers", MODULE.replace('"count": base', f'"{name}": base'), tmp_path)
    altered = MODULE.replace('"count": base', f'"{name}": 7 * base')
    path = record.record("powers")
    assert recorded("powers")[0][name] == 2
    put("powers", altered, tmp_path)
    written = content(chapters) | {"source": find("powers").source, "seeds": [0, 1, 2]}
    path.write_text(json.dumps(written), encoding="utf-8")
    check_recorded(path)
    put("powers", altered.replace(f'"{name}"', '"other"'), tmp_path)  # it has to be there
    path.write_text(json.dumps(written | {"source": find("powers").source}), encoding="utf-8")
    with pytest.raises(AssertionError):
        check_recorded(path)


SLOW = """    import os, pathlib, time, torch
    here = pathlib.Path({folder!r})
    threads = f"{{torch.get_num_threads()}} {{os.environ['OMP_NUM_THREADS']}}"
    (here / f"{{base}}{{seed}}-{{os.getpid()}}").write_text(threads)
    while len({{path.name.split("-")[1] for path in here.iterdir()}}) < 2:
        time.sleep(0.05)  # until another process is there, too
"""


def test_several_jobs_give_what_one_gives_each_on_one_thread(chapters, tmp_path):
    (tmp_path / "marks").mkdir()
    put(
        "powers", MODULE.replace("    return {", SLOW.format(folder=str(tmp_path / "marks")) + "    return {"), tmp_path
    )
    record.main(["powers", "--jobs", "2"])
    marks = [path.name for path in (tmp_path / "marks").iterdir()]
    assert sorted(mark.split("-")[0] for mark in marks) == ["20", "21", "30", "31"]
    assert len({mark.split("-")[1] for mark in marks}) == 2
    assert {path.read_text() for path in (tmp_path / "marks").iterdir()} == {"1 1"}
    module = find("powers")
    assert recorded("powers") == [point | dict(module.run(**point)) for point in module.points]
    assert content(chapters)["machine"]["threads"] == 1
    assert multiprocessing.active_children() == []


def test_of_several_jobs_one_that_fails_is_named_and_stops_no_other(chapters, tmp_path):
    put("powers", MODULE.replace("base**2.5 + seed", "1 / (base + seed - 2)"), tmp_path)
    with pytest.raises(ZeroDivisionError) as failed:
        record.record("powers", jobs=2)
    assert failed.value.__notes__ == ["in the point {'base': 2, 'seed': 0} of powers; those before it are kept"]
    assert [entry["point"] for entry in content(chapters)["points"]] == find("powers").points[1:]
    with pytest.raises(SystemExit) as ended:
        record.main(["powers", "--jobs", "0"])
    assert ended.value.code == 2


def test_a_process_that_ends_by_itself_is_explained(chapters, tmp_path, capsys):
    put("powers", MODULE.replace("    return {", "    import os\n    os._exit(9)\n    return {"), tmp_path)
    with pytest.raises(SystemExit) as ended:
        record.main(["powers", "--jobs", "2"])
    assert ended.value.code == 2
    assert "one of the 2 processes ended before its point was done" in capsys.readouterr().err


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_jobs_end_with_the_command_and_what_is_done_is_kept(chapters, tmp_path, end):
    marks = tmp_path / "marks"
    marks.mkdir()
    slow = (
        "    import os, pathlib, time\n    if base == 3:\n"
        f"        pathlib.Path({str(marks)!r}, str(os.getpid())).touch()\n        time.sleep(300)\n"
    )
    put("powers", MODULE.replace("    return {", slow + "    return {"), tmp_path)
    code = (
        "import sys, pathlib\nfrom llama_minimal.course import experiments, record\n"
        "if __name__ == '__main__':\n"
        f"    experiments.__path__.append({str(tmp_path / 'code')!r})\n"
        f"    record.CHAPTERS = pathlib.Path({str(chapters)!r})\n    record.main(sys.argv[1:])"
    )
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, str(tmp_path / "main.py"), "powers", "--jobs", "2"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(2400):
            if running.poll() is not None or len(list(marks.iterdir())) == 2:
                break
            time.sleep(0.05)
        running.send_signal(end)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == (130 if end == signal.SIGINT else -9), said
    assert [entry["point"] for entry in content(chapters)["points"]] == find("powers").points[:2]
    for path in marks.iterdir():
        wait_for_end(int(path.name))


def wait_for_end(process):
    """Wait until a process is gone, which nobody is going to wait for."""
    for _ in range(600):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    pytest.fail(f"process {process} outlived the one that started it")
