"""Judge an answer: is it one, does it run, is it right, and if not, why not."""

import time
from dataclasses import dataclass
from typing import Any

from llama_minimal.course.exercises.comparing import all_equal, array, parted, plain, rounding, whole
from llama_minimal.course.exercises.diagnosis import Answer, known_mistake, overwritten, predicate
from llama_minimal.course.exercises.registry import Exercise, find
from llama_minimal.course.exercises.running import FailedError, argument_names, is_stub, run
from llama_minimal.course.exercises.wording import apart, difference, in_case

SLOW = 2.0  # CPU seconds for all cases; such an answer is not run again to find out what it depends on


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong with an answer: "" if nothing, None if it has not been attempted."""

    text: str | None
    case: int | None = None  # in which case it shows
    kind: str = ""  # how it was found: raised, mistake, predicate, difference


def check(name: str, attempt: Any) -> None:
    """Print whether an answer is right, and a diagnosis if it is not.

    Args:
        name: chapter and exercise, such as "attention.softmax".
        attempt: your function, or your value, in NumPy, PyTorch or plain Python. The untouched function of the
            notebook, and a value that is None or ``...``, have not been attempted. An answer in float32 may be 1e-5
            off, one in float16 0.004, one in bfloat16 0.03. An answer that overwrites its arguments is wrong.

    Raises:
        ValueError: if there is no such exercise.
    """
    verdict = judge(find(name), attempt)
    print({"": f"✓ {name}", None: f"… {name}: not attempted yet"}.get(verdict.text, f"✗ {name}: {verdict.text}"))
    if verdict.case is not None:
        print(f'  its inputs: case("{name}", {verdict.case})')


def diagnose(exercise: Exercise, attempt: Any) -> str | None:
    """Return what is wrong with an answer: "" if nothing, None if it has not been attempted."""
    return judge(exercise, attempt).text


def judge(exercise: Exercise, attempt: Any, *, strict: bool = False) -> Verdict:
    """Return what is wrong with an answer, where, and how that was found.

    Args:
        exercise: what is right.
        attempt: the answer.
        strict: let an error in a predicate come out, for tests; readers get the next diagnosis instead.
    """
    try:
        return _not_a_try(exercise, attempt) or _tried(exercise, attempt, strict)
    except Exception as error:  # an object that raises whenever it is looked at, or that holds itself
        if strict:
            raise
        return Verdict(text=f"it gives what cannot be compared ({type(error).__name__})", kind="raised")


def _tried(exercise: Exercise, attempt: Any, strict: bool) -> Verdict:
    started = time.process_time()
    try:
        made = run(exercise, attempt)
        given = plain(made.answers)
        wanted = list(map(parted, run(exercise, exercise.right).answers))
        tolerance = exercise.tolerance if whole(wanted[0]) else max(exercise.tolerance, rounding(made.answers))
    except FailedError as failed:
        return Verdict(text=str(failed), case=failed.case, kind="raised")
    answer = Answer(
        exercise=exercise,
        attempt=attempt,
        made=made,
        given=given,
        wanted=wanted,
        tolerance=tolerance,
        slow=time.process_time() - started > SLOW,
    )
    if all_equal(given, wanted, tolerance):
        return _accepted(answer)
    nothing = [i for i, one in enumerate(given) if one is None or one is ...]
    return _returned_nothing(answer, nothing) if nothing else _refused(answer, strict)


def _not_a_try(exercise: Exercise, attempt: Any) -> Verdict | None:
    if attempt is None or attempt is ... or (exercise.cases and is_stub(attempt)):
        return Verdict(text=None)
    if exercise.cases and not callable(attempt):
        return Verdict(text="hand over the function itself, without calling it", kind="predicate")
    if not exercise.cases and callable(attempt) and not callable(exercise.right):
        return Verdict(text="this is a function, or a type; hand over the value", kind="predicate")
    return None


def _returned_nothing(answer: Answer, nothing: list[int]) -> Verdict:
    if len(nothing) == len(answer.given):
        return Verdict(text="your function ran, and returned None: is its return missing?", kind="predicate")
    where = in_case(answer.exercise.cases, nothing[0])
    text = f"{where} it returned None: does one of its branches lack a return?"
    return Verdict(text=text, case=nothing[0], kind="predicate")


def _accepted(answer: Answer) -> Verdict:
    """Let the right numbers pass, if they are of the right kind and nothing was overwritten to get them."""
    for number, (given, right) in enumerate(zip(answer.given, answer.wanted, strict=True)):
        numbers, wanted = array(given), array(right)  # None for a pair of arrays of different shapes
        if numbers is not None and wanted is not None and wanted.ndim and wanted.dtype == bool != numbers.dtype:
            text = f"the places are right, but these are numbers ({numbers.dtype}), not True and False: compare, or "
            return Verdict(text=f"{text}.astype(bool)", case=number, kind="predicate")
    changed = overwritten(answer)
    if changed:
        text = f"the result is right, but {changed}: work on a copy (x = x + 1 makes one, x += 1 does not)"
        return Verdict(text=text, kind="predicate")
    return Verdict(text="")


def _refused(answer: Answer, strict: bool) -> Verdict:
    exercise, bad = answer.exercise, answer.bad
    at = bad[0] if exercise.cases else None
    diagnosis, everywhere = known_mistake(answer)
    if diagnosis and everywhere:
        return Verdict(text=diagnosis, kind="mistake")
    where = "" if len(bad) == len(answer.given) else f"{which(answer)}, "
    if diagnosis:
        return Verdict(text=where + diagnosis, case=at, kind="mistake")
    said = predicate(answer, strict)
    changed = overwritten(answer)
    also = f"; besides, {changed}" if changed else ""
    if said:
        return Verdict(text=where + said + also, case=at, kind="predicate")
    if at is None:
        return Verdict(text=f"it is {apart(answer.given[0], answer.wanted[0])[0]}; try again", kind="difference")
    text = f"{in_case(exercise.cases, at)}, {difference(answer.given[at], answer.wanted[at], answer.tolerance)}"
    return Verdict(text=text + also, case=at, kind="difference")


def which(answer: Answer) -> str:
    """Say which cases are wrong, where not all of them are: by a value that they share, or by the first."""
    cases, bad = answer.exercise.cases, answer.bad
    good = [case for i, case in enumerate(cases) if i not in bad]
    for i, name in enumerate(argument_names(answer.exercise, answer.attempt)):
        value = cases[bad[0]][i]
        shared = isinstance(value, str | bool) and all(cases[j][i] == value for j in bad)
        if shared and not any(case[i] == value for case in good):
            return f"wherever `{name}` is {value!r}"
    return in_case(cases, bad[0])
