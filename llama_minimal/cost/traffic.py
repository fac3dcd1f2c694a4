"""Bytes that each process sends in a step, by the dimension along which it sends them."""

# N tokens of a micro-batch, D model width, P processes of a group

from llama_minimal.config import LlamaConfig
from llama_minimal.cost.kept import stream_size
from llama_minimal.cost.layout import Layout, Work, stage_layers
from llama_minimal.cost.part import Part


def traffic(config: LlamaConfig, work: Work, layout: Layout) -> dict[str, float]:
    """Return the bytes that a process of a middle stage sends in a step, over rings.

    A ring of P gathers n bytes, or scatters their sum, when each process sends (P − 1)/P · n; to sum them everywhere is
    both, one after the other.

    - ``data``: gradients in float32, summed everywhere (two rings), once a step. Sharded: their sums are scattered (one
      ring), and the parameters gathered for each forward and each backward pass; once for both in a pipeline.
    - ``tensor``: each half of a layer gathers its tokens and scatters its sums; the backward pass does the opposite,
      and a forward pass that is done again gathers again.
    - ``pipeline``: hidden states forth, their gradients back.

    Source: Rajbhandari et al. 2020, "ZeRO", §7; Korthikanti et al. 2022, §4.2; Narayanan et al. 2021, §3.2.
    """
    layers = max(stage_layers(config, layout.pipeline))
    part = Part(config, work, layout, stage=0, layers=layers)
    ring, M = (layout.data - 1) / layout.data, work.micro_batches
    data = 2 * ring * 4 * part.whole
    if part.is_sharded:
        gathers = M * (1 if layout.pipeline > 1 else 2)
        data = ring * part.whole * (4 + gathers * work.size)
    size, P = stream_size(work, layout), layout.tensor
    one_way = 2 * (size + work.size) * work.tokens * config.dim * (P - 1) / P
    passes = 3 if work.checkpointing else 2
    neighbors = 0 if layout.pipeline == 1 else 1 if layout.pipeline == 2 else 2
    return {
        "data": data,
        "tensor": M * layers * passes * one_way,
        "pipeline": M * neighbors * work.tokens * config.dim / P * size,
    }
