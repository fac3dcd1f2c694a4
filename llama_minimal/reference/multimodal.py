"""What is not text as a row of vectors: patches, their embedding, and the places where they go."""

# B batch, T time, D model width, N patches or features of a row, P numbers of each, K codes

import numpy as np

from llama_minimal.reference._types import VJP, Array
from llama_minimal.reference.feedforward import linear_vjp


def patches(images: Array, size: int) -> Array:
    """Cut images into squares, in reading order: the pixels of a square are one row of numbers.

    Args:
        images: (B, height, width).
        size: of a square in pixels; it divides height and width.

    Returns:
        (B, N, P), N = height · width / size², P = size².
    """
    B, height, width = images.shape
    cut = images.reshape(B, height // size, size, width // size, size)
    return cut.swapaxes(2, 3).reshape(B, -1, size * size)


def patches_vjp(images: Array, size: int) -> VJP:
    """Return ``patches`` and its backward, d_out → d_images: every pixel is read once, so it only puts them back."""
    B, height, width = images.shape

    def backward(d_out: Array) -> Array:
        cut = d_out.reshape(B, height // size, width // size, size, size)
        return cut.swapaxes(2, 3).reshape(B, height, width)

    return patches(images, size), backward


def patch_embedding(images: Array, w: Array, b: Array, size: int) -> Array:
    """Return patches(images) wᵀ + b, which is a convolution whose stride is as wide as its kernel.

    Args:
        images: (B, height, width).
        w: (D, P); b: (D,).

    Returns:
        (B, N, D).

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", §3.1.
    """
    return patches(images, size) @ w.T + b


def patch_embedding_vjp(images: Array, w: Array, b: Array, size: int) -> VJP:
    """Return ``patch_embedding`` and its backward, d_out → (d_images, d_w, d_b)."""
    rows, cut_backward = patches_vjp(images, size)
    out, linear_backward = linear_vjp(rows, w, b)

    def backward(d_out: Array) -> tuple[Array, Array, Array]:
        d_rows, d_w, d_b = linear_backward(d_out)
        return cut_backward(d_rows), d_w, d_b

    return out, backward


def place_features(x: Array, where: Array, features: Array) -> Array:
    """Return embeddings in which the k-th place of each row holds the k-th feature of that row.

    Args:
        x: (B, T, D).
        where: (B, T), True at a place.
        features: (B, N, D); a row has at most N places, and what is left over is not read.

    Returns:
        (B, T, D).
    """
    out = x.copy()
    row, place = where.nonzero()  # in reading order
    out[row, place] = features[row, _order(where)[row, place]]
    return out


def place_features_vjp(x: Array, where: Array, features: Array) -> VJP:
    """Return ``place_features`` and its backward, d_out → (d_x, d_features): gradients go where the vectors were."""

    def backward(d_out: Array) -> tuple[Array, Array]:
        row, place = where.nonzero()
        d_features = np.zeros_like(features)
        d_features[row, _order(where)[row, place]] = d_out[row, place]
        return np.where(where[..., None], 0, d_out).astype(d_out.dtype), d_features

    return place_features(x, where, features), backward


def nearest_codes(rows: Array, centers: Array) -> Array:
    """Return the number of the center that is nearest to each patch, by |row|² − 2 row · center + |center|².

    Args:
        rows: (n, P).
        centers: (K, P).

    Returns:
        (n,); of equal distances the first.
    """
    return ((centers**2).sum(axis=1) - 2 * rows @ centers.T).argmin(axis=1)  # |row|² is the same for all centers


def move_centers(rows: Array, centers: Array) -> Array:
    """Return the means of the patches that each center is nearest to: a round of k-means; a center without any stays.

    Args:
        rows: (n, P).
        centers: (K, P).

    Source: Lloyd 1982, "Least squares quantization in PCM".
    """
    codes, moved = nearest_codes(rows, centers), centers.copy()
    for k in np.unique(codes):
        moved[k] = rows[codes == k].mean(axis=0)
    return moved


def _order(where: Array) -> Array:
    """Return how many places of its row stand before each place."""
    return where.cumsum(axis=1) - 1
