"""The fuzzer: its mutants, its limits, and twenty wrong answers for every exercise."""

import ast

import pytest

from llama_minimal.course import fuzz as fuzzer
from llama_minimal.course.exercises import CHAPTERS, exercises
from llama_minimal.course.fuzz_worker import Outcome, Task, Worker, outcome
from llama_minimal.course.mutants import mutants

NAMES = [f"{chapter}.{name}" for chapter in CHAPTERS for name in exercises(chapter)]
SOFTMAX = """def my_softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
"""


def of_softmax(source):
    return outcome(Task(name="attention.softmax", imports="import numpy as np", source=source))


@pytest.fixture(scope="module")
def reports():
    return fuzzer.fuzz(NAMES, count=20)


def test_no_check_fails_and_none_lets_a_wrong_answer_pass(reports):
    assert [report.name for report in reports] == NAMES
    for kind in ("crash", "passed", "elsewhere"):
        assert fuzzer.examples(reports, [kind], most=9) == ""
    assert all(report.counts.total() >= 10 for report in reports)


def test_most_mutants_are_told_what_is_wrong(reports):
    total = fuzzer.total(reports)
    assert total.share >= 0.6
    assert total.counts["slow"] <= total.counts.total() // 100  # loops that no longer end
    assert "attention.softmax" in fuzzer.table(reports)


def test_every_exercise_has_a_solution_to_change():
    assert set(NAMES) <= set(fuzzer.solutions())


def test_mutants_are_many_different_and_the_same_for_a_seed():
    made = mutants(SOFTMAX, 60, seed=3)
    assert len({one.source for one in made}) == len(made) == 60
    assert ast.unparse(ast.parse(SOFTMAX)) not in {one.source for one in made}
    assert made == mutants(SOFTMAX, 60, seed=3)
    assert made != mutants(SOFTMAX, 60, seed=4)
    all_of_them = "\n".join(one.change for one in mutants(SOFTMAX, 1000))
    for change in ("axis=-1 → axis=0", "True → False", "→ np.log(", "→ x + x.max", "→ e\n", "return e / e.sum"):
        assert change in all_of_them


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (SOFTMAX, "equal"),
        (SOFTMAX.replace("x - x.max", "x - 2 - x.max"), "equal"),
        (SOFTMAX.replace("-1", "-2"), "mistake"),
        (SOFTMAX.replace("return ", "return -"), "predicate"),
        (SOFTMAX.replace("return ", "return nonsense"), "raised"),
        (SOFTMAX.replace("return ", ""), "predicate"),
    ],
)
def test_what_becomes_of_a_mutant(source, kind):
    assert of_softmax(source).kind == kind


def test_a_hole_in_a_check_is_found(monkeypatch):
    """A check that lets everything pass, one that fails, and one whose cases are too few."""
    from llama_minimal.course import fuzz_worker
    from llama_minimal.course.exercises import Exercise, Verdict

    wrong = SOFTMAX.replace("return ", "return 2 * ")
    with monkeypatch.context() as patched:
        patched.setattr(fuzz_worker, "judge", lambda *_, **__: Verdict(text=""))
        assert of_softmax(wrong).kind == "passed"
        patched.setattr(fuzz_worker, "judge", lambda *_, **__: 1 / 0)
        assert of_softmax(wrong) == Outcome(kind="crash", text="ZeroDivisionError: division by zero")
    narrow = Exercise(right=lambda x: x * x, cases=[(2.0,)], draw=lambda rng: (float(rng.normal()),))
    monkeypatch.setattr(fuzz_worker, "find", lambda name: narrow)
    assert outcome(Task(name="", imports="", source="lambda x: x + x")).kind == "elsewhere"


def test_an_answer_that_hangs_or_eats_memory_is_ended():
    endless = "def f(x):\n    while True:\n        x = x + 1\n"
    greedy = "def f(x):\n    return np.ones(1 << 40)\n"
    with Worker() as worker:
        answers = [
            worker.judge(Task(name="attention.softmax", imports="import numpy as np", source=source))
            for source in (endless, greedy, SOFTMAX)
        ]
    assert [answer.kind for answer in answers] == ["slow", "raised", "equal"]


def test_the_command_prints_a_table_and_examples(capsys):
    assert fuzzer.main(["start_here", "--count", "5", "--say"]) == 0
    printed = capsys.readouterr().out
    assert "start_here.mean" in printed
    assert "attention" not in printed
    with pytest.raises(SystemExit):
        fuzzer.main(["nonsense"])


def test_without_notebooks_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no chapters"):
        fuzzer.solutions(tmp_path)
