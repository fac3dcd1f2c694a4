"""Recorded runs: experiments too long for a chapter, whose figures are kept beside it.

``python -m llama_minimal.course.record NAME`` runs the points of ``llama_minimal/course/experiments/NAME.py``, and
writes ``chapters/recorded/NAME.json`` anew after each: stopped, it goes on with the same command. With ``--jobs N`` as
many processes run points side by side, each on one thread; figures of speed then depend on their neighbors. A chapter
reads the figures with `recorded`, and runs one point anew with `rerun`.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from llama_minimal.config import read_json
from llama_minimal.course.card import versions
from llama_minimal.course.experiments import Experiment, find, key, names
from llama_minimal.course.points import run_point, run_points
from llama_minimal.files import replace_file
from llama_minimal.locks import hold_folder

CHAPTERS = Path(__file__).parents[2] / "chapters"
SHIPPED = Path(__file__).with_name("recorded")  # where an installed package has them
MAX_BYTES = 200_000
_COMMAND = "python -m llama_minimal.course.record"


def recorded(name: str) -> list[dict[str, Any]]:
    """Return the recorded points of an experiment, in its order, each with its figures in one dict.

    Raises:
        ValueError: if there is no such experiment, or its run is missing, unfinished or made by other code.
    """
    experiment = find(name)
    path = _folder() / f"{name}.json"
    if not path.exists():
        raise ValueError(f"{name} has not been recorded; run: {_COMMAND} {name}")
    content = _read(path)
    if content["source"] != experiment.source:
        raise ValueError(f"{path.name} was recorded with other code than experiments/{name}.py; run: {_COMMAND} {name}")
    entries = _in_order(content["points"], experiment)
    if len(entries) < len(experiment.points):
        raise ValueError(f"{path.name} has {_progress(entries, experiment)}; go on with: {_COMMAND} {name}")
    return [entry["point"] | _shown(entry["figures"]) for entry in entries]


def rerun(name: str, **point: float | str) -> dict[str, float]:
    """Run one point of an experiment anew, and return its figures.

    Args:
        point: the arguments of the experiment; they need not be a recorded point.

    Raises:
        ValueError: if there is no such experiment, or it has other arguments.
    """
    return find(name).measure(point)


def record(name: str, *, fresh: bool = False, jobs: int = 1, say: Callable[[str], None] = lambda _: None) -> Path:
    """Run the points of an experiment that are not recorded yet, and write the file after each.

    Args:
        fresh: run all points, those that are there, too.
        jobs: processes of one thread each that run points; 1 runs them one after another in this one.
        say: called with what a user should know.

    Returns:
        The file.

    Raises:
        ValueError: if there is no such experiment, no place for its file, or the file would be too large.
        Exception: what a point raises. Those before it are kept; of several jobs, all others, which are run first.
    """
    experiment, path = find(name), _folder(to_write=True) / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    with hold_folder(path.parent):  # two at a time would spoil each other's times
        old = None if fresh or not path.exists() else _read(path)
        if old and old["source"] != experiment.source:
            say(f"{path.name} was recorded with other code; all points are run anew")
            old = None
        done = _in_order(old["points"], experiment) if old else []
        there = {key(entry["point"]) for entry in done}
        missing = [point for point in experiment.points if key(point) not in there]
        head = _head(experiment, old, threads=1 if jobs > 1 else torch.get_num_threads())
        runs = (run_point(experiment, point) for point in missing) if jobs == 1 else run_points(name, missing, jobs)
        for entry in tqdm(runs, total=len(missing), desc=name, unit="point", disable=None):
            done.append(entry)
            _write(path, head, _in_order(done, experiment), len(experiment.points))
        if old and not missing and done != old["points"]:  # the list has been cut, or put in another order
            head = {part: old[part] for part in old if part != "points"} | {"seeds": _seeds(experiment)}
            _write(path, head, done, len(done))
    return path


def status(name: str) -> str:
    """Return what an experiment is, and what of it has been recorded at what cost, in three lines."""
    experiment, path = find(name), _folder() / f"{name}.json"
    content = _read(path) if path.exists() else None
    entries = _in_order(content["points"], experiment) if content else []
    line = f"{name}: {_progress(entries, experiment)}"
    if content:
        minutes = sum(entry["cpu_seconds"] for entry in entries) / 60
        line += f", {minutes:.1f} CPU-minutes, {content['date']}"
        if content["source"] != experiment.source:
            line += ", with other code: to be run anew"
    return f"{line}\n  {experiment.what}\n  {experiment.budget}"


def machine() -> dict[str, Any]:
    """Return what times and last digits depend on: processor, cores, threads, platform."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _folder(*, to_write: bool = False) -> Path:
    if CHAPTERS.is_dir():
        return CHAPTERS / "recorded"
    if SHIPPED.is_dir() and not to_write:
        return SHIPPED
    raise ValueError(
        f"recorded runs are kept in chapters/recorded/, and there is no folder {CHAPTERS}: the package was installed "
        f"without its chapters; work in a checkout, installed with: pip install -e ."
    )


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    entries = content.get("points")
    if not {"source", "date"} <= content.keys() or not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise ValueError(f"{path} is not a recorded run; to replace it, give --fresh")
    return content


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.keys() == {"point", "figures", "cpu_seconds"}


