"""The process in which the fuzzer runs wrong answers: one that hangs or eats memory is ended, and the next goes on."""

import ast
import contextlib
import copy
import io
import multiprocessing
import signal
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np

from llama_minimal.course.exercises import Exercise, find, judge
from llama_minimal.course.exercises.running import is_stub

CPU_SECONDS = 2.0  # for one answer
WALL_SECONDS = 120.0  # after which a process that does not even notice the former is ended
MEMORY = 4 << 30  # bytes of address space
DRAWS = 5  # extra inputs by which an accepted answer is compared with the right one


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A mutant of an exercise's solution: a function or an expression, and its imports."""

    name: str
    imports: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutant, and what the check said.

    Refused: raised, mistake, predicate, located (which only names an argument), difference.
    Accepted: equal (it is right), passed (wrong on the cases), elsewhere (wrong on other inputs). Neither: crash, slow.
    """

    kind: str
    text: str = ""


class Worker:
    """Judge mutants in another process."""

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop()

    def judge(self, task: Task) -> Outcome:
        """Run a mutant through its check."""
        self._ours.send(task)
        try:
            if self._ours.poll(WALL_SECONDS):
                return self._ours.recv()
            text = f"it did not end within {WALL_SECONDS:.0f} seconds"
        except (EOFError, ConnectionError):
            text = "the process died"
        self._stop()
        self._start()
        return Outcome(kind="slow", text=text)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


class TimeLimit(BaseException):
    """The time is up; no ``except Exception`` of a mutant or a check may catch it."""


def serve(pipe: Connection) -> None:
    """Judge what comes until nothing comes any more."""
    _limit_memory()
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(_timed(pipe.recv()))


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _timed(task: Task) -> Outcome:
    def stop(*_: object) -> None:
        raise TimeLimit

    if not hasattr(signal, "setitimer"):  # on Windows only the other process counts time
        return outcome(task)
    signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        return outcome(task)
    except TimeLimit:
        return Outcome(kind="slow", text=f"more than {CPU_SECONDS:.0f} CPU seconds")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def outcome(task: Task) -> Outcome:
    """Run a mutant through its check, and look whether what is accepted is right."""
    exercise = find(task.name)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mutant may compare with "is", and index with what is no index
        try:
            attempt = _build(task)
        except Exception as error:
            return Outcome(kind="raised", text=f"{type(error).__name__}: {error}")
        try:
            verdict = judge(exercise, attempt, strict=True)
        except Exception as error:
            return Outcome(kind="crash", text=f"{type(error).__name__}: {error}")
        if verdict.text:
            located = verdict.kind == "predicate" and "so look at what becomes of" in verdict.text
            return Outcome(kind="located" if located else verdict.kind, text=verdict.text)
        if verdict.text is None:
            return Outcome(kind="equal" if is_stub(attempt) else "crash", text="said to be untouched")
        return _accepted(exercise, attempt)


def _build(task: Task) -> Any:
    names: dict[str, Any] = {"__builtins__": {**vars(__import__("builtins")), "open": None, "input": None}}
    exec(task.imports, names)
    tree = ast.parse(task.source)
    if isinstance(tree.body[0], ast.FunctionDef):
        exec(compile(tree, "mutant", "exec"), names)
        return names[tree.body[0].name]
    return eval(task.source, names)


def _accepted(exercise: Exercise, attempt: Any) -> Outcome:
    """Compare an accepted answer with the right one, without the code of the check."""
    if not exercise.cases:
        same = np.allclose(attempt, exercise.right, rtol=2 * exercise.tolerance, atol=0)
        return Outcome(kind="equal" if same else "passed", text=f"{attempt} for {exercise.right}")
    rng = np.random.default_rng(0)
    drawn = [_another(exercise, rng) for _ in range(DRAWS)]
    for kind, cases in (("passed", exercise.cases), ("elsewhere", drawn)):
        for case in cases:
            said = _differs(exercise, attempt, case)
            if said:
                return Outcome(kind=kind, text=said)
    return Outcome(kind="equal")


def _another(exercise: Exercise, rng: np.random.Generator) -> tuple:
    """Draw a case: as the exercise says, or like one of its own with other numbers in its arrays."""
    if exercise.draw:
        return exercise.draw(rng)
    return tuple(_like(value, rng) for value in exercise.cases[rng.integers(len(exercise.cases))])


def _like(value: Any, rng: np.random.Generator) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
        return value
    if (value >= 0).all() and np.allclose(value.sum(axis=-1), 1):
        return rng.permutation(value, axis=-1)  # probabilities
    return value * rng.uniform(0.5, 1.5, size=value.shape)


def _differs(exercise: Exercise, attempt: Any, case: tuple) -> str:
    mine, theirs = copy.deepcopy(case), copy.deepcopy(case)
    try:
        given, wanted = attempt(*mine), exercise.right(*theirs)
        # The arrays of a pair may have different shapes.
        for a, b in zip(given, wanted, strict=True) if isinstance(wanted, tuple) else [(given, wanted)]:
            np.testing.assert_equal(np.shape(a), np.shape(b))
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-5)
        if not exercise.may_change:
            np.testing.assert_equal([x for x in mine if not callable(x)], [x for x in theirs if not callable(x)])
    except Exception as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""
