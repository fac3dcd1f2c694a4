"""An attention layer for the exercise on the cache: it refuses to compute a key twice."""

# B batch, T time, S slots, D model width, Dh head width

import numpy as np

from llama_minimal.reference.attention import attention, causal_mask, softmax
from llama_minimal.reference.positions import apply_rope, rope_table

LONGEST = 64  # positions


class CachedLayer:
    """Give the queries, keys and values of new tokens, and the tokens that follow from attention's outputs.

    Args:
        weights: (4, D, Dh): those of queries, keys and values, and the transpose of one that leads back to D.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self._weights = weights
        self._known: set[bytes] = set()

    def __call__(self, x: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project tokens that have not been here before, and rotate their queries and keys.

        Args:
            x: (B, T, D).
            positions: (B, T).

        Returns:
            q, k, v, (B, T, Dh) each.

        Raises:
            ValueError: if a token was here before, or the shapes do not fit.
        """
        x, positions = np.asarray(x, dtype=float), np.asarray(positions)
        width = self._weights.shape[1]
        if x.ndim != 3 or x.shape[-1] != width or positions.shape != x.shape[:2]:
            raise ValueError(f"layer takes x (B, T, {width}) and positions (B, T), not {x.shape} and {positions.shape}")
        for token in x.reshape(-1, width):
            if token.tobytes() in self._known:
                raise ValueError(
                    "layer was given the same token twice; keep its key and value, and go on with the newest"
                )
            self._known.add(token.tobytes())
        return self.project(x, positions)

    def project(self, x: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Do the same without asking who was here before: for the answer key."""
        q, k, v = (x @ matrix for matrix in self._weights[:3])
        cos, sin = (table[positions] for table in rope_table(q.shape[-1], LONGEST))  # (B, T, Dh/2)
        return apply_rope(q, cos, sin), apply_rope(k, cos, sin), v

    def following(self, out: np.ndarray) -> np.ndarray:
        """Return the tokens that come next, for attention's outputs at the newest: (B, Dh) -> (B, D)."""
        return np.tanh(np.asarray(out) @ self._weights[3].T)


def decode_alone(layer: CachedLayer, prompts: np.ndarray, lengths: np.ndarray, n: int) -> np.ndarray:
    """Return what attention gives at each prompt's last token and at n more, without a cache and without a batch.

    Args:
        prompts: (B, T, D), padded on the right.
        lengths: (B,).

    Returns:
        (B, 1 + n, Dh).
    """
    rows = []
    for prompt, length in zip(prompts, lengths, strict=True):
        text = prompt[None, :length]  # (1, T, D)
        for step in range(1 + n):
            q, k, v = layer.project(text, np.arange(text.shape[1])[None])
            out = attention(q[:, None], k[:, None], v[:, None], causal_mask(text.shape[1], text.shape[1]))[0, 0]
            if step < n:
                text = np.concatenate([text, layer.following(out[-1:])[None]], axis=1)
        rows.append(out[-1 - n :])
    return np.stack(rows)


def decode(layer: CachedLayer, prompts: np.ndarray, lengths: np.ndarray, n: int, *, slip: str = "") -> np.ndarray:
    """Do the same with a cache, all rows at once, or with one of the slips that readers make."""
    B, T, _ = prompts.shape
    rows, slots = np.arange(B), np.arange(T + n)  # (B,), (S,)
    q, k, v = layer(prompts, np.tile(np.arange(T), (B, 1)))
    keys, values = np.zeros((2, B, T + n, q.shape[-1]))  # (B, S, Dh)
    keys[:, :T], values[:, :T] = k, v
    own = np.full(B, T - 1) if slip == "last column" else lengths - 1
    newest = q[rows, own]  # (B, Dh)
    behind_padding = slip in ("padding seen", "same position")
    first_slot = np.full(B, T) if behind_padding else lengths
    first_position = {"same position": np.full(B, T), "too far": lengths + 1, "too early": lengths - 1}
    outs = []
    for i in range(1 + n):
        seen = slots <= (own - (slip == "blind" and i > 0))[:, None]  # (B, S)
        if slip == "same position":  # hides the padding well
            seen &= (slots < lengths[:, None]) | (slots >= T)
        scores = np.einsum("bd,bsd->bs", newest, keys) / (1 if slip == "unscaled" else keys.shape[-1] ** 0.5)
        weights = softmax(np.where(seen | (slip == "all seen"), scores, -np.inf))
        outs.append(np.einsum("bs,bsd->bd", weights, values))
        if i < n:
            own = first_slot + i
            position = first_position.get(slip, lengths) + i
            q, k, v = layer(layer.following(outs[-1])[:, None], position[:, None])
            keys[rows, own], values[rows, own], newest = k[:, 0], v[:, 0], q[:, 0]
    return np.stack(outs, axis=1)
