"""Chapter 14: the right answers of its exercises by other ways, wrong ones as readers write them, its experiments."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from llama_minimal import reference
from llama_minimal.course.exercises import diagnose, exercises, find
from llama_minimal.course.experiments import quantization, quantized_speed
from llama_minimal.course.quantization_figures import draw_grids, draw_methods, perplexities
from llama_minimal.course.record import recorded
from llama_minimal.model import build
from llama_minimal.quantization import round_weights
from tests.tiny_models import draw_model


def right(name):
    return find(f"quantization.{name}").right


def test_the_expected_error_is_the_mean_over_many_errors():
    rng = np.random.default_rng(0)
    step, x = rng.uniform(0.1, 1, size=(3, 1)), rng.normal(size=(2, 4))
    errors = rng.uniform(-0.5, 0.5, size=(100_000, 3, 4)) * step
    np.testing.assert_allclose(
        ((x @ errors.swapaxes(1, 2)) ** 2).mean(axis=0).T, right("expected_error")(step, x).T, 0.02
    )


def test_the_best_share_is_the_best_by_pytorchs_rounding():
    w, bits, shares = find("quantization.best_share").cases[0]
    largest = 2 ** (bits - 1) - 1
    for row, best in zip(w, right("best_share")(w, bits, shares), strict=True):
        t = torch.from_numpy(row).float()
        errors = []
        for share in shares:
            step = float(share * np.abs(row).max() / largest)
            errors.append(
                float((torch.fake_quantize_per_tensor_affine(t, step, 0, -largest, largest) - t).square().sum())
            )
        assert shares[int(np.argmin(errors))] == best


def test_three_bits_are_those_of_a_whole_number():
    (codes,) = find("quantization.pack3").cases[0]
    packed = right("pack3")(codes)
    for row, in_bytes in zip(codes, packed, strict=True):
        number = int.from_bytes(in_bytes.tobytes(), "little")
        assert [(number >> (3 * i)) & 7 for i in range(len(row))] == row.tolist()


def test_the_correction_makes_a_product_of_codes_that_of_the_numbers():
    x, zero_x, w, zero_w = (part.astype(int) for part in find("quantization.correction").cases[0])
    product = reference.from_codes(x, np.ones(1), zero_x) @ reference.from_codes(w, np.ones(1), zero_w).T
    np.testing.assert_array_equal(x @ w.T - right("correction")(x, zero_x, w, zero_w), product)


def test_balanced_columns_have_the_same_largest_size():
    x, w = find("quantization.balance").cases[0]
    t = right("balance")(x, w)
    np.testing.assert_allclose(np.abs(x / t).max(axis=0), np.abs(w * t).max(axis=0))
    np.testing.assert_allclose((x / t) @ (w * t).T, x @ w.T)


WRONG = [  # as readers write them; what the check has to say
    ("expected_error", lambda step, x: (x**2).sum(axis=-1) * step**2 / 12, ""),
    ("expected_error", lambda step, x: (x**2).mean(axis=-1, keepdims=True) * step.T**2 / 12, "adds all of them up"),
    ("expected_error", lambda step, x: (x**2).sum(axis=-1, keepdims=True) * step.T**2, "twelfth"),
    ("best_share", lambda w, bits, shares: np.ones(len(w)), ""),
    ("best_share", lambda w, bits, shares: shares[np.zeros(len(w), dtype=int)], ""),
    ("pack3", lambda codes: reference.pack_int4(codes), ""),
    ("pack3", lambda codes: np.packbits(codes, axis=-1), ""),
    ("correction", lambda x, zx, w, zw: zx * w.sum(axis=1) + zw * x.sum(axis=1), ""),
    ("correction", lambda x, zx, w, zw: 0 * right("correction")(x, zx, w, zw), ""),
    ("balance", lambda x, w: np.abs(x).max(axis=0) / np.abs(w).max(axis=0), "root"),
    ("balance", lambda x, w: np.sqrt(np.abs(x).max(axis=1) / np.abs(w).max(axis=1)), ""),
]


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_wrong_answers_are_refused_with_a_reason(name, answer, says):
    verdict = diagnose(find(f"quantization.{name}"), answer)
    assert verdict
    assert says in verdict


@pytest.mark.parametrize("name", exercises("quantization"))
def test_a_right_answer_and_an_error_are_told_apart(name):
    def breaks(*case):
        raise KeyError("mine")

    exercise = find(f"quantization.{name}")
    assert diagnose(exercise, exercise.right) == ""
    assert "mine" in diagnose(exercise, breaks)
    assert len(exercise.mistakes) >= 6


TOKENS = torch.randint(60, (6, 9), generator=torch.Generator().manual_seed(0))


def test_grids_of_the_experiment_are_those_of_the_package():
    model = draw_model()
    found = quantization.by_grid(model, TOKENS, TOKENS, "rtn", 4)
    by_hand = {
        grid: quantization.mean_loss(round_weights(draw_model(), 4, group_size=size, skip=quantization.TABLES), TOKENS)
        for grid, size in (("row", "row"), ("group", 32))
    }
    assert found.keys() == {"tensor", "row", "group"}
    assert {grid: found[grid] for grid in by_hand} == pytest.approx(by_hand)
    assert quantization.mean_loss(model, TOKENS) == pytest.approx(quantization.mean_loss(draw_model(), TOKENS))


def test_parts_and_activations_leave_the_model_as_it_was():
    model = draw_model()
    before = quantization.mean_loss(model, TOKENS)
    parts = quantization.by_part(model, TOKENS, 2)
    assert {"wq", "w2", "tables", "layer 0"} <= parts.keys()
    exact = quantization.by_activations(model, TOKENS, TOKENS, 8)
    coarse = quantization.by_activations(model, TOKENS, TOKENS, 2)
    assert quantization.mean_loss(model, TOKENS) == before
    for arm in exact:
        assert abs(exact[arm] - before) < 0.2 * abs(coarse[arm] - before)


def test_the_points_compare_what_they_say():
    arms = {(point["method"], point["bits"]) for point in quantization.POINTS}
    for model, seed in quantization.MODELS:
        mine = {(p["method"], p["bits"]) for p in quantization.POINTS if (p["model"], p["seed"]) == (model, seed)}
        assert mine == arms
    assert {point["repeat"] for point in quantized_speed.POINTS} == {0, 1, 2}
    model = build(draw_model().config, seed=0).eval()
    assert quantized_speed.work(model, "write 32") == 128


def test_the_table_holds_the_recorded_perplexities():
    runs = recorded("quantization")
    head, *lines = perplexities(runs).splitlines()
    assert head.split()[-2:] == ["awq", "group"]
    assert len(lines) == 8
    cells = next(line for line in lines if line.startswith("small  3 bits")).split()[3:]
    mine = [run for run in runs if (run["model"], run["bits"], run["method"]) == ("small", 3, "gptq")]
    assert cells[2] == f"{sum(np.exp(run['row']) for run in mine) / 3:.4g}"
    assert next(line for line in lines if line.startswith("course 2 bits")).endswith("–")  # AWQ was not tried


def test_arrows_of_the_grids_lead_to_the_nearest():
    w = np.array([0.31, -0.92, 0.08])
    figure, axes = plt.subplots()
    draw_grids(axes, w, (2, 3))
    grids = {len(line.get_xdata()): line.get_xdata() for line in axes.lines if line.get_marker() == "|"}
    assert sorted(grids) == [3, 7]
    arrows = iter(axes.texts)
    for grid in grids.values():
        for v in w:
            assert next(arrows).xy[0] == pytest.approx(min(grid, key=lambda g: abs(g - v)))
    plt.close(figure)


def test_the_panels_show_what_was_added_with_the_bits_of_the_grids():
    figure, panels = plt.subplots(1, 2)
    draw_methods(panels, [("course", 0), ("small", 1)], lambda model, method, grid, bits: 10.0**bits)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in panels] == ["course", "small, seed 1"]
    lines = {line.get_label(): line for line in panels[0].lines}
    assert list(lines["GPTQ, rows"].get_xdata()) == [4, 3, 2]
    assert list(lines["AWQ, groups"].get_xdata()) == [5, 4]
    assert list(lines["AWQ, groups"].get_ydata()) == [10_000, 1000]
    plt.close(figure)
