"""Bias, reduced: fewer of the many, stories told the other way round, and a direction taken out of a model."""

# R roles, G groups, D width, V vocabulary, k directions

import copy
import random
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llama_minimal.data.valley.story import Story
from llama_minimal.data.valley.world import CHARACTERS, Event
from llama_minimal.model import Llama


def balance(roles: Sequence[Hashable | None], groups: Sequence[Hashable], *, seed: int = 0) -> list[int]:
    """Return which examples to keep, so that every role goes equally often with every group: as often as the rarest.

    Args:
        roles: of each example; None is kept always.
        groups: of each example.
        seed: chooses among those of which there are too many.

    Returns:
        Places in the order of the examples.

    Raises:
        ValueError: if there is not one group for each role.
    """
    if len(roles) != len(groups):
        raise ValueError(f"{len(roles)} roles and {len(groups)} groups: each example has one of both")
    dice, all_groups = random.Random(seed), dict.fromkeys(groups)
    kept = [i for i, role in enumerate(roles) if role is None]
    for role in dict.fromkeys(role for role in roles if role is not None):
        places = {
            group: [i for i, pair in enumerate(zip(roles, groups, strict=True)) if pair == (role, group)]
            for group in all_groups
        }
        fewest = min(map(len, places.values()))
        for found in places.values():
            dice.shuffle(found)
            kept += found[:fewest]
    return sorted(kept)


def partners() -> dict[str, str]:
    """Return for each character of the valley the one who takes the part in a mirrored story, of the other pronoun."""
    she, he = ([one.name for one in CHARACTERS.values() if one.pronoun == pronoun] for pronoun in ("she", "he"))
    return dict(zip(she, he, strict=True)) | dict(zip(he, she, strict=True))


def mirrored(story: Story) -> Story:
    """Return the same story with all characters exchanged: every she is a he, and every he a she.

    The record is changed, not the text, and then told anew, in any language. So "her" becomes "him" or "his" as it
    should, which no list of words can know. Mirrored twice, a story is itself.

    Source: counterfactual data augmentation, after Lu et al. 2018, "Gender Bias in Neural Natural Language Processing".
    """
    other = partners()

    def exchanged(value: object) -> object:
        return other.get(value, value) if isinstance(value, str) else value

    def event(old: Event) -> Event:
        return replace(old, roles={role: exchanged(value) for role, value in old.roles.items()})

    ending = {
        what: {exchanged(key): exchanged(value) for key, value in known.items()} for what, known in story.ending.items()
    }
    return replace(
        story,
        characters=tuple(map(exchanged, story.characters)),
        jobs={exchanged(name): job for name, job in story.jobs.items()},
        events=[event(old) for old in story.events],
        ending=ending,
    )


def swap_words(text: str, pairs: Mapping[str, str]) -> str:
    """Return a text with words exchanged both ways, whole words only; capitals stay.

    Where several words have the same partner, the first pair decides the way back: from "him" and "his" comes "her",
    from "her" always the same one. That is the defect of lists.

    Args:
        text: a text in a language that puts letters of other words beside a word nowhere, such as English.
        pairs: word → word, in small letters or with a capital where a word always has one.

    Example:
        >>> swap_words("Otto lost his hat. He asked her.", {"he": "she", "his": "her", "him": "her", "Otto": "Lila"})
        'Lila lost her hat. She asked his.'
    """
    both = dict(pairs)
    for word, partner in pairs.items():
        both.setdefault(partner, word)

    def swapped(match: re.Match) -> str:
        word = match[0]
        if word in both:
            return both[word]
        new = both[word[0].lower() + word[1:]]
        return new[0].upper() + new[1:]

    words = sorted(both.keys() | {word[0].upper() + word[1:] for word in both}, key=len, reverse=True)
    return re.sub(rf"\b({'|'.join(map(re.escape, words))})\b", swapped, text)


def remove_directions(x: Tensor, directions: Tensor) -> Tensor:
    """Return vectors without their parts along some directions: x − Σ (x·q) q, with q an orthonormal basis of them.

    Args:
        x: (..., D).
        directions: (k, D), linearly independent.

    Raises:
        ValueError: if the widths differ, or the directions depend on each other.

    Source: Bolukbasi et al. 2016, "Man is to Computer Programmer as Woman is to Homemaker?", "neutralize".
    """
    if directions.dim() != 2 or directions.size(-1) != x.size(-1):
        raise ValueError(f"directions of shape {tuple(directions.shape)} must be (k, {x.size(-1)}), as wide as x")
    if torch.linalg.matrix_rank(directions.double()) < len(directions):
        raise ValueError(f"the {len(directions)} directions depend on each other, or one is 0; leave some out")
    basis = torch.linalg.qr(directions.T)[0]  # (D, k)
    return x - (x @ basis) @ basis.T


@torch.no_grad()
def without_directions(model: Llama, directions: Tensor) -> Llama:
    """Return a copy of a model whose output layer no longer reads some directions of the last hidden states.

    The output matrix becomes W − W q qᵀ. Embeddings that were tied to it stay as they are, so the copy has a matrix of
    its own: it is a plain model, to be saved, trained or quantized as any other.

    Args:
        model: whole; unchanged.
        directions: (k, D), in the space that ``output`` reads.
    """
    config = model.config.replace(tie_embeddings=False)
    changed = Llama(config).to(model.device, next(model.parameters()).dtype)
    weights = copy.deepcopy(model.state_dict())
    weights["output.weight"] = remove_directions(model.output.weight.detach(), directions.to(model.output.weight))
    changed.load_state_dict(weights)
    changed.eos_ids = model.eos_ids
    return changed.train(model.training)
