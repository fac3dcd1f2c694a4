"""Which layers of a model can be pruned."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from llama_minimal.attention import Attention
from llama_minimal.feedforward import FeedForward
from llama_minimal.linear import Linear

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def find_layers(model: nn.Module, layers: str | Iterable[str] | None = None) -> dict[str, nn.Linear]:
    """Return the linear layers that names mean, each once, in the model's order.

    Embeddings and the output layer are not among them unless ``output`` is named: they are looked up, or tied to what
    is looked up.

    Args:
        layers: such as ``("w1", "w2")`` for those of every block, or ``"layers.0.attention.wq"`` for one; None means
            every linear layer of the blocks.

    Raises:
        ValueError: if there is no such layer, or it is no plain one: quantized, spread over processes, or one matrix
            with the embedding.
    """
    there = linear_layers(model)
    found = {name: layer for name, layer in there.items() if name != "output"}
    if layers is not None:
        wanted = [layers] if isinstance(layers, str) else list(layers)
        ends = {one: [name for name in there if f".{name}".endswith(f".{one}")] for one in wanted}
        if not all(ends.values()) or not ends:
            names = ", ".join(dict.fromkeys(name.split(".")[-1] for name in there))
            raise ValueError(
                f"layers={layers!r} must be names of linear layers, such as ('w1', 'w2'); there are {names}"
            )
        found = {name: layer for name, layer in there.items() if any(name in names for names in ends.values())}
    for name, layer in found.items():
        _check_layer(model, name, layer)
    return found


def check_weights(layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the layers.

    Raises:
        ValueError: if one has no weights in floating point, so that their sizes say nothing: it is quantized.
    """
    for name, layer in layers.items():
        if layer.weight.dtype not in _FLOATS:
            raise ValueError(_not_plain(name, layer))
    return layers


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return what multiplies with a matrix: the parts of attention and feed-forward, each once, and ``output``.

    Whatever stands there, so that nothing is passed over in silence.
    """
    found = {
        f"{path}.{name}": layer
        for path, module in model.named_modules()
        if isinstance(module, Attention | FeedForward)
        for name, layer in module.named_children()
    }
    output = getattr(model, "output", None)
    return found if output is None else found | {"output": output}


def _check_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    if not isinstance(layer, nn.Linear) or layer.weight.dtype not in _FLOATS:
        raise ValueError(_not_plain(name, layer))
    if type(layer.weight.data) is not Tensor:
        raise ValueError(f"{name} is spread over processes; prune the model before it is parallelized")
    if layer.weight.is_meta:
        raise ValueError("the model is on the meta device, which holds no numbers; load it, or build it on the CPU")
    if any(layer.weight is p for other in model.modules() if other is not layer for p in other._parameters.values()):
        raise ValueError(f"{name} is one matrix with the embedding (tie_embeddings), which is looked up; leave it out")
    if getattr(layer, "unmerged", None) is not None:  # as adapters keep it
        raise ValueError(f"adapters are merged into {name}, and unmerging would bring it back; unmerge them first")


def _not_plain(name: str, layer: nn.Module) -> str:
    return (
        f"{name} is a {type(layer).__name__}, not a plain linear layer in floating point; prune the model first, "
        f"and quantize it after"
    )


def refuse_unlike(model: nn.Module, what: str) -> None:
    """Refuse to cut a model whose layers are not all plain ones.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, layer in find_layers(model).items():
        if type(layer) not in (Linear, nn.Linear):
            raise ValueError(f"{name} is a {type(layer).__name__}, not a plain linear layer; {what}")
