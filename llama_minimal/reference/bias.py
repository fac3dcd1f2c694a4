"""Bias in numbers: which group goes with which role, how much a model adds, and a direction taken out."""

# R roles, G groups, V vocabulary, D width

import numpy as np

from llama_minimal.reference._types import Array


def association(counts: Array, prior: float = 0.5) -> tuple[Array, Array]:
    """Return how much more often each role goes with each group than the other roles do, and how sure that is.

    Of role r and group g let a = n(r, g), b = n(r, not g), c = n(not r, g), d = n(not r, not g), each with ``prior``
    added. The log-odds ratio is log(ad/bc), its standard error √(1/a + 1/b + 1/c + 1/d), and z their ratio.

    Args:
        counts: (R, G), how often a role was seen with a group.
        prior: added to each of the four numbers, so that a zero has a logarithm.

    Returns:
        The log-odds ratios, 0 where there is no association, and z, each (R, G).

    Source: Woolf 1955, "On estimating the relation between blood group and disease", with Haldane's ½.
    """
    both = counts + prior
    role = counts.sum(1, keepdims=True) - counts + prior
    group = counts.sum(0, keepdims=True) - counts + prior
    neither = counts.sum() - counts.sum(1, keepdims=True) - counts.sum(0, keepdims=True) + counts + prior
    ratio = np.log(both) + np.log(neither) - np.log(role) - np.log(group)
    return ratio, ratio / np.sqrt(1 / both + 1 / role + 1 / group + 1 / neither)


def amplification(truth: Array, measured: Array, fair: float = 0.5) -> Array:
    """Return how far a share has moved away from what is fair, sign(truth − fair)·(measured − truth).

    Positive: the model exaggerates. Negative: it softens. Where the truth is fair there is nothing to exaggerate: 0.

    Args:
        truth: shares of a group in the data, one for each role, (R,).
        measured: shares in what the model says, (R,).
        fair: the share without a bias.

    Returns:
        (R,); its mean is one number for a model.

    Source: after Zhao et al. 2017, "Men Also Like Shopping", §3, who average over the pairs that the data prefer.
    """
    return np.sign(truth - fair) * (measured - truth)


def group_shares(logits: Array, groups: Array, temperature: float = 1.0) -> Array:
    """Return how a model shares the next token among groups, when it is a token of one of them.

    Σ over a group of softmax(z/τ), divided by the sum over all groups.

    Args:
        logits: (..., V).
        groups: (V,), the group of a token, 0 to G − 1, or −1 for none.
        temperature: τ > 0, of the sampling.

    Returns:
        (..., G).
    """
    scaled = logits / temperature
    scaled = np.where(groups >= 0, scaled, -np.inf)
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    sums = np.stack([weights[..., groups == group].sum(axis=-1) for group in range(groups.max() + 1)], axis=-1)
    return sums / sums.sum(axis=-1, keepdims=True)


def remove_directions(x: Array, directions: Array) -> Array:
    """Return vectors without their parts along some directions: x − Σ (x·q) q, with q an orthonormal basis of them.

    Args:
        x: (..., D).
        directions: (k, D), linearly independent.

    Source: Bolukbasi et al. 2016, "Man is to Computer Programmer as Woman is to Homemaker?", "neutralize".
    """
    basis = np.linalg.qr(directions.T)[0]  # (D, k)
    return x - (x @ basis) @ basis.T
