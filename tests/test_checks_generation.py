"""The exercise on the cache, and the pictures of it: who may compute what, and who sees whom."""

import copy

import numpy as np
import pytest

from llama_minimal.course.cache_diagram import draw_padding, draw_steps, padded
from llama_minimal.course.checks.cached_layer import decode
from llama_minimal.course.exercises import diagnose, exercises
from llama_minimal.reference import attention, causal_mask

CACHE = exercises("generation")["cache"]


def test_a_real_cache_equals_each_row_alone():
    assert diagnose(CACHE, decode) == ""


def test_a_loop_over_rows_passes_too():
    def one_by_one(layer, prompts, lengths, n):
        return np.concatenate(
            [decode(layer, prompts[b : b + 1, :size], np.array([size]), n) for b, size in enumerate(lengths)]
        )

    assert diagnose(CACHE, one_by_one) == ""


def test_the_answer_key_is_what_attention_gives():
    layer, prompts, lengths, _ = copy.deepcopy(CACHE.cases[0])
    length = int(lengths[0])
    q, k, v = layer(prompts[:1, :length], np.arange(length)[None])
    out = attention(q[:, None], k[:, None], v[:, None], causal_mask(length, length))[0, 0]
    np.testing.assert_allclose(CACHE.right(*CACHE.cases[0])[0, 0], out[-1])


def test_starting_over_is_refused():
    def start_over(layer, prompts, lengths, n):
        positions = np.tile(np.arange(prompts.shape[1]), (len(prompts), 1))
        return [layer(prompts, positions) for _ in range(n + 1)]

    assert "the same token twice; keep its key and value" in diagnose(CACHE, start_over)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 7)])
def test_the_layer_names_the_shapes_that_it_takes(shape):
    verdict = diagnose(CACHE, lambda layer, *_: layer(np.zeros(shape), np.zeros((3, 5), int)))
    assert f"layer takes x (B, T, 6) and positions (B, T), not {shape} and (3, 5)" in verdict


def test_an_output_too_few_is_a_matter_of_shape():
    assert "right, but the first along axis 1 is missing" in diagnose(CACHE, lambda *case: decode(*case)[:, 1:])


def test_padding_on_the_left_makes_a_slot_a_column():
    positions, mask = padded([3, 1], 1, "left")
    assert positions.tolist() == [[0, 1, 2, 3], [-1, -1, 0, 1]]
    assert mask.astype(int).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_padding_on_the_right_makes_a_slot_a_position():
    positions, mask = padded([3, 1], 1, "right")
    assert positions.tolist() == [[0, 1, 2, 3], [0, 1, -1, -1]]
    assert mask.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_step_computes_one_key_and_the_prefill_all_of_the_prompt():
    shown = [text for text in words(draw_steps(["a", "b"], ["c", "d"])) if "keys" in text]
    assert shown == ["2 of 2 keys computed", "1 of 3 keys computed", "1 of 4 keys computed"]


def test_each_real_token_is_drawn_with_its_position():
    shown = words(draw_padding([["a", "b"], ["c"]], [["x"], ["y"]]))
    # The free slot on the right is empty: no padding was ever there.
    assert sorted(shown) == sorted(2 * ["a\n0", "b\n1", "x\n2", "c\n0", "y\n1"] + ["pad", ""])
