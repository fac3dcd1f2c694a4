"""How backward passes compose: one after another, around, and by name.

A *stage* is a function ``x -> (out, backward)`` whose ``backward(d_out)`` returns ``(d_x, gradients)``,
the gradients in a dictionary by state-dict name.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llama_minimal.reference._types import VJP, Array

Params = dict[str, Array]
Stage = Callable[[Array], VJP]


def bind(f: Callable[..., Any], *rest: Any) -> Callable[[Array], Any]:
    """Return ``f`` as a function of its first argument, with the others given."""
    return lambda x: f(x, *rest)


def chain(*stages: Stage) -> Stage:
    """Return the stages one after another, as one stage.

    (f ∘ g)′ = f′ · g′: the backwards run from the last to the first, each on what its successor returned.
    """

    def chained(x: Array) -> VJP:
        backwards = []
        for stage in stages:
            x, stage_backward = stage(x)
            backwards.append(stage_backward)

        def backward(d_x: Array) -> tuple[Array, Params]:
            gradients = []
            for stage_backward in reversed(backwards):
                d_x, stage_gradients = stage_backward(d_x)
                gradients.append(stage_gradients)
            return d_x, add_gradients(*gradients)

        return x, backward

    return chained


def residual(stage: Stage) -> Stage:
    """Return x + stage(x) as one stage; the gradient comes back on both paths and adds up."""

    def added(x: Array) -> VJP:
        out, stage_backward = stage(x)

        def backward(d_out: Array) -> tuple[Array, Params]:
            d_x, gradients = stage_backward(d_out)
            return d_out + d_x, gradients

        return x + out, backward

    return added


def named(f_vjp: Callable[..., VJP], params: Params, names: Sequence[str], *rest: Any) -> Stage:
    """Return ``f_vjp(x, *weights, *rest)`` as a stage whose weights are looked up by name."""

    def looked_up(x: Array) -> VJP:
        out, f_backward = f_vjp(x, *(params[name] for name in names), *rest)

        def backward(d_out: Array) -> tuple[Array, Params]:
            d_x, *d_weights = f_backward(d_out)
            # Without biases there are fewer names than gradients; the biases' None come last and drop off.
            return d_x, dict(zip(names, d_weights, strict=False))

        return out, backward

    return looked_up


def add_gradients(*gradients: Params) -> Params:
    """Join dictionaries of gradients; a name that occurs twice (tied or shared weights) adds up."""
    total: Params = {}
    for each in gradients:
        for name, gradient in each.items():
            total[name] = total[name] + gradient if name in total else gradient
    return total
