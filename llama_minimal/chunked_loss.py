"""The next-token loss at the output layer, a chunk of tokens at a time: the logits are never whole."""

# B batch, T time, N = B·T tokens, n tokens of a chunk, D model width, V vocabulary

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llama_minimal.linear import Linear, Weight, cast_once
from llama_minimal.loss import IGNORE, next_token_loss, refuse_unknown
from llama_minimal.products import is_faster, product

Compare = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(logits (n, V), targets (n, 1), out (n, V)) -> losses, columns of the targets and which of them are here, all (n, 1);
``out`` then holds softmax(logits)."""
_Known = tuple[Tensor, list[Tensor | None]]  # a value, and its gradients

_FEW_LOGITS = 1 << 21
_IN_CACHE = 1 << 20  # numbers of a product of which the cache holds that many
_UNKNOWN_VOCABULARY = 1 << 17  # of a module that does not say


def chunked_loss(
    x: Tensor,
    w: Weight,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    rows: int | None = None,
    compare: Compare | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``next_token_loss(linear(x, w), targets, weights)`` without ever holding all logits.

    Of each chunk: logits z = x wᵀ, losses, d = weight·(softmax(z) − one-hot), and at once dx = d w and dw += dᵀ x. Then
    z and d go. So no product is computed twice, and the backward pass has only to scale dx and dw, once.

    Args:
        x: (B, T, D), or any (..., D).
        w: (V, D), or a module in its place: what is not a plain matrix is differentiated chunk by chunk.
        targets: (B, T) token ids; ``IGNORE`` weighs nothing.
        weights: (B, T), without gradient, or None for ones.
        rows: tokens of a chunk; None means so many that a chunk is small beside what training holds anyway.
        compare: of a matrix whose rows are spread over processes: how the processes compare their logits with targets.

    Returns:
        total and count, scalars in at least float32.

    Raises:
        ValueError: if a target is none of the V ids; on a GPU the device stops instead.

    Source: Liger-Kernel, ``fused_linear_cross_entropy``, computes gradients in the forward pass chunk by chunk too.
    """
    real = targets != IGNORE
    weights = (real if weights is None else weights * real).to(torch.promote_types(x.dtype, torch.float32))
    count, matrix, x = weights.sum(), _plain_matrix(w), x.flatten(0, -2)
    parts = {"targets": targets.flatten(), "weights": weights.flatten()}
    if matrix is None:
        return sum_by_chunks(x, w, partial(_sum_losses, **parts), rows=rows), count
    parts["rows"] = rows or _rows(x, len(matrix))
    return _compute(partial(_by_hand, compare=compare or compare_whole, **parts), x, [matrix]), count


def sum_by_chunks(
    x: Tensor, output: nn.Module, loss: Callable[[Tensor, slice], Tensor], *, rows: int | None = None
) -> Tensor:
    """Return Σ loss over all tokens, a chunk of tokens at a time: only a chunk's logits are ever there.

    The gradients are computed with the losses, by PyTorch, and only scaled later.

    Args:
        x: what the output layer reads, (..., D).
        output: maps (1, n, D) to (1, n, V).
        loss: of a chunk's logits (n, V), and which of the N tokens they are for: a scalar.
        rows: tokens of a chunk; None means so many that a chunk is small beside what training holds anyway.
    """
    x = x.flatten(0, -2)
    rows = rows or _rows(x, getattr(output, "out_features", _UNKNOWN_VOCABULARY))
    learned = [parameter for parameter in output.parameters() if parameter.requires_grad]
    return _compute(partial(_differentiate, module=output, loss=loss, rows=rows), x, learned)


