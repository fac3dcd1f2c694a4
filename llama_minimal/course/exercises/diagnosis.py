"""Find out why an answer is wrong: a known mistake, or what a predicate sees."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_minimal.course.exercises.comparing import all_equal, equal, parted, rounding
from llama_minimal.course.exercises.kinds import KINDS, parts
from llama_minimal.course.exercises.look import Look
from llama_minimal.course.exercises.places import PLACES, infinite
from llama_minimal.course.exercises.probes import probe
from llama_minimal.course.exercises.registry import Exercise
from llama_minimal.course.exercises.running import Run, argument_names, run
from llama_minimal.course.exercises.shapes import SHAPES
from llama_minimal.course.exercises.values import MASKS, VALUES, constant_factor, sign
from llama_minimal.course.exercises.wording import difference

STRICT = 1e-6  # an exercise may accept three digits; what is said of a wrong answer is true to six
Predicate = Callable[[Look], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that ran: what it gave, beside what is right, for each case."""

    exercise: Exercise
    attempt: Any
    made: Run
    given: list[Any]
    wanted: list[Any]
    tolerance: float
    slow: bool

    @property
    def bad(self) -> list[int]:
        """Return the numbers of the cases in which it is wrong."""
        pairs = zip(self.given, self.wanted, strict=True)
        return [i for i, (a, b) in enumerate(pairs) if not equal(a, b, self.tolerance)]


def known_mistake(answer: Answer) -> tuple[str, bool]:
    """Return the diagnosis of the mistake that explains an answer, and whether it does so in every case.

    One that explains all cases goes before one that explains those that are wrong.
    """
    partly = ""
    for diagnosis, mistake in answer.exercise.mistakes.items():
        wrong = list(map(parted, run(answer.exercise, mistake).answers))
        if all_equal(answer.given, wrong, answer.tolerance):
            return diagnosis, True
        if not partly and all(equal(answer.given[i], wrong[i], answer.tolerance) for i in answer.bad):
            partly = diagnosis
    return partly, False


def overwritten(answer: Answer) -> str:
    """Say which of its arguments an answer has changed, though it may not."""
    names = argument_names(answer.exercise, answer.attempt)
    changed = [f"`{names[i]}`" for i in answer.made.changed if i not in answer.exercise.may_change]
    return f"it changes its argument {' and '.join(changed)}" if changed else ""


def predicate(answer: Answer, strict: bool) -> str:
    """Return what is true of an answer in every case in which it is wrong, the most specific first, or "".

    Args:
        answer: what is wrong.
        strict: let errors in a predicate come out.
    """
    given, wanted = ([many[i] for i in answer.bad] for many in (answer.given, answer.wanted))
    for kind in KINDS:
        said = kind(given, wanted, answer.tolerance)
        if said:
            return said
    others = [one for i, one in enumerate(answer.given) if i not in answer.bad]
    for prefix, mine, right, part in parts(given, wanted, answer.tolerance):
        look = _look(answer, mine, right, others if part is None else [one[part] for one in others])
        for found in _predicates(answer, look, part):
            try:
                said = found()
            except Exception:  # an answer that nobody thought of
                if strict:
                    raise
                continue
            if said:
                return prefix + said
    return ""


def _look(answer: Answer, given: list, wanted: list, others: Sequence = ()) -> Look:
    return Look(
        given=given,
        wanted=wanted,
        cases=[answer.exercise.cases[i] for i in answer.bad] if answer.exercise.cases else [()],
        names=argument_names(answer.exercise, answer.attempt),
        tolerance=max(min(answer.tolerance, STRICT), rounding(answer.made.answers)),
        warned=answer.made.warned,
        others=tuple(np.asarray(one) for one in others),
    )


def _predicates(answer: Answer, look: Look, part: int | None) -> Iterator[Callable[[], str]]:
    """Give what is to be asked, in this order."""
    yield lambda: infinite(look)
    fitting: Sequence[Predicate] = ()
    if look.alike:
        fitting = (*(MASKS if look.masks else VALUES), *PLACES)
    for one in (*SHAPES, *fitting):
        yield lambda one=one: one(look)
    if part is None:
        yield lambda: _twice_wrong(answer, look)
    if answer.exercise.cases and not answer.slow:
        yield lambda: _by_probe(answer, look, part)


def _by_probe(answer: Answer, look: Look, part: int | None) -> str:
    """Say what an answer depends on wrongly, and show a number of it."""
    said = probe(look, _part_of(answer.attempt, part), _part_of(answer.exercise.right, part))
    return f"{said}; {difference(look.given[0], look.wanted[0], look.tolerance)}" if said else ""


def _twice_wrong(answer: Answer, look: Look) -> str:
    """A known mistake, with a turned sign or a factor besides."""
    for diagnosis, mistake in answer.exercise.mistakes.items():
        wrong = list(map(parted, run(answer.exercise, mistake).answers))
        for _, mine, mistaken, _ in parts([answer.given[i] for i in answer.bad], [wrong[i] for i in answer.bad], 0.0):
            if any(a.shape != b.shape for a, b in zip(mine, mistaken, strict=True)):
                continue
            beside = _look(answer, mine, mistaken)
            if beside.masks or beside.size < 3:
                continue
            if sign(beside):
                return f"{diagnosis}; and besides, the sign is turned"
            factor = constant_factor(beside)
            if factor:
                return f"{diagnosis}; and besides, {factor.replace('the right answer', 'what that gives')}"
    return ""


def _part_of(function: Any, part: int | None) -> Any:
    return function if part is None else lambda *arguments: function(*arguments)[part]
