"""Four digits in a square, captions of them and questions about them, in English and Chinese, with the answers."""

# B scenes

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llama_minimal.config.checks import check_integer, check_one_of
from llama_minimal.multimodal.vision import digits

Kind = Literal["caption", "place", "neighbor", "count"]
Language = Literal["en", "zh"]
KINDS: tuple[Kind, ...] = ("caption", "place", "neighbor", "count")
LANGUAGES: tuple[Language, ...] = ("en", "zh")

WORDS = {
    "en": "zero one two three four five six seven eight nine".split(),
    "zh": list("零一二三四五六七八九"),
}
_PLURALS = "zeros ones twos threes fours fives sixes sevens eights nines".split()
_COUNTED = list("零一两三四")  # Chinese counts two things with another word
_SIDES = {
    # side -> (where the asked digit may stand, how far from it the answer stands), places in reading order
    "left": ((1, 3), -1),
    "right": ((0, 2), 1),
    "above": ((2, 3), -2),
    "below": ((0, 1), 2),
}
_SIDE_WORDS = {
    "en": {"left": "left of", "right": "right of", "above": "above", "below": "below"},
    "zh": {"left": "左边", "right": "右边", "above": "上面", "below": "下面"},
}
_CORNERS = {"en": ("top left", "top right", "bottom left", "bottom right"), "zh": ("左上", "右上", "左下", "右下")}
_PAIRS = ((0, 1), (2, 3), (0, 2), (1, 3))  # neighbors, the left or upper one first
MOST = 3
"""The most equal digits that a question for their number has to count."""


class Scene(NamedTuple):
    """Hold a picture of four digits, and a question about it."""

    digits: tuple[int, ...]
    """In reading order: two above, two below."""
    image: Tensor
    """(16, 16)."""
    kind: Kind
    language: Language
    question: str
    answer: str

    @property
    def caption(self) -> str:
        """All four digits in words, as the answer to a question for them."""
        words = [WORDS[self.language][digit] for digit in self.digits]
        if self.language == "en":
            return f" {words[0]} {words[1]}, {words[2]} {words[3]}"
        return f"{words[0]}{words[1]},{words[2]}{words[3]}"


def is_new(one: int, other: int) -> bool:
    """Whether two digits are never neighbors in training: those that differ by 3 or by 7."""
    return (one - other) % 10 in (3, 7)


def scenes(
    n: int,
    *,
    split: Literal["train", "test"] = "train",
    new: bool = False,
    kinds: tuple[Kind, ...] = KINDS,
    seed: int = 0,
) -> list[Scene]:
    """Draw scenes, as many of each kind, in both languages.

    Args:
        split: whose digits are in the pictures.
        new: combinations that training scenes never have: of neighbors two digits that ``is_new`` tells, and where a
            question is about two neighbors, those two. Otherwise no neighbors are such digits.
        kinds: of questions, one after the other.
        seed: not negative.

    Raises:
        ValueError: if there is no such split or kind.
    """
    rng = np.random.default_rng([check_integer("seed", seed, at_least=0), split == "test", new])
    for kind in kinds:
        check_one_of("kinds", kind, KINDS)
    images, labels = digits(split)
    of_digit = [images[labels == digit] for digit in range(10)]
    drawn = []
    for i in range(check_integer("n", n)):
        kind, language = kinds[i % len(kinds)], LANGUAGES[i // len(kinds) % 2]
        shown, question, answer = _ASK[kind](rng, new, language)
        cells = [of_digit[digit][rng.integers(len(of_digit[digit]))] for digit in shown]
        image = torch.cat([torch.cat(cells[:2], dim=1), torch.cat(cells[2:], dim=1)])
        scene = Scene(tuple(map(int, shown)), image, kind, language, question, answer)
        drawn.append(scene if answer else scene._replace(answer=scene.caption))
    return drawn


def _fits(shown: list[int], new: bool) -> bool:
    return any(is_new(shown[i], shown[j]) for i, j in _PAIRS) == new


def _fillings(rng: np.random.Generator, known: dict[int, int], *, without: int | None = None) -> Iterator[list[int]]:
    """Yield four digits again and again, some of them known, the others not one that is to be left out."""
    allowed = [digit for digit in range(10) if digit != without]
    while True:
        yield [known.get(place, int(rng.choice(allowed))) for place in range(4)]


def _ask_count(rng: np.random.Generator, new: bool, language: Language) -> tuple[list[int], str, str]:
    digit, count = int(rng.integers(10)), int(rng.integers(MOST + 1))
    while True:
        known = {int(place): digit for place in rng.permutation(4)[:count]}
        shown = next(_fillings(rng, known, without=digit))
        if _fits(shown, new):
            break
    if language == "en":
        return shown, f"how many {_PLURALS[digit]}?", f" {WORDS['en'][count]}"
    return shown, f"有几个{WORDS['zh'][digit]}?", f"{_COUNTED[count]}个"


def _ask_neighbor(rng: np.random.Generator, new: bool, language: Language) -> tuple[list[int], str, str]:
    side = str(rng.choice(list(_SIDES)))
    places, step = _SIDES[side]
    digit, place = int(rng.integers(10)), int(rng.choice(places))
    for shown in _fillings(rng, {place: digit}, without=digit):
        if is_new(shown[place], shown[place + step]) == new and (new or _fits(shown, new)):
            break
    word = WORDS[language][digit]
    if language == "en":
        return shown, f"which digit is {_SIDE_WORDS['en'][side]} the {word}?", f" {WORDS['en'][shown[place + step]]}"
    return shown, f"{word}的{_SIDE_WORDS['zh'][side]}是几?", WORDS["zh"][shown[place + step]]


def _ask_place(rng: np.random.Generator, new: bool, language: Language) -> tuple[list[int], str, str]:
    shown, place = next(one for one in _fillings(rng, {}) if _fits(one, new)), int(rng.integers(4))
    word, corner = WORDS[language][shown[place]], _CORNERS[language][place]
    return (shown, f"which digit is {corner}?", f" {word}") if language == "en" else (shown, f"{corner}是几?", word)


def _ask_caption(rng: np.random.Generator, new: bool, language: Language) -> tuple[list[int], str, str]:
    shown = next(one for one in _fillings(rng, {}) if _fits(one, new))
    return shown, "what is it?" if language == "en" else "这是什么?", ""  # the caption, which the scene knows


_ASK = {"caption": _ask_caption, "place": _ask_place, "neighbor": _ask_neighbor, "count": _ask_count}
