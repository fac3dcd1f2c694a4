"""Patches against PyTorch's unfold and conv2d, the code book against brute force, scenes against their own pictures."""

import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from llama_minimal import reference
from llama_minimal.multimodal import scenes as module
from llama_minimal.multimodal import vision
from llama_minimal.multimodal.scenes import KINDS, WORDS, is_new, scenes
from llama_minimal.multimodal.vision import CodeBook, digits, patch_embedding, patches, picture


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 4), (6, 12, 3), (4, 2, 1), (5, 5, 5)])
def test_patches_are_pytorchs_unfold_and_numpys_and_can_be_put_together(height, width, size):
    images = draw(3, height, width)
    cut = patches(images, size)
    torch.testing.assert_close(cut, F.unfold(images[:, None], size, stride=size).transpose(1, 2))
    np.testing.assert_array_equal(cut.numpy(), reference.patches(images.numpy(), size))
    torch.testing.assert_close(picture(cut, height), images)


def test_the_embedding_of_patches_is_a_convolution_with_a_stride_as_wide_as_its_kernel():
    images, w, b = draw(2, 6, 9), draw(5, 9, seed=1).requires_grad_(), draw(5, seed=2)
    convolved = F.conv2d(images[:, None], w.view(5, 1, 3, 3), b, stride=3)
    embedded = patch_embedding(images, w, b, 3)
    torch.testing.assert_close(embedded, convolved.flatten(2).transpose(1, 2))
    d_out = draw(*embedded.shape, seed=3)
    torch.testing.assert_close(*(torch.autograd.grad(out, w, d_out)[0] for out in (embedded, convolved.flatten(2).mT)))


def test_a_patch_has_its_pixels_from_one_square():
    images = torch.arange(64).view(1, 8, 8)
    assert patches(images, 4)[0, 1, :5].tolist() == [4, 5, 6, 7, 12]


def test_codes_are_the_nearest_centers_and_a_fit_is_kmeans():
    rows = draw(200, 6)
    book = CodeBook.fit(rows, 7, steps=0)
    nearest = (rows[:, None] - book.centers).square().sum(dim=-1).argmin(dim=1)
    assert torch.equal(book.encode(rows), nearest)
    np.testing.assert_array_equal(reference.nearest_codes(rows.numpy(), book.centers.numpy()), nearest.numpy())
    centers = book.centers.numpy()
    errors = [(rows - book.decode(nearest)).square().sum()]
    for steps in range(1, 6):
        centers = reference.move_centers(rows.numpy(), centers)
        moved = CodeBook.fit(rows, 7, steps=steps)
        np.testing.assert_allclose(moved.centers.numpy(), centers)
        errors.append((rows - moved.decode(moved.encode(rows))).square().sum())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_as_many_codes_as_patches_lose_nothing():
    rows = draw(2, 5, 4).round()
    different = len(torch.unique(rows.flatten(0, 1), dim=0))
    book = CodeBook.fit(rows.flatten(0, 1), different)
    torch.testing.assert_close(book.decode(book.encode(rows)), rows)


def test_a_single_patch_has_a_code_too():
    book = CodeBook(torch.eye(4))
    code = book.encode(torch.tensor([0.0, 0.1, 0.9, 0.0]))
    assert code.shape == ()
    assert book.decode(code).tolist() == [0, 0, 1, 0]


def test_the_digits_are_scikit_learns_and_no_picture_is_in_both_parts():
    (train, train_labels), (test, test_labels) = digits("train"), digits("test")
    assert (len(train), len(test)) == (1297, 500)
    data = load_digits()
    both = torch.cat([train, test]).flatten(1).numpy()
    assert sorted(map(bytes, (both * 16).astype(np.uint8))) == sorted(map(bytes, data.data.astype(np.uint8)))
    assert Counter(torch.cat([train_labels, test_labels]).tolist()) == Counter(data.target.tolist())
    assert not {row.numpy().tobytes() for row in train} & {row.numpy().tobytes() for row in test}
    assert (both.min(), both.max()) == (0, 1)


def test_without_scikit_learn_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    vision._all_digits.cache_clear()
    with pytest.raises(ImportError, match=r"llama_minimal\[multimodal\]"):
        digits()


