"""A code book: the few vectors that stand for many, so that a model of words can write sounds or pictures.

k-means by hand. ``units`` is of no modality: rows of numbers go in, whole numbers come out. The oracle in the tests is
scikit-learn's ``KMeans``.
"""

# N rows, D numbers of a row, U units

import torch
from torch import Tensor


def nearest_unit(x: Tensor, centers: Tensor) -> Tensor:
    """Return which center is closest to each row, (N,): argmin over u of ‖x − c_u‖² = ‖c_u‖² − 2 x · c_u + ‖x‖².

    Args:
        x: (N, D).
        centers: (U, D).

    Raises:
        ValueError: if rows and centers are not of one width, or a row is not finite.
    """
    _check_rows(x)
    if centers.dim() != 2 or x.size(1) != centers.size(1):
        raise ValueError(f"rows {tuple(x.shape)} and centers {tuple(centers.shape)} must be (N, D) and (U, D)")
    return ((centers**2).sum(dim=1) - 2 * x @ centers.T).argmin(dim=1)


def kmeans_step(x: Tensor, centers: Tensor) -> Tensor:
    """Return the centers after a round of k-means, (U, D): the mean of the rows to which each is the closest.

    A center that is closest to nothing stays where it is.

    Source: Lloyd 1982, "Least squares quantization in PCM".
    """
    unit = nearest_unit(x, centers)
    totals = torch.zeros_like(centers).index_add_(0, unit, x)
    counts = torch.bincount(unit, minlength=len(centers))[:, None]
    return torch.where(counts > 0, totals / counts.clamp(min=1), centers)


def find_units(x: Tensor, n_units: int, *, rounds: int = 50, seed: int = 0) -> Tensor:
    """Return the centers of k-means, (U, D), so that rows lie close to the nearest: Σ min_u ‖x − c_u‖² is small.

    The first centers are rows, drawn one by one with a probability that grows with the squared distance to the
    nearest one before (k-means++). Rounds follow until nothing moves. It finds a minimum, not always the lowest.

    Args:
        x: (N, D), N ≥ U.
        n_units: U.
        rounds: at most.
        seed: of the drawing.

    Raises:
        ValueError: if there are fewer different rows than units, or a row is not finite.

    Source: Arthur and Vassilvitskii 2007, "k-means++: The Advantages of Careful Seeding".
    """
    _check_rows(x)
    if not 1 <= n_units <= len(x):
        raise ValueError(f"n_units={n_units} must be from 1 to the number of rows, {len(x)}")
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(x), (1,), generator=generator))
    chosen, distance = [first], _distance(x, x[first])
    while len(chosen) < n_units:
        if not distance.max() > 0:
            raise ValueError(f"only {len(chosen)} rows differ, so there are no {n_units} units; ask for fewer")
        chosen.append(int(torch.multinomial(distance.cpu(), 1, generator=generator)))
        distance = distance.minimum(_distance(x, x[chosen[-1]]))
    centers = x[chosen]
    for _ in range(rounds):
        before, centers = centers, kmeans_step(x, centers)
        if torch.equal(before, centers):
            break
    return centers


def _distance(x: Tensor, row: Tensor) -> Tensor:
    return ((x - row) ** 2).sum(dim=1)


def _check_rows(x: Tensor) -> None:
    if x.dim() != 2 or not x.is_floating_point() or not x.isfinite().all():
        raise ValueError(f"x of shape {tuple(x.shape)}, {x.dtype}, must be (N, D) finite floats, a row for each vector")
