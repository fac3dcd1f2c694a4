"""The checks of the exercises: right answers pass, and each known mistake gets its own diagnosis."""

import re

import numpy as np
import pytest
import torch

from llama_minimal.course.exercises import CHAPTERS, Exercise, case, check, diagnose, exercises, find, judge
from llama_minimal.course.exercises.running import is_stub, run
from llama_minimal.course.exercises.wording import apart, difference

ALL = {f"{chapter}.{name}": exercise for chapter in CHAPTERS for name, exercise in exercises(chapter).items()}
MISTAKES = [(name, diagnosis) for name, exercise in ALL.items() for diagnosis in exercise.mistakes]


@pytest.mark.parametrize("name", ALL)
def test_the_right_answer_passes(name, capsys):
    check(name, ALL[name].right)
    assert capsys.readouterr().out == f"✓ {name}\n"


@pytest.mark.parametrize(("name", "diagnosis"), MISTAKES)
def test_each_mistake_is_recognized(name, diagnosis, capsys):
    check(name, ALL[name].mistakes[diagnosis])
    assert capsys.readouterr().out == f"✗ {name}: {diagnosis}\n"


@pytest.mark.parametrize("name", ALL)
def test_an_untouched_stub_stays_green(name, capsys):
    check(name, (lambda *_: None) if ALL[name].cases else None)
    assert capsys.readouterr().out == f"… {name}: not attempted yet\n"


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name].cases])
def test_code_that_fails_is_reported(name, capsys):
    check(name, lambda *_: 1 / 0)
    assert "it raised ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name].cases])
def test_an_unknown_mistake_is_shown(name):
    exercise = ALL[name]
    verdict = judge(exercise, lambda *case: np.zeros((3, 1, 9, 1, 2)), strict=True)
    assert "shape" in verdict.text or "everywhere" in verdict.text or "depend" in verdict.text
    odd = judge(exercise, lambda *case: np.sin(37.3 * np.asarray(exercise.right(*case)) + 1), strict=True)
    assert odd.text
    assert odd.case is not None


def shifted(x):
    x -= 1
    return x


def test_an_answer_may_not_change_its_arguments():
    def greedy(x):
        result = np.sort(x)
        x[:] = 0
        return result

    exercise = Exercise(right=np.sort, cases=[(np.array([3.0, 1, 2]),)])
    assert "the result is right, but it changes its argument `x`: work on a copy" in diagnose(exercise, greedy)
    assert diagnose(exercise, np.sort) == ""
    free = Exercise(right=np.sort, cases=[(np.array([3.0, 1, 2]),)], may_change=[0])
    assert diagnose(free, greedy) == ""
    assert "besides, it changes its argument `x`" in diagnose(exercise, shifted)


def test_an_answer_may_not_change_its_lists():
    def greedy(x):
        x.clear()
        return x

    def in_a_list(parts):
        parts[1] *= 2
        return parts[0]

    exercise = Exercise(right=lambda x: tuple(x), cases=[([3, 1, 2],)])
    assert "it gives [], and should give [3, 1, 2]; besides, it changes its argument `x`" in diagnose(exercise, greedy)
    assert diagnose(exercise, list) == ""
    nested = Exercise(right=lambda parts: parts[0], cases=[([np.ones(3), np.ones(3)],)])
    assert "it changes its argument `parts`" in diagnose(nested, in_a_list)


def test_what_is_wrong_with_a_pair_is_named():
    exercise = Exercise(right=lambda x: x.sum(), cases=[(np.ones(3),)])
    assert "it returns 2 values, of which the first is right" in diagnose(exercise, lambda x: (x.sum(), x))
    assert "it gives 2 values; return one" in diagnose(exercise, lambda x: (x, x))


def test_the_worst_number_of_an_array_is_shown():
    x = np.arange(12.0).reshape(3, 4)
    off = x + np.where(x == 6, 0.5, 0) + np.where(x == 2, -0.1, 0) + np.where(x == 9, 0.2, 0)
    shown = difference(off, x, 1e-6)
    assert shown == "3 of 12 numbers are wrong; the worst is at (1, 2): it gives 6.5, and should give 6"
    off[2, 3] = np.nan
    assert "the worst is at (2, 3): it gives nan, and should give 11" in difference(off, x, 1e-6)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(-0.42970001, -0.4297), (750.10001, 750.1), (1e-9, 1.001e-9), (np.float32(0.1), 0.1000001), (12345678, 12345679)],
)
def test_two_equal_numbers_are_never_quoted_as_different(given, wanted):
    a, b = apart(given, wanted)
    assert a != b
    assert float(a) != float(b)
    exercise = Exercise(right=lambda: wanted, cases=[()], tolerance=1e-12)
    said = re.search(r"it gives (.*), and should give (.*)", difference(given, wanted, 1e-12))
    assert said.group(1) != said.group(2)
    assert diagnose(exercise, lambda: wanted) == ""
    assert f"{wanted}" != diagnose(Exercise(right=wanted, tolerance=1e-12), given).split(";")[0].removeprefix("it is ")


