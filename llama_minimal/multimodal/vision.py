"""Pictures as rows of features: patches to read, codes to draw, and the small digits that scikit-learn ships."""

# B images, N patches of an image, P pixels of a patch, K codes

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from llama_minimal.config.checks import check_integer

N_TEST = 500
_INK = 16.0  # the darkest pixel of the data set


def digits(split: Literal["train", "test"] = "train") -> tuple[Tensor, Tensor]:
    """Return handwritten digits, (n, 8, 8) from 0 (paper) to 1 (ink), and what they are, (n,).

    1,797 digits, 500 of them for testing. The same people wrote both parts: who wrote which is not known.

    Raises:
        ImportError: if scikit-learn, which brings them, is not installed.
        ValueError: if there is no such split.

    Source: scikit-learn's ``load_digits``, the test set of Alpaydin and Kaynak 1998, "Optical Recognition of
    Handwritten Digits" (UCI).
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} must be 'train' or 'test'")
    images, labels = _all_digits()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    part = order[:N_TEST] if split == "test" else order[N_TEST:]
    return images[part], labels[part]


@cache
def _all_digits() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("the digits come with scikit-learn: pip install 'llama_minimal[multimodal]'") from None
    data = load_digits()
    return torch.from_numpy(data.images / _INK).float(), torch.from_numpy(data.target).long()


def patches(images: Tensor, size: int) -> Tensor:
    """Cut images into squares, in reading order: the pixels of a square are one row of numbers.

    Args:
        images: (B, height, width).
        size: of a square in pixels; it divides height and width.

    Returns:
        (B, N, P), N = height · width / size², P = size².

    Raises:
        ValueError: if ``images`` are not such, or the squares do not fill them.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", §3.1.
    """
    if images.dim() != 3 or not images.numel():
        raise ValueError(
            f"images of shape {tuple(images.shape)} must be (B, height, width): one or more, without colors; give one "
            f"picture as images[None]"
        )
    B, height, width = images.shape
    check_integer("size", size)
    if height % size or width % size:
        raise ValueError(f"images of {height} × {width} pixels are not filled by squares of {size}; give a divisor")
    cut = images.reshape(B, height // size, size, width // size, size)
    return cut.swapaxes(2, 3).reshape(B, -1, size * size)


def patch_embedding(images: Tensor, w: Tensor, b: Tensor, size: int) -> Tensor:
    """Return patches(images) wᵀ + b, which is a convolution whose stride is as wide as its kernel.

    Args:
        images: (B, height, width).
        w: (D, P); b: (D,).

    Returns:
        (B, N, D).
    """
    return patches(images, size) @ w.T + b


def picture(patches: Tensor, height: int) -> Tensor:
    """Put patches (B, N, P) together again: the inverse of ``patches``, (B, height, width).

    Raises:
        ValueError: if they do not fill an image of this height.
    """
    if patches.dim() != 3 or not patches.numel():
        raise ValueError(f"patches of shape {tuple(patches.shape)} must be (B, N, P), one or more of each")
    check_integer("height", height)
    B, N, P = patches.shape
    size = round(P**0.5)
    if size * size != P or height % size or N % (height // size):
        raise ValueError(f"{N} patches of {P} pixels fill no image of height {height}")
    grid = patches.reshape(B, height // size, -1, size, size)
    return grid.swapaxes(2, 3).reshape(B, height, -1)


@dataclass(frozen=True, slots=True)
class CodeBook:
    """Say each patch by the number of the typical patch that is nearest to it."""

    centers: Tensor
    """(K, P)."""

    @classmethod
    def fit(cls, rows: Tensor, n_codes: int, *, steps: int = 20, seed: int = 0) -> "CodeBook":
        """Find typical patches by k-means: each center moves to the mean of the patches that are nearest to it.

        Args:
            rows: (n, P), with at least ``n_codes`` different ones.
            steps: rounds.
            seed: of the patches where the centers start.

        Source: Lloyd 1982, "Least squares quantization in PCM".
        """
        if rows.dim() != 2:
            raise ValueError(
                f"rows of shape {tuple(rows.shape)} must be (n, P): a patch each; flatten what is before P"
            )
        different = torch.unique(rows, dim=0)
        if not 1 <= n_codes <= len(different):
            raise ValueError(f"n_codes={n_codes} must be from 1 to {len(different)}, the number of different patches")
        order = torch.randperm(len(different), generator=torch.Generator().manual_seed(seed))
        book = cls(different[order[:n_codes]].clone())
        for _ in range(steps):
            codes = book.encode(rows)
            for k in range(n_codes):
                if len(mine := rows[codes == k]):  # a center that nothing is near stays
                    book.centers[k] = mine.mean(dim=0)
        return book

    def encode(self, rows: Tensor) -> Tensor:
        """Return the number of the nearest center, (...), of patches (..., P).

        Raises:
            ValueError: if the patches have another number of pixels than the centers.
        """
        n_pixels = self.centers.size(1)
        if not rows.dim() or rows.size(-1) != n_pixels:
            raise ValueError(f"rows of shape {tuple(rows.shape)} must be (..., {n_pixels}), as long as the centers are")
        return torch.cdist(rows.reshape(-1, n_pixels), self.centers).argmin(dim=1).view(rows.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Return the patches (..., P) that codes (...) stand for.

        Raises:
            ValueError: if a code has no center.
        """
        if codes.is_floating_point() or not ((codes >= 0) & (codes < len(self.centers))).all():
            raise ValueError(f"codes must be whole numbers from 0 to {len(self.centers) - 1}, one for each center")
        return self.centers[codes]
