"""Examples whose prompts hold features, for the one training loop: the batches carry them, the objective gives them."""

# R rows, B batch, T time, N features of a row, P numbers of a feature

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from llama_minimal.chunked_loss import chunked_loss
from llama_minimal.data import EncodedExample, PackedExamples
from llama_minimal.inputs import given
from llama_minimal.loss import Batch, next_token
from llama_minimal.multimodal.writing import stack_features
from llama_minimal.prompts import IGNORE
from llama_minimal.vocabulary import Prompt, Vocabulary


class Example(NamedTuple):
    """Hold what a model reads, and the ids that it shall write then."""

    prompt: Prompt
    answer: list[int]


@dataclass(frozen=True, slots=True)
class MixedExamples(PackedExamples):
    """Hold examples one a row, padded on the right, and the features of each row.

    Only the answer is learned. Nothing before a token depends on what comes after it, so what fills a row up needs
    no mask. ``Trainer(model, examples, config, objective=next_token_given)`` trains on them.
    """

    names: tuple[str, ...]
    """Modalities, in the order in which batches have them."""
    features: tuple[NDArray[np.float32], ...]
    """Of each modality (R, N, P), filled up with zeros."""

    @classmethod
    def fill(
        cls, examples: Sequence[Example], vocabulary: Vocabulary, *, seq_len: int | None = None
    ) -> "MixedExamples":
        """Put each example into a row.

        Args:
            seq_len: tokens of a row, T; None means those of the longest example.

        Raises:
            ValueError: if there is no example, one is longer than a row, has no answer, or answers with what a model
                only reads.
        """
        if not examples:
            raise ValueError("there is no example; give at least one")
        pairs = [_encoded(example, vocabulary, i).rows() for i, example in enumerate(examples)]
        longest = max(len(inputs) for inputs, _ in pairs)
        seq_len = seq_len or longest
        if longest > seq_len:
            raise ValueError(f"the longest example has {longest} tokens, more than seq_len={seq_len}; give more")
        inputs, targets, documents = (np.full((len(pairs), seq_len), fill, np.int64) for fill in (0, IGNORE, 0))
        for row, (ids, learned) in enumerate(pairs):
            inputs[row, : len(ids)], targets[row, : len(ids)], documents[row, : len(ids)] = ids, learned, 1
        stacked = stack_features([example.prompt.features for example in examples])
        features = tuple(stacked[name].numpy() for name in vocabulary.inputs)
        return cls(inputs, targets, documents, tuple(vocabulary.inputs), features)

    def rows(self, which: Any) -> tuple[NDArray, ...]:
        """Return inputs and targets of some rows, and their features, one array for each modality."""
        return self.inputs[which], self.targets[which], *(part[which] for part in self.features)


def next_token_given(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return total and count of the loss of a batch whose prompts hold features: an objective for ``Trainer``.

    Args:
        batch: inputs, targets (B, T), and for each modality of the model in its order features (B, N, P).
    """
    inputs, targets, *features = batch
    names = getattr(model, "module", model).tok_embeddings.projections
    with given(model, dict(zip(names, features, strict=True))):
        return next_token(model, (inputs, targets), loss=chunked_loss)


def _encoded(example: Example, vocabulary: Vocabulary, i: int) -> EncodedExample:
    """Return the ids of an example, of which the answer is learned."""
    prompt, answer = example.prompt.ids, [int(token) for token in example.answer]
    if not answer:
        raise ValueError(f"example {i} has no answer, so nothing to learn; leave it out")
    if wrong := [token for token in answer if not 0 <= token < vocabulary.n_written]:
        raise ValueError(
            f"example {i} answers with the id {wrong[0]}; a model writes ids from 0 to {vocabulary.n_written - 1}"
        )
    return EncodedExample([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
