"""Parallel training, applied to a model from outside.

The order is always: pipeline → tensor parallel → activation checkpointing → compile each block → data parallel.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from llama_minimal.compiling import check_compiler
from llama_minimal.config import Precision
from llama_minimal.loss import Objective
from llama_minimal.model import Llama
from llama_minimal.parallel.board import is_lost_connection, note_begun, speaking, was_begun
from llama_minimal.parallel.data import replicate, shard_parameters
from llama_minimal.parallel.mesh import Mesh, default_device, open_mesh
from llama_minimal.parallel.pipeline import Pipeline
from llama_minimal.parallel.stages import make_cut
from llama_minimal.parallel.tensor import check_divisible, split_matrices, splits_sequences
from llama_minimal.parallel.whole import Parallel

__all__ = [
    "Mesh",
    "Parallel",
    "default_device",
    "is_lost_connection",
    "note_begun",
    "open_mesh",
    "parallelize",
    "speaking",
    "was_begun",
]


def parallelize(
    model: Llama,
    mesh: Mesh,
    *,
    shard: bool = False,
    schedule: str = "1f1b",
    balance: Sequence[int] | None = None,
    activation_checkpointing: bool = False,
    compile: bool = False,
    precision: Precision = "fp32",
    objective: Objective | None = None,
) -> Parallel:
    """Make a whole model into this process's part of it, in place, and return what computes a step.

    Args:
        model: the same on every process, on the device of the mesh. Its parameters keep their names.
        shard: along ``data``, keep a slice of each parameter and of the optimizer's state instead of a copy (FSDP2).
        schedule: of a pipeline: ``"1f1b"`` or ``"gpipe"``.
        balance: layers of each stage of a pipeline; None means stages of about as many parameters.
        activation_checkpointing: keep each block's input for the backward pass, and compute what is inside anew.
        precision: of matrix products.
        objective: what a step makes smaller; None means the next-token loss.

    Raises:
        ValueError: if the model, or the objective, cannot be split so; the message says how it can. Or if it is to be
            compiled for the CPU, and there is no C++ compiler.
    """
    options: dict[str, Any] = {"precision": precision, "objective": objective}
    is_pipeline, n_parts = mesh.size_of("pipeline") > 1, mesh.size_of("tensor")
    check_divisible(model.config, n_parts)  # before anything is changed
    if is_pipeline:
        cut = make_cut(model.config, mesh.size_of("pipeline"), balance)
        cut.apply_to(model, mesh.rank_of("pipeline"))
        options |= {"cut": cut, "schedule": schedule}
    if n_parts > 1:
        split_matrices(model, mesh.torch_mesh["tensor"], by_sequence=splits_sequences(model.config))
    if activation_checkpointing:
        for block in model.blocks():
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if compile:
        check_compiler(mesh.device)
        for block in model.blocks():
            block.compile(dynamic=False)  # each length of sequences gets its own, faster code
    module, averages_itself = _data_parallel(model, mesh, shard=shard, precision=precision)
    if is_pipeline:
        options["hidden_dtype"] = torch.bfloat16 if shard and precision == "bf16" else next(model.parameters()).dtype
        return Pipeline(model, module, mesh, averages_itself=averages_itself, **options)
    return Parallel(model, module, mesh, averages_itself=averages_itself, **options)


def _data_parallel(model: Llama, mesh: Mesh, *, shard: bool, precision: Precision) -> tuple[nn.Module, bool]:
    """Return what to call in training, and whether it exchanges gradients along ``data`` by itself."""
    if shard and mesh.torch_mesh is not None:
        is_pipeline = mesh.size_of("pipeline") > 1
        shard_parameters(model, mesh.torch_mesh["data"], precision=precision, keep_gathered=is_pipeline)
        return model, True
    if mesh.size_of("data") == 1:
        return model, True
    if mesh.size_of("data") == mesh.size:
        return replicate(model, mesh.torch_mesh["data"], mesh.device), True
    return model, False
