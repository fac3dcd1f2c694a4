"""Tensor parallelism: every matrix is split among processes that work on the same sequences.

Column then row: w1 and w3 (wq, wk, wv) are split by their outputs, so each process computes some features (heads) of
its own; w2 (wo) is split by its inputs, and takes exactly those. One sum over the processes ends each half of a block.
"""

# B batch, T time, D model width, P processes

from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.parallel.style import ParallelStyle

from llama_minimal.config import LlamaConfig
from llama_minimal.config.splitting import check_even
from llama_minimal.lora import refuse_adapters
from llama_minimal.model import Llama

Plan = dict[str, ParallelStyle]


def split_matrices(model: Llama, mesh: DeviceMesh, *, by_sequence: bool = True, split_logits: bool = True) -> None:
    """Give each process its part of every matrix, in place; the names of the parameters stay.

    Args:
        model: whole, or a stage of a pipeline; the same on every process.
        mesh: of one dimension.
        by_sequence: between the matrices, let each process keep a part of the sequence instead of a copy of the whole
            (sequence parallelism). For training; T must then be a multiple of P.
        split_logits: leave the logits split by vocabulary, for ``parallel_next_token_loss``; else all get all of them.

    Raises:
        ValueError: if heads or features cannot be shared out evenly.

    Source: Shoeybi et al. 2019, "Megatron-LM", §3 (columns and rows); Korthikanti et al. 2022, "Reducing activation
    recomputation in large transformer models", §4.2 (sequences).
    """
    check_divisible(model.config, mesh.size())
    refuse_adapters(model, "split the matrices")
    is_tied = model.output is not None and model.tok_embeddings is not None and model.config.tie_embeddings
    for block in model.blocks():
        parallelize_module(block, mesh, _of(block, block_plan(by_sequence=by_sequence)))
    parallelize_module(model, mesh, _of(model, ends_plan(by_sequence=by_sequence, split_logits=split_logits)))
    if is_tied:
        model.output.weight = model.tok_embeddings.weight  # PyTorch 2.13 makes two parameters of one
    if by_sequence and model.tok_embeddings is None:
        model.register_forward_pre_hook(partial(_count_whole_sequence, mesh.size()), with_kwargs=True)


def splits_sequences(config: LlamaConfig) -> bool:
    """Whether each process can keep a part of the sequence: not where positions are added to whole sequences."""
    return config.position != "sinusoidal"


def block_plan(*, by_sequence: bool) -> Plan:
    """Return how the parts of a block are split."""
    between = Shard(1) if by_sequence else Replicate()  # hidden states (B, T, D)
    return {
        "attention_norm": _Norm(between),
        "attention": PrepareModuleInput(
            input_layouts=(between, None), desired_input_layouts=(Replicate(), None), use_local_output=True
        ),
        "attention.wq": ColwiseParallel(),
        "attention.wk": ColwiseParallel(),
        "attention.wv": ColwiseParallel(),
        "attention.wo": RowwiseParallel(output_layouts=between),
        "ffn_norm": _Norm(between),
        "feed_forward": PrepareModuleInput(
            input_layouts=between, desired_input_layouts=Replicate(), use_local_output=True
        ),
        "feed_forward.w1": ColwiseParallel(),
        "feed_forward.w3": ColwiseParallel(),
        "feed_forward.w2": RowwiseParallel(output_layouts=between),
    }


def ends_plan(*, by_sequence: bool, split_logits: bool) -> Plan:
    """Return how embedding, last norm and output are split: by rows of the vocabulary."""
    between = Shard(1) if by_sequence else Replicate()
    return {
        "tok_embeddings": RowwiseParallel(input_layouts=Replicate(), output_layouts=between),
        "norm": _Norm(between),
        "output": ColwiseParallel(input_layouts=between, output_layouts=Shard(-1) if split_logits else Replicate()),
    }


def _of(module: nn.Module, plan: Plan) -> Plan:
    """Return a plan without the parts that a module lacks: w3 of ReLU's feed-forward, the ends of a stage."""
    there = dict(module.named_modules())
    return {name: style for name, style in plan.items() if name in there}


class _Norm(ParallelStyle):
    """Let each process normalize the tokens that it has; what it learns from them is added up over the processes."""

    def __init__(self, layout: Shard | Replicate) -> None:
        super().__init__()
        self.layout = layout

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def enter(_module: nn.Module, inputs: tuple[Tensor, ...], mesh: DeviceMesh) -> Tensor:
            return DTensor.from_local(inputs[0], mesh, [self.layout], run_check=False)

        def leave(_module: nn.Module, output: DTensor, _mesh: DeviceMesh) -> Tensor:
            return output.to_local()

        return distribute_module(module, device_mesh, _replicate, enter, leave)


def _replicate(_name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        whole = distribute_tensor(parameter.detach(), mesh, [Replicate()])
        module.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))


def _count_whole_sequence(
    n_processes: int, _model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]
) -> tuple[tuple[Tensor, ...], dict[str, object]]:
    """Tell a later stage the positions of all tokens: it sees hidden states of its part of the sequence only."""
    if kwargs.get("positions") is None and kwargs.get("documents") is None:  # those are of the whole sequence too
        kwargs["positions"] = torch.arange(args[0].size(1) * n_processes, device=args[0].device)[None]
    return args, kwargs


def check_divisible(config: LlamaConfig, n_processes: int) -> None:
    """Refuse to split what cannot be shared out evenly.

    Raises:
        ValueError: if kv heads (and so heads) or feed-forward features are no multiple of the processes.
    """
    if config.labels and n_processes > 1:
        raise ValueError(f"tensor={n_processes} splits the output by tokens, and this one tells labels apart; give 1")
    if first_id(config, n_processes, n_processes - 1) >= config.vocab_size:
        raise ValueError(f"tensor={n_processes} leaves a process without any of vocab_size={config.vocab_size} tokens")
    check_even(config, n_processes, sharers="processes")


def first_id(config: LlamaConfig, n_processes: int, rank: int) -> int:
    """Return the first token id whose embedding and logit a process has: PyTorch cuts as ``torch.chunk`` does."""
    return rank * -(-config.vocab_size // n_processes)