def chunk_rows(n_tokens: int, dim: int, vocab_size: int, dtype: torch.dtype = torch.float32) -> int:
    """Return how many tokens make a chunk: so many that its logits take no more memory than the largest of three.

    That is 2²¹ logits; N·D, the hidden states (Liger-Kernel's choice); and V·D/4, a part of the weight's gradient,
    through which each chunk must go once: with fewer rows that would take as long as the products. In 16 bits it is
    all of V·D, since each chunk's part is made, widened and added. Chunks are then made about equal.
    """
    share = 4 if dtype.itemsize >= 4 else 1
    most = max(1, max(_FEW_LOGITS, n_tokens * dim, vocab_size * dim // share) // vocab_size)
    n_chunks = max(1, -(-n_tokens // most))
    return max(1, -(-n_tokens // n_chunks))


def _rows(x: Tensor, vocab_size: int) -> int:
    return chunk_rows(*x.shape, vocab_size, cast_once(x[:0]).dtype)


def compare_whole(logits: Tensor, targets: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Do what ``Compare`` says with logits for the whole vocabulary.

    A target's probability may be too small for a logarithm. The largest, which is 1/V at least, is not: so log softmax
    is z − z_max + log p_max, and no exponential is taken twice.
    """
    torch.softmax(logits, -1, dtype=out.dtype, out=out)
    largest, of_target = (z.to(out.dtype) for z in (logits.amax(-1, keepdim=True), logits.gather(-1, targets)))
    losses = largest - of_target - out.amax(-1, keepdim=True).log()
    return losses, targets, torch.ones_like(losses)


def _compute(compute: Callable[..., _Known], x: Tensor, learned: Sequence[Tensor]) -> Tensor:
    if torch.is_grad_enabled():
        return _WithGradients.apply(compute, x, *learned)
    return compute([False] * (1 + len(learned)), x, *learned)[0]


def _sum_losses(logits: Tensor, chunk: slice, *, targets: Tensor, weights: Tensor) -> Tensor:
    return next_token_loss(logits, targets[chunk], weights[chunk])[0]


class _WithGradients(torch.autograd.Function):
    """A value whose gradients are computed with it, and scaled later."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., _Known], *inputs: Tensor) -> Tensor:
        value, gradients = compute(ctx.needs_input_grad[1:], *inputs)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor | None, ...]:
        # In place, for they are large; a second time through, PyTorch finds them changed and refuses.
        return None, *(None if gradient is None else gradient.mul_(d_value) for gradient in ctx.saved_tensors)


def _by_hand(
    needs: Sequence[bool], x: Tensor, w: Tensor, *, targets: Tensor, weights: Tensor, rows: int, compare: Compare
) -> _Known:
    """Return Σ w·loss and, where they are needed, dx and dw."""
    dtype = cast_once(x[:0]).dtype
    matrix = w.to(dtype)
    arrays = [x.new_empty(rows, len(w), dtype=each) for each in (dtype, weights.dtype)]  # for all chunks
    total = weights.new_zeros(())
    dx = torch.empty_like(x) if needs[0] else None
    dw = torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) if needs[1] else None
    targets, weights = torch.where(targets == IGNORE, 0, targets)[:, None], weights[:, None]  # (N, 1)
    for start in range(0, len(x), rows):
        chunk = slice(start, start + rows)
        xs, ws = x[chunk], weights[chunk]
        losses, d = _differences(xs.to(dtype), matrix, targets[chunk], arrays, compare)
        total += (torch.where(ws == 0, 0, losses) * ws).sum()
        if dx is not None:
            dx[chunk] = (product(d, matrix.t()) if is_faster(d, matrix.t()) else d @ matrix) * ws
        if dw is not None and dw.dtype == dtype:
            dw.addmm_(d.t(), (xs * ws).to(dtype))  # without an array for the product
        elif dw is not None:
            _add_product(dw, d, (xs * ws).to(dtype))
    return total, [dx, None if dw is None else dw.to(w.dtype)]


def _add_product(sums: Tensor, d: Tensor, x: Tensor) -> None:
    """Add dᵀ x to sums (V, D) of a wider kind; on a CPU by parts that are widened while the cache has them."""
    n_rows = max(1, _IN_CACHE // x.size(-1)) if x.device.type == "cpu" else len(sums)
    for rows, columns in zip(sums.split(n_rows), d.split(n_rows, dim=-1), strict=True):
        rows += columns.t() @ x


def _differences(
    x: Tensor, matrix: Tensor, targets: Tensor, arrays: Sequence[Tensor], compare: Compare
) -> tuple[Tensor, Tensor]:
    """Return the losses of a chunk, (n, 1), and softmax(logits) − one-hot, (n, V), in one of two arrays for it."""
    logits, p = (array[: len(x)] for array in arrays)
    if is_faster(x, matrix):
        logits = product(x, matrix)
    else:
        torch.mm(x, matrix.t(), out=logits)
    try:
        losses, column, is_here = compare(logits, targets, p)
    except (IndexError, RuntimeError):  # looked at only when something is wrong: it would cost every step
        refuse_unknown(targets, len(matrix))
        raise
    p.scatter_add_(-1, column, -is_here)
    return losses, p if p.dtype == logits.dtype else logits.copy_(p)


def _differentiate(
    needs: Sequence[bool],
    x: Tensor,
    *learned: Tensor,
    module: nn.Module,
    loss: Callable[[Tensor, slice], Tensor],
    rows: int,
) -> _Known:
    """Return Σ loss and, where they are needed, dx and the gradients of what a module learns."""
    total = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
    dx = torch.empty_like(x) if needs[0] else None
    sums: list[Tensor | None] = [None] * len(learned)
    for start in range(0, len(x), rows):
        chunk = slice(start, start + rows)
        with torch.set_grad_enabled(any(needs)):
            xs = x[chunk].detach().requires_grad_(needs[0])
            part = loss(module(xs[None])[0], chunk)
        total += part.detach().to(total.device)
        if not part.requires_grad:
            continue
        inputs = [*learned, xs] if needs[0] else learned
        gradients = torch.autograd.grad(part, inputs, allow_unused=True)
        if dx is not None:
            dx[chunk] = gradients[-1]
        for i, gradient in enumerate(gradients[: len(learned)]):
            if gradient is not None:
                wide = torch.promote_types(gradient.dtype, torch.float32)
                sums[i] = gradient.to(wide) if sums[i] is None else sums[i].add_(gradient)
    return total, [dx, *(s if s is None else s.to(p.dtype) for s, p in zip(sums, learned, strict=True))]


def _plain_matrix(w: Weight) -> Tensor | None:
    """Return the matrix, if that is all that there is to an output layer."""
    if not isinstance(w, nn.Module):
        return w
    is_linear = type(w).forward in (nn.Linear.forward, Linear.forward) and "forward" not in vars(w)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if not is_linear or w.bias is not None or any(getattr(w, name) for name in hooks):
        return None
    return w.weight if type(w.weight) in (Tensor, nn.Parameter) else None
