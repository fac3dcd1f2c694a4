"""Parallel training, applied to a model from outside.

The order is always: tensor parallel → activation checkpointing → compile each block → data parallel.
"""

import os
import shutil

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from llama_minimal.model import Llama
from llama_minimal.parallel.mesh import Mesh, default_device, open_mesh

__all__ = ["Mesh", "check_compiler", "default_device", "open_mesh", "parallelize"]


def parallelize(model: Llama, mesh: Mesh, *, compile: bool = False) -> nn.Module:
    """Return what to call in training; ``model`` keeps the parameters under their own names.

    Raises:
        ValueError: if it is to be compiled for the CPU, and there is no C++ compiler.
    """
    if compile:
        check_compiler(mesh.device)
        for layer in set(model.layers.values()):
            layer.compile(dynamic=False)  # each length of sequences gets its own, faster code
    if mesh.size > 1:
        return DistributedDataParallel(model, device_ids=[mesh.device] if mesh.device.type == "cuda" else None)
    return model


def check_compiler(device: torch.device) -> None:
    """Refuse to compile for a device that this machine has no compiler for.

    Raises:
        ValueError: if it is the CPU, and there is no C++ compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
        raise ValueError("compile needs a C++ compiler, such as g++, and found none; install one, or leave it out")
