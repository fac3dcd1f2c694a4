"""Live tensor bytes of a training step, moment by moment: what a process holds when it holds most.

A step's memory swells on its way forth and ebbs on its way back. Four moments can be the fullest: the loss, with
all activations; the last layer's backward pass, with all of them and its own arrays; the first layer's, with nearly
all gradients instead; and the optimizer's step. For each of them we add up what is alive.
"""

# N tokens of a micro-batch, D model width, F ffn width, V vocabulary, L layers, P processes along ``tensor``

from collections.abc import Iterator

from llama_minimal.config import LlamaConfig
from llama_minimal.cost.kept import layer_keeps
from llama_minimal.cost.layout import Layout, Work, stage_layers, why_not
from llama_minimal.cost.loss_arrays import head_arrays
from llama_minimal.cost.part import Part

Moment = dict[str, float]
"""What is alive, in bytes: weights, optimizer, gradients, kept, working, communication."""


def moments(config: LlamaConfig, work: Work, layout: Layout | None = None, *, stage: int = 0) -> dict[str, Moment]:
    """Return what one process of a pipeline's stage holds at each moment of a step that may be the fullest.

    Args:
        config: a LLaMA: RMSNorm before each half of a block, no layer shared.
        work: of one place along ``data``.

    Raises:
        ValueError: if the model is of another kind, or cannot be laid out so.

    Source: in the manner of Rajbhandari et al. 2020, "ZeRO", §3, and Korthikanti et al. 2022, §4; the arrays are those
    of this package's own training step.
    """
    layout = layout or Layout()
    _check(config, layout)
    layers = stage_layers(config, layout.pipeline)[stage]
    part = Part(config, work, layout, stage=stage, layers=layers)
    out = {"loss": _at_loss(part)} if part.is_last else {}
    # What is alive changes evenly from layer to layer, except at the ends, where FSDP has less on its way.
    for layer in sorted({0, 1, layers - 2, layers - 1} & set(range(layers)), reverse=True):
        out[f"backward of layer {layer + 1} of {layers}"] = _in_backward(part, layer)
    out["optimizer step"] = _at_step(part)
    return out


def peak(config: LlamaConfig, work: Work, layout: Layout | None = None) -> tuple[str, Moment]:
    """Return the fullest moment of the fullest process, and what is alive then, in bytes.

    Example:
        >>> from llama_minimal.config import preset
        >>> name, alive = peak(preset("tiny"), Work(seq_len=64, sequences=4, precision="fp32"))
        >>> name, round(sum(alive.values()) / 1e6)
        ('loss', 9)
    """
    layout = layout or Layout()
    sizes = stage_layers(config, layout.pipeline) if layout.pipeline <= config.n_layers else (0,)
    stages = {0, sizes.index(max(sizes)), layout.pipeline - 1}  # others hold fewer micro-batches, or less
    every = [named for stage in stages for named in moments(config, work, layout, stage=stage).items()]
    return max(every, key=lambda named: sum(named[1].values()))


def _check(config: LlamaConfig, layout: Layout) -> None:
    reason = why_not(config, layout)
    if reason:
        raise ValueError(f"{reason}; give another layout")
    for name, value in (("norm", "rms"), ("norm_placement", "pre"), ("position", "rope"), ("share_layers", 1)):
        if getattr(config, name) != value:
            raise ValueError(f"{name}={getattr(config, name)!r}: the planner knows a LLaMA's layers, {name}={value!r}")


def _base(part: Part) -> Moment:
    """Return what is alive all the time, and the gradients of earlier micro-batches."""
    return {
        "weights": 4 * part.held,
        "optimizer": 8 * part.held,
        "gradients": 4 * part.accumulated,
        "kept": 16.0 * part.work.sequences * part.work.seq_len + part.tables,  # ids of inputs and targets
        "working": 0.0,
        "communication": part.buckets,
    }


def _kept(part: Part, layers: int, in_flight: int) -> float:
    """Return what the forward passes of so many layers and micro-batches have left for the backward ones."""
    each = layer_keeps(part.config, part.work, part.layout)
    if part.work.checkpointing:
        per_layer = part.work.tokens * part.stream
    else:
        per_layer = part.work.tokens * sum(each.values()) + part.rotations
    edge = part.work.tokens * part.stream if part.layout.pipeline > 1 else 0.0  # what was sent on
    return in_flight * (layers * per_layer + edge)


def _at_loss(part: Part) -> Moment:
    """All activations, no gradient of this micro-batch yet but the output layer's."""
    alive = _base(part)
    alive["kept"] += _kept(part, part.layers, part.in_flight)
    alive["weights"] += part.casts(part.layers * (1 if part.work.checkpointing else part.in_flight))
    alive["working"] += sum(head_arrays(part).values())
    alive["communication"] += part.gathered(layers=0) + part.on_its_way
    return alive


def _in_backward(part: Part, layer: int) -> Moment:
    """One layer, counted from 0, on its way back: the feed-forward's product has just met its gradient."""
    alive = _base(part)
    N, done = part.work.tokens, part.layers - 1 - layer
    alive["kept"] += _kept(part, part.layers, part.in_flight - 1) + _kept(part, layer + 1, 1)
    if part.work.checkpointing:  # computed anew, but for its input
        each = sum(layer_keeps(part.config, part.work, part.layout).values())
        alive["working"] += N * (each - part.input_kept) + part.rotations
        alive["weights"] += part.casts(1)
    else:
        alive["weights"] += part.casts((part.in_flight - 1) * part.layers + layer + 1)
    e, D, F = part.work.size, part.config.dim, part.config.hidden_dim / part.layout.tensor
    alive["working"] += N * part.stream + N * 2 * F * e  # gradients of the stream, of the gate and of the way up
    alive["gradients"] += part.new_gradients(done) + e * D * F
    alive["communication"] += part.gathered(layers=1)
    alive["communication"] += part.on_its_way if layer else 0.0  # the next layer's parameters
    alive["communication"] += part.scattered if done else 0.0  # the former layer's gradients
    return alive


def _at_step(part: Part) -> Moment:
    """Weights, all gradients and moments; and twice the largest gradient, in float64, where its norm is a sum."""
    alive = _base(part)
    alive["gradients"] = 4.0 * part.held
    alive["working"] += 16.0 * part.largest if part.layout.size > 1 and not part.is_replica else 0.0
    return alive


def shares(alive: Moment) -> Iterator[tuple[str, float]]:
    """Yield what a moment holds, the largest first, without what is nothing."""
    return (pair for pair in sorted(alive.items(), key=lambda pair: -pair[1]) if pair[1])
