"""Which part of a quantized matrix belongs to some of a layer's features, for layers that several processes share."""

import math
from typing import ClassVar

from torch import nn

Part = tuple[slice, ...]


class InParts(nn.Module):
    """Be a layer with codes and grids, of which a process may keep those of some outputs, or of some inputs.

    The numbers stay what they are in the whole: a row's step is that of the whole row, wherever the row is cut. Only a
    group, with its one grid, stays in one place.
    """

    axes: ClassVar[dict[str, tuple[int, int]]] = {"weight": (0, 1), "scale": (0, 1)}
    """Of each tensor: along which axis it has the outputs, and along which the inputs."""
    codes_per_entry = 1
    """Codes that stand in one number of ``weight``."""

    @property
    def unit(self) -> int:
        """How many inputs at a time stay together: those of a group, and of an entry."""
        return math.lcm(self.group_size or 1, self.codes_per_entry)

    def cut(self, axis: int, features: slice) -> dict[str, tuple[tuple[int, ...], Part]]:
        """Keep what belongs to some of the outputs (axis 0) or inputs (axis 1), in place.

        Args:
            features: which; inputs begin at a multiple of ``unit``, and end there or with the last.

        Returns:
            Of each tensor the shape of the whole, and which part of it was kept.
        """
        self.restore()
        self.__dict__.pop("together", None)
        kept = {}
        for name, part in self._parts(axis, features).items():
            whole = getattr(self, name)
            kept[name] = (tuple(whole.shape), part)
            setattr(self, name, whole[part].clone())
        if axis == 0:
            self.out_features = len(range(*features.indices(self.out_features)))
        else:
            self.in_features = len(range(*features.indices(self.in_features)))
        return kept

    def _parts(self, axis: int, features: slice) -> dict[str, Part]:
        # Features that share an entry of a tensor; None: all of them do.
        shared = {"weight": self.codes_per_entry, "scale": self.group_size} if axis else {"weight": 1, "scale": 1}
        parts = {}
        for name, n in shared.items():
            place = (slice(None),) * self.axes[name][axis]
            parts[name] = () if n is None else (*place, slice(features.start // n, -(-features.stop // n)))
        return parts