def _in_order(entries: list[dict[str, Any]], experiment: Experiment) -> list[dict[str, Any]]:
    """Return the recorded points that the experiment still has, in its order."""
    there = {key(entry["point"]): entry for entry in entries}
    return [there[key(point)] for point in experiment.points if key(point) in there]


def _progress(entries: Sequence[object], experiment: Experiment) -> str:
    return f"{len(entries)} of {len(experiment.points)} points"


def _seeds(experiment: Experiment) -> list[int]:
    return sorted({point["seed"] for point in experiment.points if "seed" in point})


def _shown(figures: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) if isinstance(value, str) else value for name, value in figures.items()}


def _head(experiment: Experiment, old: dict[str, Any] | None, *, threads: int) -> dict[str, Any]:
    """Return what a file says before its points; other machines that ran some of them are named, too."""
    head: dict[str, Any] = {
        "what": experiment.what,
        "budget": experiment.budget,
        "seeds": _seeds(experiment),
        "source": experiment.source,
        "date": date.today().isoformat(),
        "versions": versions(),
        "machine": machine() | {"threads": threads},
    }
    earlier = old.get("earlier", []) if old else []
    if old and any(old.get(part) != head[part] for part in ("versions", "machine")):
        earlier = [*earlier, {part: old.get(part) for part in ("date", "versions", "machine")}]
    if earlier:
        head["earlier"] = earlier
    return head


def _write(path: Path, head: dict[str, Any], entries: list[dict[str, Any]], n_points: int) -> None:
    """Write the file whole, a point per line, unless it is going to be too large."""
    lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in entries)
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}") + f',\n "points": [\n{lines}\n ]\n}}\n'
    size = len(text.encode("utf-8"))
    expected = size + len(lines) * (n_points - len(entries)) // max(len(entries), 1)
    if expected > MAX_BYTES:
        raise ValueError(
            f"{path.name} would take about {expected:,} bytes with all its points, and {MAX_BYTES:,} are allowed; "
            f"give it fewer points or figures"
        )
    replace_file(path, text.encode("utf-8"))


def main(args: Sequence[str] | None = None) -> None:
    """Record one experiment, or list all of them."""
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description="Run an experiment, and keep its figures for the chapters."
    )
    parser.add_argument("name", nargs="?", help="the experiment; left out: with --list, all")
    parser.add_argument("--list", action="store_true", help="say what each is, how much is recorded, and what it cost")
    parser.add_argument("--fresh", action="store_true", help="run all points anew")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each that run points side by side")
    given = parser.parse_args(args)
    if not given.name and not given.list:
        parser.error(f"give the name of an experiment: {', '.join(names())}")
    try:
        if given.list:
            print("\n".join(status(name) for name in ([given.name] if given.name else names())))
        else:
            record(given.name, fresh=given.fresh, jobs=given.jobs, say=lambda text: tqdm.write(text, file=sys.stderr))
            print(status(given.name))
    except (ValueError, OSError) as error:
        print("error:", *[str(error), *getattr(error, "__notes__", [])], file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the points that are done are kept, and the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
