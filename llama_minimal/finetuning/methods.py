"""Which weights may change, and a head that tells labels apart."""

# B texts, T tokens of the longest, L labels

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_one_of
from llama_minimal.generation import encode_prompt
from llama_minimal.linear import Linear
from llama_minimal.lora import LoRAConfig, adapters, add_adapter
from llama_minimal.model import Llama
from llama_minimal.observing import reading
from llama_minimal.prompts import by_length
from llama_minimal.tokenizer import TextCodec

Method = Literal["full", "lora", "head"]
LORA = LoRAConfig(targets=("wq", "wk", "wv", "wo", "w1", "w2", "w3"))
"""Rank 8 beside every matrix of the blocks."""


def prepare(model: Llama, method: Method, *, lora: LoRAConfig = LORA, name: str = "tuned", seed: int = 0) -> None:
    """Say which weights of a model may change, in place.

    ``full``: all. ``lora``: those of a new adapter, and a classification head if there is one. ``head``: the output
    layer alone.

    Args:
        lora: the adapter.
        name: of the adapter.
        seed: of the adapter's random numbers.

    Raises:
        ValueError: if there is no such method, the head is the embedding as well, or the adapter cannot be added.
    """
    check_one_of("method", method, get_args(Method))
    if method == "head" and model.config.tie_embeddings:
        raise ValueError("the output layer is the embedding as well; give the model one for labels (with_labels) first")
    if method == "lora":
        add_adapter(model, name, lora, seed=seed)
    elif there := adapters(model):
        raise ValueError(f"the model has adapters ({', '.join(there)}); merge_and_unload them before method={method!r}")
    else:
        model.requires_grad_(method == "full")
    if method == "head" or model.config.labels:
        model.output.requires_grad_(True)


def with_labels(model: Llama, labels: Sequence[str]) -> Llama:
    """Return a model that tells labels apart: the same body, and a new output layer of L rows that starts at zero.

    The body is shared with the model that was given, not copied.

    Raises:
        ValueError: if there are fewer than two labels, or two are equal, or the labels are one text.
    """
    if isinstance(labels, str | bytes):
        raise ValueError(f"labels={labels!r} is one text; give a list of texts, such as ['no', 'yes']")
    config = model.config.replace(labels=tuple(labels), tie_embeddings=False)
    output = Linear(config.dim, len(config.labels), bias=False).to(model.tok_embeddings.weight)
    torch.nn.init.zeros_(output.weight)
    return with_output(model, output, config)


def with_output(model: Llama, output: Linear, config: LlamaConfig) -> Llama:
    """Return the body of a model with another output layer; both are shared, not copied.

    Args:
        config: of the new model; but for what the output layer is, that of ``model``.
    """
    with torch.device("meta"):
        new = Llama(config)
    new.tok_embeddings, new.layers, new.norm = model.tok_embeddings, model.layers, model.norm
    new.positions, new.eos_ids, new.output = model.positions, model.eos_ids, output
    return new.train(model.training)


@torch.inference_mode()
def classify(
    model: Llama, tokenizer: TextCodec, texts: Sequence[str], *, batch_size: int = 32
) -> list[dict[str, float]]:
    """Return the probability of every label, for each text.

    Args:
        model: with a classification head.
        batch_size: texts that are read at once; texts of about equal length go together.

    Raises:
        ValueError: if the model has no such head, the texts are one text, or one has more tokens than the context.
    """
    if not model.config.labels:
        raise ValueError("this model writes text and has no labels; give it some with with_labels, and train it")
    if isinstance(texts, str | bytes):
        raise ValueError("texts is one text; give a list of texts")
    ids = [encode_prompt(tokenizer, text) for text in texts]
    _check_fit(ids, model.config.max_seq_len)
    results: list[dict[str, float]] = [{}] * len(ids)
    with reading(model):
        for which in by_length(ids, batch_size):
            for i, row in zip(which, _probabilities(model, [ids[i] for i in which]), strict=True):
                results[i] = dict(zip(model.config.labels, row, strict=True))
    return results


def _probabilities(model: Llama, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    logits = model.next_logits(tokens.to(model.device), lengths - 1)  # (B, L)
    return logits.float().softmax(-1).tolist()


def _check_fit(ids: Sequence[Sequence[int]], most: int) -> None:
    for i, row in enumerate(ids):
        if len(row) > most:
            raise ValueError(f"text {i} has {len(row)} tokens, more than the context of {most} (max_seq_len); cut it")
