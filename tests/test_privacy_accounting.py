"""Epsilon: by hand, by the paper's sum, and by Opacus."""

import math

import numpy as np
import pytest

from llama_minimal import reference
from llama_minimal.responsible_ai.privacy import (
    accounting,
    epsilon,
    group_privacy,
    library_epsilon,
    noise_for,
    rdp_of_step,
)

STORED = {"rate": 0.01, "noise": 1.0, "steps": 1000, "delta": 1e-5}


def test_the_stored_values():
    """Measured with Opacus 1.6.0 and dp-accounting 0.6.0."""
    assert epsilon(**STORED) == pytest.approx(2.1014, abs=1e-4)
    # Opacus' own search stops within 0.01 of the epsilon, at 1.0229.
    assert noise_for(2.0, rate=0.01, steps=1000, delta=1e-5) == pytest.approx(1.0229, abs=1e-3)


@pytest.mark.parametrize(
    ("rate", "noise", "steps"), [(0.01, 1.0, 1000), (0.03, 0.5, 200), (0.03, 8.0, 200), (1.0, 4.0, 10), (0.3, 2.0, 50)]
)
def test_opacus_counts_the_same(rate, noise, steps):
    pytest.importorskip("opacus")
    settings = {"rate": rate, "noise": noise, "steps": steps, "delta": 1e-5}
    # With Opacus' own orders: ours go on to larger ones, which serve a small epsilon.
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    ours = epsilon(**settings, orders=orders)
    assert ours == pytest.approx(library_epsilon(**settings, accountant="rdp"), rel=1e-6)
    assert epsilon(**settings) <= ours


def test_the_tighter_accountant_promises_no_more_than_is_true():
    pytest.importorskip("opacus")
    prv = library_epsilon(**STORED)
    assert prv == pytest.approx(1.8384, abs=2e-3)
    assert prv < epsilon(**STORED)


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.7, 1.0, 5.0])
def test_the_integral_is_the_papers_sum_at_whole_orders(rate, noise):
    orders = (2, 3, 5, 12)
    expected = [reference.rdp_of_step(rate, noise, order) for order in orders]
    np.testing.assert_allclose(rdp_of_step(rate, noise, orders=orders), expected, rtol=1e-7, atol=1e-12)


def test_copies_of_an_example_by_a_plain_sum_and_in_the_case_without_chance():
    orders = np.array([1.5, 2, 4])
    # All drawn in every step: the shift is 3, so the divergence is that of two Gaussians, α·3²/2σ².
    np.testing.assert_allclose(rdp_of_step(1.0, 2.0, orders=orders, copies=3), orders * 9 / 8, rtol=1e-8)
    q, sigma, r = 0.1, 1.5, 2
    z = np.linspace(-20, 20, 200_001)

    def normal(shift):
        return np.exp(-((z - shift) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    with_copies = sum(math.comb(r, j) * q**j * (1 - q) ** (r - j) * normal(j) for j in range(r + 1))
    without = normal(0)
    for order, found in zip(orders, rdp_of_step(q, sigma, orders=orders, copies=r), strict=True):
        both = [
            math.log((a**order * b ** (1 - order)).sum() * (z[1] - z[0])) / (order - 1)
            for a, b in ((with_copies, without), (without, with_copies))
        ]
        assert found == pytest.approx(max(both), rel=1e-6)


def test_more_noise_fewer_steps_and_smaller_draws_promise_more():
    def at(**changes):
        return epsilon(**STORED | changes)

    assert at(noise=2.0) < at() < at(noise=0.8)
    assert at(steps=500) < at() < at(rate=0.02)
    assert at(delta=1e-4) < at() < at(delta=1e-6)
    assert at(steps=0) < 0.05
    assert epsilon(**STORED | {"noise": 0}) == math.inf
    found = [at(noise=4.0, copies=r) for r in (1, 2, 4, 8)]
    # r copies weaken epsilon by about r: a little more for each, since δ stays.
    assert all(r <= e / found[0] < 2 * r for r, e in zip((1, 2, 4, 8), found, strict=True))


@pytest.mark.parametrize("noise", [1e-300, 1e-6, 0.01])
def test_next_to_no_noise_is_bounded_instead_of_integrated_over_endlessly_many_points(noise):
    found = epsilon(rate=0.01, steps=10, delta=1e-5, noise=noise)
    assert found <= epsilon(rate=1.0, steps=10, delta=1e-5, noise=noise)
    assert found >= 0.99 * 10 * 1.1 / 2 / noise / noise  # of the smallest order, but for the chance of being drawn


@pytest.mark.parametrize("copies", [1, 8])
def test_the_bound_is_never_below_the_integral_and_close_to_it(copies, monkeypatch):
    orders, noises = np.array([1.1, 1.5, 2, 4]), copies * np.array([0.02, 0.03, 0.04, 0.06])
    exact = np.array([rdp_of_step(0.01, noise, orders=orders, copies=copies) for noise in noises])
    monkeypatch.setattr(accounting, "_MOST_POINTS", 1 << 14)
    found = np.array([rdp_of_step(0.01, noise, orders=orders, copies=copies) for noise in noises])
    bounded = found > exact * (1 + 1e-7)
    assert bounded.any()
    assert not bounded.all()
    assert (found >= exact * (1 - 1e-7)).all()
    assert (np.diff(found, axis=0) < 0).all()  # more noise, less divergence, also from one to the other
    with_chance = orders / (orders - 1) * copies * math.log(100)  # what not being drawn is worth at most
    assert (found - exact <= with_chance * (1 + 1e-7)).all()


@pytest.mark.parametrize("target", [0.1, 0.5, 8.0])
def test_the_noise_for_an_epsilon_is_the_smallest(target):
    noise = noise_for(target, rate=0.02, steps=300, delta=1e-5)
    assert epsilon(rate=0.02, noise=noise, steps=300, delta=1e-5) <= target
    assert epsilon(rate=0.02, noise=noise * 0.999, steps=300, delta=1e-5) > target


def test_group_privacy_is_one_neighbor_after_the_other():
    eps, delta = 0.3, 1e-6
    so_far = 0.0
    for r in range(1, 6):
        so_far = math.exp(eps) * so_far + delta  # P(a) ≤ e^ε P(b) + δ, put into the next
        assert group_privacy(eps, delta, r) == pytest.approx((r * eps, so_far))
    assert group_privacy(0.0, 1e-6, 3) == pytest.approx((0.0, 3e-6))
    assert group_privacy(8.0, 1e-5, 64)[1] == 1.0


def test_impossible_numbers_are_refused():
    for changes in (
        {"rate": 0.0},
        {"rate": 1.1},
        {"noise": -1.0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"steps": -1},
        {"copies": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(changes))):
            epsilon(**STORED | changes)
    with pytest.raises(ValueError, match="copies=0 must be a whole number of at least 1"):
        epsilon(**STORED | {"noise": 0.0, "copies": 0})
    with pytest.raises(ValueError, match="out of reach"):
        noise_for(1e-9, rate=1.0, steps=10**6, delta=1e-5)
    with pytest.raises(ValueError, match="above 0"):
        noise_for(0.0, rate=0.1, steps=10, delta=1e-5)
    with pytest.raises(ValueError, match="copies"):
        group_privacy(1.0, 1e-5, 0)


def test_without_opacus_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
    with pytest.raises(ImportError, match=r"llama_minimal\[privacy\]"):
        library_epsilon(**STORED)
