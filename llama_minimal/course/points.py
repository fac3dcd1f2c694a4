"""Run the points of an experiment: one in this process, or many side by side."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from llama_minimal.course import experiments
from llama_minimal.course.experiments import Experiment, Point
from llama_minimal.course.pool import process_pool


def run_point(experiment: Experiment, point: Point) -> dict[str, Any]:
    """Return the entry of a point: its figures, and the CPU seconds that they took.

    Raises:
        Exception: what the point raises, with a note that names it.
    """
    before = sum(os.times()[:4])  # of this process and of those that it waited for, on all cores
    try:
        figures = experiment.measure(point)
    except Exception as error:
        error.add_note(f"in the point {point} of {experiment.name}; those before it are kept")
        raise
    seconds = sum(os.times()[:4]) - before
    # JSON has no word for nan and inf.
    figures = {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
    return {"point": dict(point), "figures": figures, "cpu_seconds": round(seconds, 2)}


def run_points(name: str, points: Sequence[Point], jobs: int) -> Iterator[dict[str, Any]]:
    """Run the points of an experiment in so many processes, and yield their entries as they are done.

    A point that fails stops no other: its error is raised when all have run.

    Raises:
        ValueError: if there are to be fewer than one process.
        ChildProcessError: if a process ended before its point was done.
        Exception: what the first failing point raised, with a note that names it.
    """
    failed: list[Exception] = []
    with process_pool(min(jobs, len(points) or 1), _find_in, [list(experiments.__path__)]) as pool:
        for done in as_completed([pool.submit(_run, name, point) for point in points]):
            try:
                yield _result(done, jobs)
            except ChildProcessError:
                raise
            except Exception as error:
                failed.append(error)
    if failed:
        if len(failed) > 1:
            failed[0].add_note(f"and {len(failed) - 1} other(s) failed")
        raise failed[0]


def _result(done: Future[dict[str, Any]], jobs: int) -> dict[str, Any]:
    try:
        return done.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            f"one of the {jobs} processes ended before its point was done, perhaps for want of memory; the points that "
            f"are done are kept: go on with fewer jobs"
        ) from None


def _find_in(path: list[str]) -> None:
    """Look for experiments where the process that started this one does."""
    experiments.__path__[:] = path


def _run(name: str, point: Point) -> dict[str, Any]:
    return run_point(experiments.find(name), point)
