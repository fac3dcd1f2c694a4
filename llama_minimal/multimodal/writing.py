"""Writing after prompts with features: the one decoding loop, whose cache holds what they became."""

# B batch, N features of a row, P numbers of a feature

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama_minimal import generation
from llama_minimal.completion import Completion
from llama_minimal.inputs import given
from llama_minimal.model import Llama
from llama_minimal.tokenizer import TextCodec
from llama_minimal.vocabulary import Prompt


def generate(model: Llama, tokenizer: TextCodec | None, prompts: Sequence[Prompt], **options: Any) -> list[Completion]:
    """Continue prompts with features as ``llama_minimal.generate`` continues text; the cache holds what they became.

    Args:
        tokenizer: of the text that is written; None where codes are: then give ``stop_ids``.
        options: those of ``llama_minimal.generate``.
    """
    if not (prompts := list(prompts)):
        raise ValueError("prompts is empty; give one or more, as Vocabulary.prompt makes them")
    for prompt in prompts:
        _refuse_missing(model, prompt)
    with given(model, stack_features([prompt.features for prompt in prompts], device=model.device)):
        return generation.generate(model, tokenizer, [prompt.ids for prompt in prompts], **options)


def stack_features(rows: Sequence[Mapping[str, Any]], *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Put the features of several rows into one tensor for each modality, (B, N, P), filled up with zeros."""
    stacked = {}
    for name in rows[0]:
        values = [np.asarray(row[name], np.float32) for row in rows]
        whole = np.zeros((len(rows), max(map(len, values)), values[0].shape[1]), np.float32)
        for out, row in zip(whole, values, strict=True):
            out[: len(row)] = row
        stacked[name] = torch.from_numpy(whole).to(device)
    return stacked


def _refuse_missing(model: Llama, prompt: Prompt) -> None:
    """Refuse a prompt that has more or fewer places than features."""
    for name, placeholder in model.tok_embeddings.placeholders.items():
        n_places, n_features = prompt.ids.count(placeholder), len(prompt.features.get(name, ()))
        if n_places != n_features:
            raise ValueError(
                f"a prompt has {n_places} places for {name!r} and {n_features} features; make it with Vocabulary.prompt"
            )
