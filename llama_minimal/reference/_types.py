"""The types of every signature in this package."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray

# d_out -> the gradients in argument order: a bare array where only one argument has a gradient.
Backward = Callable[[Array], "Array | tuple"]
VJP = tuple[Array, Backward]