def cells(scene):
    return [scene.image[i : i + 8, j : j + 8] for i in (0, 8) for j in (0, 8)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_picture_shows_the_digits_that_the_scene_names_from_its_own_part(split):
    images, labels = digits(split)
    known = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    for scene in scenes(60, split=split, seed=3):
        assert [known[cell.contiguous().numpy().tobytes()] for cell in cells(scene)] == list(scene.digits)


def answer_by_reading(scene):
    """The answer found anew: by the words of the question, on a grid with rows and columns."""
    grid, words = np.array(scene.digits).reshape(2, 2), WORDS[scene.language]
    if scene.kind == "caption":
        rows = [(" " if scene.language == "en" else "").join(words[digit] for digit in row) for row in grid]
        return f" {rows[0]}, {rows[1]}" if scene.language == "en" else f"{rows[0]},{rows[1]}"
    if scene.kind == "place":
        row = int("bottom" in scene.question or "下" in scene.question)
        column = int("right" in scene.question or "右" in scene.question)
        return f" {words[grid[row, column]]}" if scene.language == "en" else words[grid[row, column]]
    if scene.kind == "count":
        named = module._PLURALS if scene.language == "en" else [f"几个{word}" for word in words]
        [digit] = [digit for digit, name in enumerate(named) if name in scene.question]
        n = int((grid == digit).sum())
        return f" {words[n]}" if scene.language == "en" else f"{'两' if n == 2 else words[n]}个"
    [digit] = [digit for digit, word in enumerate(words) if word in scene.question.replace("一边", "")]
    sides = {"left": (0, -1), "右": (0, 1), "right": (0, 1), "左": (0, -1), "above": (-1, 0), "上": (-1, 0)}
    step = next((step for name, step in sides.items() if name in scene.question), (1, 0))
    [place] = np.argwhere(grid == digit)
    found = words[grid[tuple(place + step)]]
    return f" {found}" if scene.language == "en" else found


@pytest.mark.parametrize("new", [False, True])
def test_answers_are_those_that_one_reads_off_the_picture(new):
    drawn = scenes(400, new=new, seed=1)
    assert [scene.answer for scene in drawn] == [answer_by_reading(scene) for scene in drawn]
    assert Counter((scene.kind, scene.language) for scene in drawn) == {
        (kind, language): 50 for kind in KINDS for language in ("en", "zh")
    }


def neighbors(scene):
    grid = np.array(scene.digits).reshape(2, 2)
    return [*grid.tolist(), *grid.T.tolist()]


def test_training_never_shows_a_new_pair_and_new_scenes_always_do():
    assert not any(is_new(*pair) for scene in scenes(400) for pair in neighbors(scene))
    assert all(any(is_new(*pair) for pair in neighbors(scene)) for scene in scenes(400, new=True))
    assert not {scene.digits for scene in scenes(400)} & {scene.digits for scene in scenes(400, new=True)}


def test_a_new_question_is_about_a_new_pair():
    for scene in scenes(200, new=True, kinds=("neighbor",)):
        words = WORDS[scene.language]
        [asked] = [digit for digit, word in enumerate(words) if word in scene.question]
        assert is_new(asked, words.index(scene.answer.strip()))


def test_every_digit_has_as_many_old_neighbors_as_any_other():
    assert {sum(is_new(one, other) for other in range(10)) for one in range(10)} == {2}
    assert all(is_new(one, other) == is_new(other, one) for one in range(10) for other in range(10))


def test_counts_come_equally_often():
    counts = Counter(scene.answer for scene in scenes(800, kinds=("count",), new=True) if scene.language == "en")
    assert set(counts) == {" zero", " one", " two", " three"}
    assert min(counts.values()) > 70


def test_scenes_follow_from_their_seed_and_differ_from_part_to_part():
    one, again, other = (scenes(20, seed=seed) for seed in (4, 4, 5))
    assert [s[2:] for s in one] == [s[2:] for s in again]
    assert all(torch.equal(a.image, b.image) for a, b in zip(one, again, strict=True))
    assert [s.digits for s in one] != [s.digits for s in other]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: digits("valid"), "split='valid' must be 'train' or 'test'"),
        (lambda: patches(torch.zeros(1, 8, 8), 3), "8 × 8 pixels are not filled by squares of 3"),
        (lambda: patches(torch.zeros(8, 8), 4), r"shape \(8, 8\) must be \(B, height, width\).*give one picture as"),
        (lambda: patches(torch.zeros(1, 3, 8, 8), 4), r"shape \(1, 3, 8, 8\) must be .*without colors"),
        (lambda: patches(torch.zeros(0, 8, 8), 4), r"shape \(0, 8, 8\) must be .*one or more"),
        (lambda: patches(torch.zeros(1, 8, 8), 0), "size=0 must be a whole number of at least 1"),
        (lambda: picture(torch.zeros(4, 16), 8), r"shape \(4, 16\) must be \(B, N, P\)"),
        (lambda: picture(torch.zeros(1, 4, 16), 0), "height=0 must be a whole number"),
        (lambda: CodeBook.fit(torch.zeros(9), 2), r"shape \(9,\) must be \(n, P\)"),
        (lambda: CodeBook(torch.zeros(3, 4)).encode(torch.zeros(2, 5)), r"shape \(2, 5\) must be \(\.\.\., 4\)"),
        (lambda: CodeBook(torch.zeros(3, 4)).decode(torch.tensor(-1)), "codes must be whole numbers from 0 to 2"),
        (lambda: CodeBook(torch.zeros(3, 4)).decode(torch.tensor([0, 3])), "codes must be whole numbers from 0 to 2"),
        (lambda: picture(torch.zeros(1, 4, 5), 8), "fill no image of height 8"),
        (lambda: picture(torch.zeros(1, 3, 16), 8), "3 patches of 16 pixels fill no image"),
        (lambda: CodeBook.fit(torch.zeros(9, 2), 2), "n_codes=2 must be from 1 to 1"),
        (lambda: scenes(3, kinds=("color",)), "kinds='color' is not one of"),
        (lambda: scenes(0), "n=0 must be a whole number of at least 1"),
        (lambda: scenes(3, split="all"), "split='all'"),
    ],
)
def test_what_cannot_be_is_refused_in_words(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()
