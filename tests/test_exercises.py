"""The checks of the exercises: right answers pass, and each known mistake gets its own diagnosis."""

import numpy as np
import pytest
import torch

from llama_minimal.course.exercises import CHAPTERS, Exercise, _answers, check, diagnose, exercises

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
    assert "should" in diagnose(exercise, lambda *case: np.asarray(exercise.right(*case)) * 1.5 + 7)
    assert "shape" in diagnose(exercise, lambda *case: np.zeros((3, 1, 9, 1, 2)))


def test_an_answer_may_change_its_arguments():
    def greedy(x):
        result = np.sort(x)
        x[:] = 0
        return result

    exercise = Exercise(right=np.sort, cases=[(np.array([3.0, 1, 2]),)])
    assert diagnose(exercise, greedy) == ""
    assert diagnose(exercise, np.sort) == ""


def test_an_answer_may_change_its_lists():
    def greedy(x):
        x.clear()
        return x

    exercise = Exercise(right=lambda x: tuple(x), cases=[([3, 1, 2],)])
    assert "it gives [], and should give (3, 1, 2)" in diagnose(exercise, greedy)
    assert diagnose(exercise, list) == ""


def test_several_values_for_one_are_named():
    exercise = Exercise(right=lambda x: x.sum(), cases=[(np.ones(3),)])
    assert "it gives 2 values; return one" in diagnose(exercise, lambda x: (x.sum(), x))


def test_the_first_wrong_number_of_an_array_is_shown():
    def off(x):
        x[1, 2] += 0.5
        return x

    exercise = Exercise(right=lambda x: x, cases=[(np.zeros((3, 4)),)])
    assert "1 of 12 numbers are wrong; at (1, 2) it gives 0.5, and should give 0" in diagnose(exercise, off)


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
    answers = _answers(ALL[name], ALL[name].mistakes[diagnosis])
    if any(
        np.isfinite(value) and abs(value) > torch.finfo(torch.float32).max for value in answers if np.ndim(value) == 0
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
    assert "try again" in diagnose(Exercise(right=7), torch.tensor([7]))


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


def test_what_is_no_array_of_numbers_is_named():
    exercise = Exercise(right=lambda: np.zeros((2, 2)), cases=[()])
    verdict = diagnose(exercise, lambda: [[1, 2], [3]])
    assert "it gives [[1, 2], [3]], which is no array of numbers; it should give" in verdict
    assert "the shape is (2,), and should be (2, 2)" in diagnose(exercise, lambda: torch.zeros(2))
