"""Codes of layers that read the same vector, one beside the other, for one product of all."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llama_minimal.quantization import kernels


class SideBySide:
    """Hold the codes of layers that read the same vector one beside the other, for one product of all.

    Args:
        layers: of one kind, as ``is_possible`` says. Their codes become parts of the whole.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers, self.first = tuple(layers), layers[0]
        axis = 1 if self.first.scheme == "int4" else 0
        with torch.inference_mode(False), torch.no_grad():
            self.codes = torch.cat([layer.weight for layer in layers])
            self.scale = torch.cat([layer.scale for layer in layers], dim=axis)
            sizes = [layer.out_features for layer in layers]
            self.parts = list(zip(self.codes.split(sizes), self.scale.split(sizes, dim=axis), strict=True))
            for layer, (codes, scale) in zip(layers, self.parts, strict=True):
                layer.weight, layer.scale = codes, scale
        self.n_out, self.n_in, self.width = sum(sizes), self.first.in_features, self.first._width()

    @staticmethod
    def is_possible(layers: Sequence[nn.Module]) -> bool:
        """Return whether layers have codes for one product, and nothing else happens in them; lay them out."""
        first = layers[0]
        for layer in layers:
            if type(layer) is not type(first) or layer.bias is not None or layer._forward_hooks:
                return False
            if (layer.in_features, layer.group_size) != (first.in_features, first.group_size):
                return False
            if not layer.lay_out() or layer.padded_scale is not None:
                return False
        return True

    def holds(self, layers: Sequence[nn.Module]) -> bool:
        """Return whether it holds what these layers have now."""
        if len(layers) != len(self.layers):
            return False
        for layer, own, (codes, scale) in zip(layers, self.layers, self.parts, strict=True):
            if layer is not own or layer._forward_hooks:
                return False
            if layer._buffers["weight"] is not codes or layer._buffers["scale"] is not scale:
                return False
        return True

    def product(self, x: Tensor) -> Tensor:
        """Return x wᵀ of all layers, (..., in) -> (..., sum of outs)."""
        flat = kernels.padded(x.reshape(-1, self.n_in), self.width)
        return self.first._product(flat, self.codes, self.scale).view(*x.shape[:-1], self.n_out)
