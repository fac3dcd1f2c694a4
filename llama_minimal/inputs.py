"""What a model reads beside text: features, projected to its width, in the places that placeholders keep for them."""

# B batch, T time, N features of a row, P numbers of a feature, D model width

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llama_minimal.linear import Linear
from llama_minimal.model import Llama
from llama_minimal.vocabulary import Vocabulary


def place_features(x: Tensor, where: Tensor, features: Tensor) -> Tensor:
    """Return embeddings in which the k-th place of each row holds the k-th feature of that row.

    Args:
        x: (B, T, D).
        where: (B, T), True at a place.
        features: (B, N, D); a row has at most N places, and what is left over is not read.

    Returns:
        (B, T, D).
    """
    order = where.cumsum(dim=1).sub(1).clamp(min=0)  # (B, T): which feature of its row
    return torch.where(where[..., None], features.gather(1, order[..., None].expand_as(x)), x)


class MixedEmbedding(nn.Embedding):
    """Look up token ids, and put projected features where a placeholder stands.

    It takes the place of ``Llama.tok_embeddings``: its table keeps Meta's name, ``tok_embeddings.weight``, and beside
    it stand ``tok_embeddings.projections.NAME.weight`` and ``.bias``. The features come by ``given``.

    Args:
        table: the embedding that it replaces; the two share their weight.
        vocabulary: says which id is a placeholder, and how wide its features are.
    """

    def __init__(self, table: nn.Embedding, vocabulary: Vocabulary) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, _weight=table.weight)
        self.weight = table.weight  # the same parameter, which may be tied to the output layer
        self.vocabulary = vocabulary
        self.placeholders = {name: vocabulary.placeholder(name) for name in vocabulary.inputs}
        like = {"device": table.weight.device, "dtype": table.weight.dtype}
        self.projections = nn.ModuleDict(
            {name: Linear(width, table.embedding_dim, **like) for name, width in vocabulary.inputs.items()}
        )
        self.features: dict[str, Tensor] = {}

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, T, D) of ids (B, T)."""
        x = super().forward(tokens)
        for name, placeholder in self.placeholders.items():
            where = tokens == placeholder
            if _has_places(where):  # a step of decoding has none
                features = self._features_for(name, where)
                x = place_features(x, where, self.projections[name](features.type_as(x)).type_as(x))
        return x

    def _features_for(self, name: str, where: Tensor) -> Tensor:
        features = self.features.get(name)
        n_rows, n = (len(where), 0) if features is None else features.shape[:2]
        if n_rows != len(where):
            raise ValueError(f"features of {name!r} are of {n_rows} rows, and the tokens of {len(where)}")
        if (most := int(where.sum(dim=1).max())) > n:
            raise ValueError(f"a row has {most} places for {name!r}, but {n} features were given; use given(model, …)")
        return features


def add_inputs(model: Llama, vocabulary: Vocabulary, *, seed: int = 0) -> Llama:
    """Let a model read features beside tokens, in place; without placeholders it computes what it did.

    Args:
        model: with ``vocabulary.size`` ids.
        seed: of the projections' weights, N(0, 0.02²) as all others; biases are 0.

    Raises:
        ValueError: if the sizes differ, or the model has such inputs already.
    """
    if isinstance(model.tok_embeddings, MixedEmbedding):
        raise ValueError("the model reads features already; build another to give it other inputs")
    if model.config.vocab_size != vocabulary.size:
        raise ValueError(
            f"the model has {model.config.vocab_size} ids and the vocabulary {vocabulary.size}; "
            f"build it with vocab_size={vocabulary.size}"
        )
    model.tok_embeddings = MixedEmbedding(model.tok_embeddings, vocabulary)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.tok_embeddings.projections.values():
            layer.weight.copy_(0.02 * torch.randn(layer.weight.shape, generator=generator))
            layer.bias.zero_()
    return model


@contextmanager
def given(model: nn.Module, features: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a model the features that its next batches read, until the block ends.

    Args:
        model: with inputs (``add_inputs``), or what wraps one for several processes.
        features: modality -> (B, N, P), a row for each row of tokens.

    Raises:
        ValueError: if the model has no such modality, or a width is another.
    """
    embedding = getattr(model, "module", model).tok_embeddings
    if not isinstance(embedding, MixedEmbedding):
        raise ValueError("the model reads tokens alone; add_inputs(model, vocabulary) lets it read features")
    for name, values in features.items():
        if name not in embedding.projections:
            raise ValueError(f"the model reads {', '.join(embedding.projections)}, and not {name!r}")
        width = embedding.projections[name].in_features
        if values.dim() != 3 or values.size(-1) != width:
            raise ValueError(f"features of {name!r} have the shape {tuple(values.shape)}, not (B, N, {width})")
    before = embedding.features
    embedding.features = dict(features)
    try:
        yield
    finally:
        embedding.features = before


def _has_places(where: Tensor) -> bool:
    # The step of one token is compiled whole, and the prompt, which has the places, never is.
    return not torch.compiler.is_compiling() and bool(where.any())


def vocabulary_of(model: nn.Module) -> Vocabulary | None:
    """Return the vocabulary of a model that reads features, None of one that reads tokens alone."""
    return getattr(getattr(model, "tok_embeddings", None), "vocabulary", None)
