"""Chapter 21, pictures: the right answers of its exercises by other ways, and wrong ones that readers write."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llama_minimal.course.exercises import find, judge
from llama_minimal.multimodal import Example, MixedExamples, Prompt, Vocabulary
from llama_minimal.multimodal.vision import patches
from llama_minimal.prompts import IGNORE


def right(name):
    return find(f"multimodal.{name}").right


@pytest.mark.parametrize(("height", "width", "size", "stride"), [(5, 7, 3, 2), (6, 6, 4, 1), (8, 12, 4, 4)])
def test_the_gradient_of_overlapping_patches_is_that_of_pytorchs_unfold(height, width, size, stride):
    image = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    cut = F.unfold(image, size, stride=stride)[0].T  # (N, P)
    d_patches = torch.randn(cut.shape, dtype=torch.float64)
    cut.backward(d_patches)
    np.testing.assert_allclose(
        right("pixel_gradient")(d_patches.numpy(), height, width, size, stride), image.grad[0, 0].numpy()
    )


def test_the_targets_are_those_that_the_package_trains_on():
    case = find("multimodal.answer_targets").cases[0]
    rows = [Example(Prompt(list(row[:a]), {}), list(row[a : a + b])) for row, a, b in zip(*case, strict=True)]
    examples = MixedExamples.fill(rows, Vocabulary(n_text=50), seq_len=case[0].shape[1])
    np.testing.assert_array_equal(right("answer_targets")(*case), examples.targets)


def test_the_mended_patches_are_the_packages():
    images, size = find("multimodal.mended").cases[0]
    np.testing.assert_array_equal(right("mended")(images, size), patches(torch.from_numpy(images), size).numpy())


def with_bugs(images, size):
    """What the chapter shows."""
    B, height, width = images.shape
    cut = images.reshape(B, width // size, size, height // size, size)
    return cut.reshape(B, -1, size * size)


def overwritten(d_patches, height, width, size, stride):
    d_image = np.zeros((height, width))
    i = 0
    for top in range(0, height - size + 1, stride):
        for left in range(0, width - size + 1, stride):
            d_image[top : top + size, left : left + size] = d_patches[i].reshape(size, size)
            i += 1
    return d_image


def stepping_by_size(d_patches, height, width, size, stride):
    d_image = np.zeros((height, width))
    n = (width - size) // stride + 1
    for i, row in enumerate(d_patches):
        place = d_image[size * (i // n) :, size * (i % n) :][:size, :size]
        place += row.reshape(size, size)[: place.shape[0], : place.shape[1]]
    return d_image


def averaged(d_patches, height, width, size, stride):
    count = right("pixel_gradient")(np.ones_like(d_patches), height, width, size, stride)
    return right("pixel_gradient")(d_patches, height, width, size, stride) / count.clip(1)


def shifted_but_unmasked(ids, n_prompt, n_answer):
    targets = np.full(ids.shape, IGNORE)
    targets[:, :-1] = ids[:, 1:]
    return targets


def in_place_of_the_answer(ids, n_prompt, n_answer):
    targets = np.full(ids.shape, IGNORE)
    for row, a, b in zip(range(len(ids)), n_prompt, n_answer, strict=True):
        targets[row, a : a + b] = ids[row, a : a + b]
    return targets


def first_token_left_out(ids, n_prompt, n_answer):
    targets = np.full(ids.shape, IGNORE)
    for row, a, b in zip(range(len(ids)), n_prompt, n_answer, strict=True):
        targets[row, a : a + b - 1] = ids[row, a + 1 : a + b]
    return targets


def learns_padding(ids, n_prompt, n_answer):
    targets = shifted_but_unmasked(ids, n_prompt, n_answer)
    for row, a in enumerate(n_prompt):
        targets[row, : a - 1] = IGNORE
    return targets


def zeros_for_unlearned(ids, n_prompt, n_answer):
    return np.maximum(right("answer_targets")(ids, n_prompt, n_answer), 0)


def only_the_axes(images, size):
    B, height, width = images.shape
    return images.reshape(B, width // size, size, height // size, size).swapaxes(2, 3).reshape(B, -1, size * size)


def only_the_split(images, size):
    B, height, width = images.shape
    return images.reshape(B, height // size, size, width // size, size).reshape(B, -1, size * size)


def columns_first(images, size):
    return np.stack(
        [
            images[:, i : i + size, j : j + size].reshape(len(images), -1)
            for j in range(0, images.shape[2], size)
            for i in range(0, images.shape[1], size)
        ],
        axis=1,
    )


def pixels_transposed(images, size):
    cut = right("mended")(images, size)
    return cut.reshape(*cut.shape[:2], size, size).swapaxes(2, 3).reshape(cut.shape)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("pixel_gradient", overwritten, "keeps the gradient of the last"),
        ("pixel_gradient", stepping_by_size, "a whole size apart"),
        ("pixel_gradient", averaged, "averaged"),
        ("pixel_gradient", lambda *case: right("pixel_gradient")(*case).T, "transposed"),
        ("pixel_gradient", lambda d, *sizes: right("pixel_gradient")(np.ones_like(d), *sizes), "counts how many"),
        (
            "pixel_gradient",
            lambda d, h, w, size, stride: right("pixel_gradient")(
                d.reshape(-1, size, size).swapaxes(1, 2).reshape(d.shape), h, w, size, stride
            ),
            "each patch is transposed",
        ),
        ("answer_targets", shifted_but_unmasked, "whole row"),
        ("answer_targets", in_place_of_the_answer, "in their own places"),
        ("answer_targets", first_token_left_out, "first token of the answer"),
        ("answer_targets", learns_padding, "padding is learned"),
        ("answer_targets", zeros_for_unlearned, "−100 is no id"),
        ("answer_targets", lambda ids, *_: ids.copy(), ""),
        ("mended", with_bugs, "two axes are not exchanged"),
        ("mended", only_the_axes, "height and width were exchanged"),
        ("mended", only_the_split, "two axes are not exchanged"),
        ("mended", columns_first, "column by column"),
        ("mended", pixels_transposed, "pixels of each patch come column by column"),
        ("mended", lambda images, size: right("mended")(images, size).swapaxes(1, 2), "exchanged"),
    ],
)
def test_wrong_answers_are_told_what_is_wrong(name, answer, said):
    verdict = judge(find(f"multimodal.{name}"), answer)
    assert verdict.text
    assert said in verdict.text
