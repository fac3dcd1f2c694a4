"""Low-rank adaptation: what a frozen matrix lacks for a new task, in two small ones."""

# r rank

from llama_minimal.reference._types import VJP, Array
from llama_minimal.reference.feedforward import linear, linear_vjp


def lora_update(x: Array, a: Array, b: Array, scale: float, keep: Array | None = None) -> Array:
    """Return what an adapter adds to the output of a linear layer: scale·(keep ⊙ x)·aᵀ·bᵀ.

    Args:
        x: (..., in).
        a: down to the rank, (r, in).
        b: up again, (out, r); zero before training, so that the adapter begins by changing nothing.
        scale: α/r.
        keep: what dropout leaves, (..., in): 0, or 1/(1−p) with probability 1−p. None leaves all.

    Returns:
        (..., out).

    Source: Hu et al. 2021, "LoRA", §4.1.
    """
    return scale * linear(linear(_drop(x, keep), a), b)


def lora_update_vjp(x: Array, a: Array, b: Array, scale: float, keep: Array | None = None) -> VJP:
    """Return ``lora_update`` and its backward, d_out → (d_x, d_a, d_b).

    With h = (keep ⊙ x)·aᵀ and δ = scale·d_out: d_b = δᵀ·h, d_a = (δ·b)ᵀ·(keep ⊙ x), d_x = keep ⊙ (δ·b·a).
    """
    low, down = linear_vjp(_drop(x, keep), a)  # (..., r)
    out, up = linear_vjp(low, b)  # (..., out)

    def backward(d_out: Array) -> tuple[Array, Array, Array]:
        d_low, d_b, _ = up(scale * d_out)
        d_kept, d_a, _ = down(d_low)
        return _drop(d_kept, keep), d_a, d_b

    return scale * out, backward


def _drop(x: Array, keep: Array | None) -> Array:
    return x if keep is None else x * keep.astype(x.dtype)


def lora_linear(x: Array, w: Array, a: Array, b: Array, scale: float, keep: Array | None = None) -> Array:
    """Apply a linear layer with an adapter: x·wᵀ + scale·(keep ⊙ x)·aᵀ·bᵀ.

    Args:
        w: the matrix that stays as it is, (out, in).
        x, a, b, scale, keep: as for ``lora_update``.

    Source: Hu et al. 2021, "LoRA", §4.1.
    """
    return linear(x, w) + lora_update(x, a, b, scale, keep)


def lora_linear_vjp(x: Array, w: Array, a: Array, b: Array, scale: float, keep: Array | None = None) -> VJP:
    """Return ``lora_linear`` and its backward, d_out → (d_x, d_w, d_a, d_b); tuning uses d_a and d_b alone."""
    out, frozen_backward = linear_vjp(x, w)
    update, update_backward = lora_update_vjp(x, a, b, scale, keep)

    def backward(d_out: Array) -> tuple[Array, ...]:
        d_x, d_w, _ = frozen_backward(d_out)
        d_x_update, d_a, d_b = update_backward(d_out)
        return d_x + d_x_update, d_w, d_a, d_b

    return out + update, backward
