"""The fits of iso-FLOP curves give back what made up data was made from."""

import numpy as np
import pytest

from llama_minimal.course.scaling import best_sizes, lowest_point, power_law


def test_a_parabola_gives_back_its_lowest_point():
    sizes = np.array([4e3, 1e4, 3e4, 1e5, 4e5])
    losses = 1.9 + 0.07 * (np.log(sizes) - np.log(2.5e4)) ** 2
    assert lowest_point(sizes, losses) == pytest.approx((2.5e4, 1.9, 0.07), rel=1e-9)
    # A run that is done twice weighs twice, and changes nothing where all points lie on the curve.
    assert lowest_point([*sizes, 4e3], [*losses, losses[0]]) == pytest.approx((2.5e4, 1.9, 0.07), rel=1e-9)


def test_a_power_law_gives_back_its_exponent():
    budgets = np.array([1e11, 3e11, 9e11])
    law = power_law(budgets, 0.3 * budgets**0.46)
    assert (law.coefficient, law.exponent) == pytest.approx((0.3, 0.46), rel=1e-9)
    assert law(1e20) == pytest.approx(0.3 * 1e20**0.46)


def test_losses_of_a_known_law_give_its_best_sizes():
    """Of L = E + A/N^α + B/D^β with C = 6·N·D the best size is known: (αA/βB)^(1/(α+β)) · (C/6)^(β/(α+β))."""
    E, A, B, alpha, beta = 1.2, 30.0, 90.0, 0.34, 0.38
    rows = []
    for budget in (1e11, 3e11, 9e11):
        best = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (budget / 6) ** (beta / (alpha + beta))
        for size in best * 1.05 * 2.0 ** np.arange(-2, 3):
            loss = E + A / size**alpha + B / (budget / 6 / size) ** beta
            # One run in three is far off, which moves nothing.
            rows += [{"budget": budget, "parameters": size, "loss": loss + noise} for noise in (-1e-3, 1e-3, 0.5)]
    found = best_sizes(rows)
    exact = {C: (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta)) for C in found}
    assert list(found) == sorted(found)
    for budget, point in found.items():
        assert point.size == pytest.approx(exact[budget], rel=0.1)  # the curve is no parabola, only near its lowest
    law = power_law(list(found), [point.size for point in found.values()])
    assert law.exponent == pytest.approx(beta / (alpha + beta), abs=0.02)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([3.0, 2.3, 1.5, 0.6], "no lowest point between N = 1,000 and 8,000; give larger"),
        ([0.6, 1.5, 2.3, 3.0], "give smaller"),
        ([1.0, 2.0, 2.0, 1.0], "no lowest point"),
    ],
)
def test_a_curve_without_a_lowest_point_is_refused(losses, words):
    with pytest.raises(ValueError, match=words):
        lowest_point([1e3, 2e3, 4e3, 8e3], losses)


def test_too_little_to_fit_is_refused():
    with pytest.raises(ValueError, match="three sizes or more"):
        lowest_point([1e3, 1e3, 2e3], [1.0, 1.1, 0.9])
    for x, y in (([1, 1], [1, 2]), ([1, 2], [1, -2]), ([1, 2, 3], [1, 2])):
        with pytest.raises(ValueError, match="two different x"):
            power_law(x, y)
