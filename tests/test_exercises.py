"""The checks of the exercises: right answers pass, and each known mistake gets its own diagnosis."""

import numpy as np
import pytest

from llama_minimal.course.exercises import CHAPTERS, Exercise, check, diagnose, exercises

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
