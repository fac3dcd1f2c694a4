"""What the checks say of a wrong answer is true: predicates on answers that fit them, and on ones that nearly do."""

import re

import numpy as np
import pytest
import torch

from llama_minimal.course.exercises import Exercise, judge
from llama_minimal.course.exercises.wording import times

RNG = np.random.default_rng(0)
TABLES = [(RNG.normal(size=(4, 5)),), (RNG.normal(size=(5, 5)) + 1,), (RNG.normal(size=(3, 6)),)]


def right(x):
    """A function that mixes each row, so that no answer is an argument."""
    return np.cumsum(x**2, axis=-1) + 0.3 * x + 1.5


def verdict(change, exercise=None):
    exercise = exercise or Exercise(right=right, cases=TABLES)
    return judge(exercise, lambda *of: change(exercise.right(*of)), strict=True)


EVERYWHERE = {  # a change of the right answer, and what is said of it
    "the sign is turned": lambda b: -b,
    "this is 1 minus the right answer": lambda b: 1 - b,
    "this is the square of": lambda b: b**2,
    "this is the root of": lambda b: np.sqrt(np.abs(b)) if (b > 0).all() else np.sqrt(b + 0j),
    "upside down: 1 divided by": lambda b: 1 / b,
    "this is the exponential of the right": np.exp,
    "this is the exponential of minus": lambda b: np.exp(-b),
    "rounded down": np.floor,
    "rounded up": np.ceil,
    "rounded to whole numbers": np.round,
    "this is twice the right answer": lambda b: 2 * b,
    "this is half of the right answer": lambda b: b / 2,
    "this is 8 times": lambda b: 8 * b,
    "this is 2³⁰/10⁹ times": lambda b: b * 2**30 / 1e9,
    "this is 1/log 2 (1.443, nats against bits) times": lambda b: b / np.log(2),
    "this is 0.37 times": lambda b: 0.37 * b,
    "1 too much, everywhere (off by one)": lambda b: b + 1,
    "0.25 too little": lambda b: b - 0.25,
    "this is 2.5 times the right answer, and 3 more": lambda b: 2.5 * b + 3,
    "times `x`": None,
    "the size of `x` along axis -1": lambda b: b * b.shape[-1],
    "times √(the size of `x` along axis -1)": lambda b: b * b.shape[-1] ** 0.5,
    "a number, which is not the same in each case": lambda b: b * (1 + b[0, 0] ** 2),
    "in reverse along axis 0": lambda b: b[::-1],
    "in reverse along axis 1": lambda b: b[:, ::-1],
    "one place later along axis 1": lambda b: np.roll(b, 1, axis=1),
    "one place earlier along axis 0": lambda b: np.roll(b, -1, axis=0),
    "the right numbers, in the wrong places": lambda b: np.sort(b.ravel())[::-1].reshape(b.shape),
    "each row is right but for a factor of its own": lambda b: b / b.sum(axis=-1, keepdims=True),
    "each column is right but for a factor of its own": lambda b: b * (2 + np.arange(b.shape[1])),
    "each row is off by a number of its own": lambda b: b - b.mean(axis=-1, keepdims=True),
    "all is right but in the first row": lambda b: np.r_[b[:1] ** 3, b[1:]],
    "all is right but in the last of the last axis": lambda b: np.c_[b[:, :-1], b[:, -1] ** 3],
    "all is right but on the diagonal": lambda b: b + np.eye(*b.shape) * np.exp(b) / 9,
    "all is right but above the diagonal": lambda b: b + np.triu(np.exp(b) / 9, 1),
    "only one number is wrong: at (1, 2)": lambda b: (
        b + np.where(np.arange(b.size).reshape(b.shape) == b.shape[1] + 2, 1, 0)
    ),
    "the first entry along axis 0 is right, and all after it are wrong": lambda b: np.r_[b[:1], np.cos(9 * b[1:])],
    "it gives 3 everywhere": lambda b: np.full_like(b, 3),
    "nearly right": lambda b: b * (1 + 1e-4 * np.cos(b * 50)),
    "it is transposed": lambda b: b.T,
    "right, but the first along axis 0 is missing": lambda b: b[1:],
    "right, but the last along axis 1 is missing": lambda b: b[:, :-1],
    "without the first along axis 0 it would be right": lambda b: np.r_[b[:1], b],
    "only a part of the answer, the first along axis 0": lambda b: b[0],
    "this is the sum along axis 1": lambda b: b.sum(axis=1),
    "this is the mean of all numbers": lambda b: b.mean(),
    "the right answer is in it, the first along axis 0": lambda b: np.stack([b, b**2]),
    "an axis of length 1 is surplus": lambda b: b[None],
    "in the right order; the shape is (20,)": lambda b: b.ravel(),
    "repeated along axis 0": lambda b: np.stack([b, b, b])[:, :],
    "nan where they should be finite": lambda b: b * np.nan,
    "infinite where they should be finite": lambda b: b / 0.0,
    "it is right, but in a list of its own": lambda b: [[b]][0],
    "complex numbers": lambda b: b + 1j,
    "a generator, which has not been run": lambda b: (row for row in b),
    "a function, which has not been called": lambda b: b.sum,
    "a dict; give an array": lambda b: {"out": b},
    "it gives text": lambda b: str(b),
}
LISTS = {"an axis of length 1 is surplus", "it is right, but in a list of its own", "repeated along axis 0"}
EVERYWHERE.pop("times `x`")


