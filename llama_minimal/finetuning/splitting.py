"""Divide examples into those to train on, to choose by and to test on, with nothing of one part in another."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from llama_minimal.finetuning.grouping import Groups, answer_of, near_groups, plain, prompt_of, recognize
from llama_minimal.finetuning.kinds import Example

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """The three parts of a list of examples, each in the order of the list.

    Args:
        notes: what a reader of the scores should know about the parts.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()


def split_examples(
    examples: Sequence[Example], *, seed: int, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> Split:
    """Divide examples, with each label in each part in proportion to the shares.

    Examples that are equal or nearly so, or have the same prompt, stay together: nothing that a model is tested on
    was in what it learned. Where nearly everything resembles everything, only equal prompts stay together, and a note
    says so. A label that appears once goes to the training part. None of the parts is empty.

    Args:
        examples: of one kind.
        seed: the same seed divides the same list in the same way.
        shares: of training, validation and test; their sum is 1.

    Raises:
        ValueError: if a share is not between 0 and 1, or there are fewer than three different prompts.
    """
    if len(shares) != 3 or not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares={shares} must be three numbers above 0 with a sum of 1, such as (0.8, 0.1, 0.1)")
    labels = [answer_of(one) for one in examples] if recognize(examples).labels else [""] * len(examples)
    groups, notes = _groups(examples, shares[0])
    if len(groups) < 3:
        raise ValueError(f"{len(examples)} examples have {len(groups)} different prompts; three parts need at least 3")
    dice = Random(seed)
    dice.shuffle(groups)
    groups.sort(key=len, reverse=True)  # the large ones first; the small ones then fill what is left
    placed = _placed(groups, labels, shares)
    parts = [tuple(examples[i] for i in sorted(i for group in part for i in group)) for part in placed]
    return Split(*parts, notes)


def _groups(examples: Sequence[Example], train_share: float) -> tuple[list[list[int]], tuple[str, ...]]:
    prompts = [plain(prompt_of(one)) or None for one in examples]
    near = near_groups(examples)
    near.join_equal(prompts)
    members = near.members()
    largest = max(map(len, members))
    if len(members) >= 3 and largest <= train_share * len(examples):
        return members, ()
    equal = Groups(len(examples))
    equal.join_equal(prompts)
    return equal.members(), (
        f"{largest:,} of {len(examples):,} examples resemble each other, so they could not be kept in one part; scores "
        "may be better than on texts of another kind",
    )


def _placed(groups: list[list[int]], labels: Sequence[Any], shares: tuple[float, ...]) -> list[list[list[int]]]:
    """Give each group to the part that lacks most of its labels; of equals, that which lacks most of all."""
    totals = Counter(labels)
    lacks = [Counter({label: share * n for label, n in totals.items()}) for share in shares]
    placed: list[list[list[int]]] = [[] for _ in shares]
    for group in groups:
        counts = Counter(labels[i] for i in group)
        needs = [(sum(n * lack[label] for label, n in counts.items()), sum(lack.values())) for lack in lacks]
        # Rounded, so that of equals the first is chosen on every machine.
        part = max(range(len(shares)), key=[tuple(round(need, 6) for need in pair) for pair in needs].__getitem__)
        lacks[part].subtract(counts)
        placed[part].append(group)
    return _none_empty(placed, labels)


def _none_empty(placed: list[list[list[int]]], labels: Sequence[Any]) -> list[list[list[int]]]:
    """Move the smallest group from the fullest part to one that is empty, rather of a label that others have too."""
    totals = Counter(labels)
    for part in placed:
        if not part:
            giver = max(placed, key=len)
            moved = min(giver, key=lambda group: (any(totals[labels[i]] == 1 for i in group), len(group)))
            giver.remove(moved)
            part.append(moved)
    return placed
