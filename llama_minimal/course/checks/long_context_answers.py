"""Answers to the exercises of chapter 19, right ones and almost right ones."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def slot_of(position: int, n_slots: int, n_sinks: int) -> int:
    """Return where a token lives: sinks for good, the others in a ring."""
    return position if position < n_sinks else n_sinks + (position - n_sinks) % (n_slots - n_sinks)


def in_slots(position: int, n_slots: int, n_sinks: int, slot: Callable[..., int] = slot_of) -> Array:
    """Return which token each slot holds when this one has been written, −1 for none."""
    held = np.full(n_slots, -1)
    for token in range(position + 1):
        held[slot(token, n_slots, n_sinks)] = token
    return held


def slot_places(position: int, n_slots: int, n_sinks: int) -> Array:
    """Return at which place the token in each slot is seen: its rank among those that are held."""
    held = in_slots(position, n_slots, n_sinks)
    return np.where(held < 0, -1, [(held[held >= 0] < token).sum() for token in held])


def held_case(rng: np.random.Generator) -> tuple:
    """Draw a position and a window."""
    n_sinks = int(rng.integers(0, 4))
    n_slots = n_sinks + int(rng.integers(2, 6))
    return int(rng.integers(0, 4 * n_slots)), n_slots, n_sinks


def slipped(position: int, n_slots: int, n_sinks: int) -> int:
    """Return where the cache with the bug puts a token."""
    return position if position < n_slots else n_sinks + position % (n_slots - n_sinks)


def kept_by_mistake(position: int, n_slots: int, n_sinks: int) -> Array:
    """Return which tokens the cache with the bug holds, the earliest first."""
    return np.sort([token for token in in_slots(position, n_slots, n_sinks, slipped) if token >= 0])


def kept_by(slot: Callable[..., int]) -> Callable[..., Array]:
    """Return an answer for a cache that puts tokens elsewhere."""
    return lambda *case: np.sort([token for token in in_slots(*case, slot) if token >= 0])


def yarn(
    head_dim: int, theta: float, factor: float, context: int, beta_fast: float, beta_slow: float, **slip: bool
) -> Array:
    """Return YaRN's frequencies with a ramp along the pairs; ``slip`` names what is done wrong."""
    pairs = np.arange(head_dim // 2)
    frequencies = theta ** (-2 * pairs / head_dim)
    turns = context * frequencies / (1 if slip.get("radians") else 2 * np.pi)
    if slip.get("in_turns"):
        keep = np.clip((turns - beta_slow) / (beta_fast - beta_slow), 0, 1)
    else:
        first, last = (
            head_dim * np.log(context / (1 if slip.get("radians") else 2 * np.pi) / beta) / (2 * np.log(theta))
            for beta in (beta_fast, beta_slow)
        )
        keep = 1 - np.clip((pairs - first) / (last - first), 0, 1)
    if slip.get("turned"):
        keep = 1 - keep
    if slip.get("step"):
        keep = np.round(keep)
    if slip.get("wavelengths"):
        return 1 / (keep / frequencies + (1 - keep) * factor / frequencies)
    return keep * frequencies + (1 - keep) * frequencies / factor


def yarn_case(rng: np.random.Generator, head_dim: int = 32, factor: float = 4.0) -> tuple:
    """Draw a head width, a base, a stretch, a context and the two numbers of turns."""
    return head_dim, float(rng.integers(500, 20_000)), factor, int(rng.integers(200, 4000)), 16.0, 1.0


def sliding_case(rng: np.random.Generator, n_targets: int = 16, size: int = 8, stride: int = 3) -> tuple:
    """Draw the losses that windows gave; what is beyond the end of the text is NaN."""
    n_windows = 1 + -(-max(0, n_targets - size) // stride)
    losses = rng.gamma(2.0, size=(n_windows, size))
    target = stride * np.arange(n_windows)[:, None] + np.arange(size)
    return np.where(target < n_targets, losses, np.nan), stride


def sliding_mean(losses: Array, stride: int) -> float:
    """Return the mean loss of a token, each counted in the first window that reaches it."""
    size = losses.shape[1]
    new = np.concatenate([losses[0], losses[1:, size - stride :].ravel()])
    return float(np.nanmean(new))


def merge_case(rng: np.random.Generator, n: int = 4, width: int = 3, size: float = 2.0) -> tuple:
    """Draw what two attentions found, and the logarithms of their sums of e^scores."""
    local, remembered = rng.normal(size=(2, n, width))
    return local, size * rng.normal(size=n), remembered, size * rng.normal(size=n)


def merge(local: Array, total: Array, remembered: Array, total_remembered: Array) -> Array:
    """Return what one softmax over both finds."""
    gate = 0.5 + 0.5 * np.tanh((total_remembered - total) / 2)
    return gate[:, None] * remembered + (1 - gate[:, None]) * local


def merge_by(gate: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """Return an answer with another gate."""

    def answer(local: Array, total: Array, remembered: Array, total_remembered: Array) -> Array:
        with np.errstate(all="ignore"):
            share = gate(total, total_remembered)[:, None]
        return share * remembered + (1 - share) * local

    return answer


def neighbor_case(rng: np.random.Generator, V: int = 6, n: int = 5) -> tuple:
    """Draw a model's distribution, neighbors with what followed them, a share, a temperature and a token."""
    tokens = rng.integers(V, size=n)
    tokens[:2] = tokens[0]
    p = rng.dirichlet(np.ones(V))
    return p, 3 * rng.random(n), tokens, 0.3, float(rng.uniform(0.5, 3)), int(tokens[rng.integers(n)])


def neighbor_loss(
    p: Array, distances: Array, tokens: Array, share: float, temperature: float, target: int, **slip: bool
) -> float:
    """Return −log of what model and neighbors together give to a token; ``slip`` names what is done wrong."""
    scaled = distances * temperature if slip.get("times") else distances / temperature
    weights = np.exp(scaled if slip.get("far") else -scaled)
    weights = np.ones_like(weights) if slip.get("flat") else weights
    hits = tokens == target
    if slip.get("one"):
        hits = np.arange(len(tokens)) == np.flatnonzero(hits)[:1] if hits.any() else hits
    found = (weights * hits).sum() / (1 if slip.get("unnormalized") else weights.sum())
    if slip.get("only_hits"):
        found = float(hits.any())
    if slip.get("exchanged"):
        share = 1 - share
    if slip.get("logs"):
        with np.errstate(divide="ignore"):
            return float(-(share * np.log(found) + (1 - share) * np.log(p[target])))
    return float(-np.log(share * found + (1 - share) * p[target]))