@pytest.mark.parametrize("said", EVERYWHERE)
def test_a_predicate_sees_what_it_is_for(said):
    found = verdict(EVERYWHERE[said])
    if said == "this is the root of":
        found = verdict(np.sqrt, Exercise(right=lambda x: right(x) ** 2, cases=TABLES))
    if said in LISTS:
        assert "right" in found.text
    else:
        assert said in found.text
    assert found.kind == "predicate"


FIRM = [said for said in EVERYWHERE if said not in LISTS and not re.search(r"nan|infin|only one|nearly", said)]


@pytest.mark.parametrize("said", FIRM)
def test_a_predicate_is_silent_where_one_number_does_not_fit(said):
    def spoiled(b):
        out = np.array(EVERYWHERE[said](b), dtype=float)
        if out.ndim:
            out.flat[-2] += 0.7071
            out.flat[1] -= 0.31
            return out
        return out + 0.1

    try:
        text = verdict(spoiled).text
    except (TypeError, ValueError):
        return  # no array of numbers
    assert said not in text


def test_a_predicate_needs_every_wrong_case():
    def first_case_only(x):
        return -right(x) if x.shape == (4, 5) else right(x) ** 2

    text = judge(Exercise(right=right, cases=TABLES), first_case_only, strict=True).text
    assert "sign" not in text
    assert "square" not in text


def test_a_case_that_is_right_is_left_out_and_the_others_are_named():
    def by_kind(x, kind):
        return -x * 2 if kind == "post" else x * 2

    exercise = Exercise(right=lambda x, kind: x * 2, cases=[(np.arange(4.0), "pre"), (np.arange(3.0), "post")])
    found = judge(exercise, by_kind, strict=True)
    assert found.text == "wherever `kind` is 'post', the sign is turned: this is minus the right answer"
    assert found.case == 1


@pytest.mark.parametrize("seed", range(40))
def test_the_factor_that_is_named_is_the_factor(seed):
    rng = np.random.default_rng(seed)
    factor = float(
        rng.choice([rng.normal(), rng.integers(2, 99), 1 / rng.integers(2, 99), 10.0 ** rng.integers(-9, 12)])
    )
    said = times(factor)
    number = {"twice": "2", "half of": "1/2", "a quarter of": "1/4"}.get(said, said.removesuffix(" times"))
    number = {"2³⁰": "2**30", "1/10⁹": "1e-9", "1/10⁶": "1e-6"}.get(number, number)
    assert eval(number) == pytest.approx(factor, rel=1e-3)


def leaks(x, w):
    return (x - x.mean()) @ w


def unscaled(x, w):
    return x @ w**2


def centered(x, w):
    return (x - x.mean(axis=-1, keepdims=True)) @ w


SHAPES = [(RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2))), (RNG.normal(size=(2, 4)), RNG.normal(size=(4, 5)))]
DEPENDENCE = [
    (leaks, centered, r"the number at \(\d, \d\) of the result changes with `x`\[\d, \d\], and should not"),
    (lambda x, w: x @ np.ones_like(w), centered, "the result does not depend on `w`, and should"),
    (lambda x, w: centered(x[:, ::-1] * [0, 1, 1, 1], w), centered, "of the result does not change with `x`"),
    (unscaled, lambda x, w: x @ w, "twice `w` should give twice the result, and gives four times the result"),
    (lambda x, w: x @ w, centered, "adding 1 to every number of `x` should change nothing, and does"),
    (lambda x, w: np.tanh(x) @ w * RNG.normal(), centered, "something else each time it is run"),
]


@pytest.mark.parametrize(("answer", "key", "said"), DEPENDENCE)
def test_a_probe_sees_what_a_result_depends_on(answer, key, said):
    text = judge(Exercise(right=key, cases=SHAPES), answer, strict=True).text
    assert re.search(said, text), text