def test_a_list_is_quoted_as_a_list():
    exercise = Exercise(right=lambda: (257, 32), cases=[()])
    verdict = diagnose(exercise, lambda: np.array([256, 31, 7, 9]))
    assert "it gives [256, 31, 7, 9], and should give [257, 32]" in verdict


def test_a_forgotten_return_is_named(capsys):
    def forgot(x):
        y = x + 1  # noqa: F841

    def in_a_branch(x):
        if x.ndim == 2:
            return x

    exercise = find("attention.softmax")
    assert diagnose(exercise, forgot) == "your function ran, and returned None: is its return missing?"
    assert "does one of its branches lack a return?" in diagnose(exercise, in_a_branch)
    assert diagnose(exercise, print) == "your function ran, and returned None: is its return missing?"


def stub_doc(x):
    """What it should do."""


def stub_raise(x):
    raise NotImplementedError


def stub_call(x):
    """With a word."""
    raise NotImplementedError("your code")


def stub_pass(x):
    pass


def stub_dots(x): ...


class StubClass:
    def __init__(self, x): ...

    def step(self):
        raise NotImplementedError


@pytest.mark.parametrize("stub", [stub_doc, stub_raise, stub_call, stub_pass, stub_dots, StubClass, None, ...])
def test_only_what_is_untouched_is_not_attempted(stub):
    assert diagnose(find("attention.softmax"), stub) is None


def raises_later(x):
    y = x + 1
    raise NotImplementedError(y)


@pytest.mark.parametrize("begun", [lambda x: x, lambda x: [][0], raises_later, lambda x: print() or None, np.sort])
def test_what_was_begun_is_not_untouched(begun):
    assert not is_stub(begun)


def test_a_case_can_be_looked_at(capsys):
    (x,) = case("attention.softmax", 0)
    assert x.shape == (3, 4)
    x[:] = 0
    assert case("attention.softmax", 0)[0].any()
    check("attention.softmax", lambda x: x / x.sum())
    assert 'its inputs: case("attention.softmax", 0)' in capsys.readouterr().out
    with pytest.raises(ValueError, match="has the cases 0 to 3, not 4"):
        case("attention.softmax", 4)
    with pytest.raises(ValueError, match="not -1"):
        case("attention.softmax", -1)
    with pytest.raises(ValueError, match="asks for a value"):
        case("llama.utilization", 0)


def test_a_mask_of_numbers_is_refused():
    exercise = Exercise(right=lambda n: np.tri(n, dtype=bool), cases=[(3,)])
    assert "these are numbers (float64), not True and False" in diagnose(exercise, lambda n: np.tri(n))
    assert "these are numbers (int64)" in diagnose(exercise, lambda n: np.tri(n).astype(np.int64).tolist())
    assert diagnose(exercise, lambda n: np.tri(n, dtype=bool).tolist()) == ""
    assert diagnose(exercise, lambda n: torch.ones(n, n, dtype=torch.bool).tril()) == ""


def test_missing_keepdims_is_asked_for():
    def no_keepdims(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1)

    assert "is keepdims=True missing?" in diagnose(find("attention.softmax"), no_keepdims)


def test_the_line_that_raised_is_named():
    def two_lines(x):
        y = x + 1
        return y[99]

    assert "(in line 3 of two_lines)" in diagnose(find("attention.softmax"), two_lines)


def test_warnings_of_an_answer_are_not_printed(recwarn):
    assert "overflow" in diagnose(find("attention.softmax"), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True))
    assert not recwarn.list


def test_unknown_exercises_are_named():
    with pytest.raises(ValueError, match="chapters with exercises are"):
        check("attention.flash", None)
    with pytest.raises(ValueError, match="no exercise 'None'"):
        check(None, None)


def in_torch(value, dtype):
    """The same answer as tensors, as PyTorch leaves them in the middle of a computation."""
    if isinstance(value, tuple):
        return tuple(in_torch(part, dtype) for part in value)
    if np.asarray(value).dtype.kind != "f":
        return torch.tensor(value)
    # A copy: PyTorch knows no arrays that are read backwards.
    return torch.tensor(np.array(value), dtype=dtype, requires_grad=True)


