"""Exits for a frozen model: at first nothing changes, least squares by its property, training moves one matrix."""

import copy

import pytest
import torch

from llama_minimal.adaptive_computation import EarlyExit, ExitRule, exit_logits, first_layers, read_with_exits
from llama_minimal.course.adaptive_diagram import draw_story, draw_two_ways
from llama_minimal.course.exit_norm import ExitNorm, exit_states, least_squares, train_exit, train_exits

TOKENS = torch.randint(61, (24, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(make_model):
    return make_model(n_layers=3).double()


def test_new_exits_say_what_the_models_own_norm_says(model):
    before = exit_logits(model, TOKENS)
    model.norm = ExitNorm(model)
    torch.testing.assert_close(exit_logits(model, TOKENS), before, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), before[-1], rtol=0, atol=0)


def test_states_are_those_that_the_norm_scales(model):
    states = exit_states(model, TOKENS, rows=5)
    assert states.shape == (3, 24, 16, model.config.dim)
    logits = (states * model.norm.weight) @ model.output.weight.T
    torch.testing.assert_close(logits.detach(), exit_logits(model, TOKENS), rtol=0, atol=1e-10)


def test_least_squares_leaves_errors_that_no_matrix_can_lessen(model):
    """At the best matrix the error is at right angles to every column of the states."""
    states = exit_states(model, TOKENS)
    exits = least_squares(model, states)
    wanted = (states[-1] * model.norm.weight.detach()).flatten(0, 1)
    for matrix, x in zip(exits.matrices, states.flatten(1, 2), strict=False):
        error = x @ matrix.detach() - wanted
        torch.testing.assert_close(x.T @ error, torch.zeros_like(matrix), rtol=0, atol=1e-8)
        naive = x * model.norm.weight.detach() - wanted
        assert error.square().sum() < naive.square().sum()


def test_training_lowers_each_exits_loss_and_leaves_the_model_as_it_is(model):
    was, states = copy.deepcopy(model.state_dict()), exit_states(model, TOKENS)
    exits = least_squares(model, states)
    first, last = (matrix.detach().clone() for matrix in exits.matrices)
    loss = torch.nn.functional.cross_entropy
    seen, targets, u = states[0, :, :-1].flatten(0, 1), TOKENS[:, 1:].flatten(), model.output.weight.detach()
    before = loss(seen @ first @ u.T, targets)
    train_exit(model, exits.matrices[0], seen, targets, steps=30, lr=1e-2, seed=0)
    assert loss(seen @ exits.matrices[0].detach() @ u.T, targets) < before - 0.01
    assert torch.equal(exits.matrices[1], last)
    train_exits(model, exits, states, TOKENS, steps=3, lr=1e-2, seed=0)
    assert not torch.equal(exits.matrices[1], last)
    assert all(torch.equal(weight, was[name]) for name, weight in model.state_dict().items())


def test_every_way_to_an_exit_gives_the_same_logits(model):
    """All at once, by a shorter model, and token by token in a model that may be left."""
    model.norm = least_squares(model, exit_states(model, TOKENS))
    logits = exit_logits(model, TOKENS)
    with torch.no_grad():
        for depth in (1, 2):
            short = first_layers(model, depth)(TOKENS)
            torch.testing.assert_close(short, logits[depth - 1], rtol=0, atol=1e-12)
    early = EarlyExit(model, ExitRule(threshold=0.0), exits=[2])
    found, depths = read_with_exits(early, TOKENS)
    assert depths[:, 1:].unique().tolist() == [2]
    # The second layer's keys are exact, as all tokens pass it; so are the logits.
    torch.testing.assert_close(found[:, 1:], logits[1, :, 1:], rtol=0, atol=1e-10)
    never, _ = read_with_exits(EarlyExit(model, ExitRule(threshold=2.0)), TOKENS)
    torch.testing.assert_close(never, logits[-1], rtol=0, atol=1e-10)


def test_the_pictures_show_every_layer_and_every_letter():
    left, right = draw_two_ways().axes
    assert sum(text.get_text() == "k, v" for text in left.texts) == 6
    assert sum(text.get_text() == "kept" for text in right.texts) == 2
    figure = draw_story(["The", " cat", " sat", ".\n\n", "It" * 60], [0, 1, 4, 2, 3])
    (axes,) = figure.axes
    assert len(axes.patches) == 4
    assert "".join(text.get_text() for text in axes.texts).replace(" ", "") == "Thecatsat." + "It" * 60