def test_a_number_that_reaches_another_really_does():
    exercise = Exercise(right=centered, cases=SHAPES)
    text = judge(exercise, leaks, strict=True).text
    to, source = re.search(r"number at (\(.*?\)) of the result changes with `x`\[(.*?)\]", text).groups()
    x, w = SHAPES[0]
    moved = x.copy()
    moved[eval(source)] += 1
    assert leaks(moved, w)[eval(to)] != leaks(x, w)[eval(to)]
    assert centered(moved, w)[eval(to)] == centered(x, w)[eval(to)]


def test_a_term_that_is_missing_is_named_by_the_arguments():
    sizes = [(2, 3, 5), (4, 2, 7), (3, 8, 2), (5, 5, 9), (6, 2, 4)]
    exercise = Exercise(right=lambda dim, layers, vocab: 3 * dim * layers + vocab * dim, cases=sizes)
    text = judge(exercise, lambda dim, layers, vocab: dim * layers + vocab * dim, strict=True).text
    assert text == "what it gives, minus what it should give, is -2 · `dim` · `layers`"
    text = judge(exercise, lambda dim, layers, vocab: (3 * layers + vocab) * dim * layers, strict=True).text
    assert text == "this is the right answer times `layers`"


def test_rows_that_do_not_sum_to_one_are_named():
    def softmax(x, axis=-1):
        e = np.exp(x)
        return e / e.sum(axis=axis, keepdims=True)

    exercise = Exercise(right=softmax, cases=TABLES)
    text = judge(exercise, lambda x: softmax(x, axis=0), strict=True).text
    assert re.fullmatch(r"each row should sum to 1, and one here sums to [\d.]+; here each column does", text)


def test_masks():
    exercise = Exercise(right=lambda n: np.tri(n, dtype=bool), cases=[(4,), (5,)])
    said = {
        "True and False have changed places": lambda n: ~np.tri(n, dtype=bool),
        "places are False that should be True, on the diagonal": lambda n: np.tri(n, k=-1, dtype=bool),
        "places are True that should be False, right above the diagonal": lambda n: np.tri(n, k=1, dtype=bool),
        "it is transposed": lambda n: np.tri(n, dtype=bool).T,
    }
    for text, answer in said.items():
        assert text in judge(exercise, answer, strict=True).text


def test_parts_of_a_pair_are_judged_one_by_one():
    exercise = Exercise(right=lambda x: (x**2, x + 1), cases=TABLES)
    assert judge(exercise, lambda x: (x**2, -x - 1), strict=True).text == (
        "result 2 of 2, the only one that is wrong: the sign is turned: this is minus the right answer"
    )
    assert "in reverse order" in judge(exercise, lambda x: (x + 1, x**2), strict=True).text
    assert "result 1 of 2: this is twice" in judge(exercise, lambda x: (2 * x**2, np.sin(x)), strict=True).text
    assert judge(exercise, lambda x: [torch.tensor(x) ** 2, x + 1], strict=True).text == ""


def test_single_numbers_are_explained_only_where_that_means_something():
    assert judge(Exercise(right=1342177280), 1.25, strict=True).text.startswith(
        "this is the right answer in units of 2³⁰"
    )
    assert judge(Exercise(right=1342177280), 1.342, strict=True).text.endswith("in units of 10⁹, and rounded")
    assert (
        judge(Exercise(right=1342177280), 8 * 1342177280, strict=True).text
        == "this is the right answer in units of an eighth (bits for bytes)"
    )
    assert "too much (off by one)" in judge(Exercise(right=17), 18, strict=True).text
    assert judge(Exercise(right=17.0), 29.3, strict=True).text == "it is 29.3; try again"
    assert judge(Exercise(right=750.1, tolerance=1e-9), 750.1312, strict=True).text.startswith("nearly right")


def test_two_mistakes_at_once_are_both_named():
    exercise = Exercise(right=right, cases=TABLES, mistakes={"x is not squared": lambda x: np.cumsum(x, axis=-1)})
    assert judge(exercise, lambda x: -np.cumsum(x, axis=-1), strict=True).text == (
        "x is not squared; and besides, the sign is turned"
    )
    assert (
        "and besides, this is 3 times what that gives"
        in judge(exercise, lambda x: 3 * np.cumsum(x, axis=-1), strict=True).text
    )


def test_an_error_in_a_predicate_is_no_error_of_the_reader(monkeypatch):
    from llama_minimal.course.exercises import diagnosis

    def broken(look):
        raise ZeroDivisionError

    monkeypatch.setattr(diagnosis, "VALUES", (broken, *diagnosis.VALUES))
    exercise = Exercise(right=right, cases=TABLES)
    assert "the sign is turned" in judge(exercise, lambda x: -right(x)).text
    with pytest.raises(ZeroDivisionError):
        judge(exercise, lambda x: -right(x), strict=True)