def answering(answer, change):
    """Let what a function or a value answers be changed."""
    return (lambda *case: change(answer(*case))) if callable(answer) else change(answer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_a_right_answer_in_pytorch_passes(name, dtype, capsys):
    exercise = ALL[name]
    if dtype == torch.bfloat16 and not exercise.cases:
        return  # a number with more digits than bfloat16 has
    check(name, answering(exercise.right, lambda value: in_torch(value, dtype)))
    assert capsys.readouterr().out == f"✓ {name}\n"


@pytest.mark.parametrize(("name", "diagnosis"), MISTAKES)
def test_each_mistake_is_recognized_in_float32(name, diagnosis, capsys):
    answers = run(ALL[name], ALL[name].mistakes[diagnosis]).answers
    if any(
        np.isfinite(value) and abs(value) > torch.finfo(torch.float32).max
        for value in answers
        if not isinstance(value, tuple) and np.ndim(value) == 0
    ):
        return  # infinite in float32, and so no longer the same mistake
    check(name, answering(ALL[name].mistakes[diagnosis], lambda value: in_torch(value, torch.float32)))
    assert capsys.readouterr().out == f"✗ {name}: {diagnosis}\n"


def test_lists_tuples_and_arrays_are_the_same_answer():
    rows = Exercise(right=lambda x: x, cases=[(np.arange(4.0).reshape(2, 2),)])
    assert diagnose(rows, lambda x: x.tolist()) == ""
    assert diagnose(rows, lambda x: tuple(map(tuple, x))) == ""
    assert diagnose(rows, lambda x: [torch.tensor(row, requires_grad=True) for row in x]) == ""
    assert diagnose(rows, lambda x: [[torch.tensor(v, requires_grad=True) for v in row] for row in x]) == ""
    ids = Exercise(right=lambda: (1, 2, 3), cases=[()])
    for given in ([1, 2, 3], np.array([1, 2, 3]), torch.tensor([1, 2, 3]), (np.int64(1), torch.tensor(2), 3.0)):
        assert diagnose(ids, lambda given=given: given) == ""
    assert diagnose(Exercise(right=7), np.int32(7)) == ""
    assert diagnose(Exercise(right=7), torch.tensor(7)) == ""
    assert "an axis of length 1 is surplus" in diagnose(Exercise(right=7), torch.tensor([7]))


def circle():
    rows = []
    rows.append(rows)
    return rows


class Unfriendly:
    """An object that raises whatever one asks it."""

    def __repr__(self):
        raise OSError("no")

    def __array__(self, *_, **__):
        raise OSError("no")


ODD = {
    "ragged": lambda: [[1, 2], [3]],
    "ragged tensors": lambda: [torch.ones(2), torch.ones(3)],
    "none inside": lambda: [None, 1.0, 2.0],
    "text": lambda: "softmax",
    "texts": lambda: ["a", "b"],
    "generator": lambda: (i for i in range(3)),
    "dictionary": lambda: {"out": 1},
    "set": lambda: {1, 2},
    "objects": lambda: np.array([None, {}, "x"], dtype=object),
    "ragged objects": lambda: np.array([np.ones(2), np.ones(3)], dtype=object),
    "bytes": lambda: b"123",
    "dates": lambda: np.array(["2026-01-01"], dtype="datetime64"),
    "meta": lambda: torch.ones(3, 4, device="meta"),
    "sparse": lambda: torch.ones(3, 4).to_sparse(),
    "conjugate": lambda: torch.ones(3, 4, dtype=torch.complex64).conj(),
    "empty": lambda: [],
    "huge number": lambda: 10**400,
    "nan": lambda: np.full((3, 4), np.nan),
    "circle": circle,
    "type": lambda: int,
    "unfriendly": Unfriendly,
    "infinity": lambda: np.full((3, 4), -np.inf, dtype=np.float16),
    "booleans": lambda: np.ones((3, 4), dtype=bool),
    "booleans, few": lambda: np.ones(3, dtype=bool),
    "quits": lambda: exit(),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    "name", ["attention.softmax", "language_modeling.encode", "llama.parameters", "llama.utilization"]
)
def test_a_check_never_crashes(name, kind, capsys):
    check(name, (lambda *_: ODD[kind]()) if ALL[name].cases else (None if kind == "quits" else ODD[kind]()))
    verdict = capsys.readouterr().out
    assert verdict.startswith(f"{'…' if kind == 'quits' and not ALL[name].cases else '✗'} {name}: ")
    assert len(verdict) < 600


@pytest.mark.parametrize("kind", [tuple, list])
def test_an_array_beside_a_number_is_compared_part_by_part(kind):
    mistakes = {"half": lambda x: kind([x.sum(axis=0) / 2, 1.5])}
    exercise = Exercise(right=lambda x: kind([x.sum(axis=0), 1.5]), cases=[(np.ones((2, 3)),)], mistakes=mistakes)
    assert judge(exercise, mistakes["half"], strict=True).text == "half"
    assert judge(exercise, exercise.right, strict=True).text == ""
    assert judge(exercise, lambda x: (torch.tensor(x).sum(0).tolist(), torch.tensor(1.5)), strict=True).text == ""
    assert "1 too much" in judge(exercise, lambda x: kind([x.sum(axis=0), 2.5]), strict=True).text
    assert judge(exercise, lambda x: kind([x.sum(axis=1), 1.5]), strict=True).text
    assert judge(exercise, lambda x: kind([x.sum(axis=0)]), strict=True).text


def test_what_is_no_array_of_numbers_is_named():
    exercise = Exercise(right=lambda: np.zeros((2, 2)), cases=[()])
    verdict = diagnose(exercise, lambda: [[1, 2], [3]])
    assert "it gives [[1, 2], [3]], which is no array of numbers; it should give" in verdict
    assert "the shape is (3,), and should be (2, 2)" in diagnose(exercise, lambda: torch.zeros(3))
