"""Spoken digits: eighteen synthetic voices that say zero to nine in English and in Chinese."""

# n samples of one channel, floats from -1 to 1, 8,000 a second

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from llama_minimal.multimodal.audio import read_wav

RATE = 8000  # samples a second: speech on the telephone
FOLDER = Path(__file__).with_name("digits")
INDEX = "ends.json"  # after how many samples of its file each digit ends

WORDS = {
    "en": tuple("zero one two three four five six seven eight nine".split()),
    "zh": tuple("零一二三四五六七八九"),
}


class Speaker(NamedTuple):
    """How espeak-ng is asked to speak."""

    variant: str
    """Of the voice: the shape of its spectrum."""
    accent: str
    """Of its English. (Not "en-gb": with it, version 1.51 leaves the variant aside without a word.)"""
    speed: int
    """In words a minute."""
    pitch: int
    """From 0 to 99."""
    group: str
    """"train", "choose" (settings are chosen by it) or "test" (never heard before the measurement)."""


SPEAKERS = {
    "adam": Speaker("m1", "en-us", 215, 45, "train"),
    "bert": Speaker("m2", "en", 225, 52, "train"),
    "carl": Speaker("Gene", "en-us-nyc", 230, 48, "train"),
    "dave": Speaker("m4", "en-gb-x-rp", 220, 60, "train"),
    "emil": Speaker("pablo", "en", 235, 45, "train"),
    "finn": Speaker("klatt2", "en-us", 220, 40, "train"),
    "gary": Speaker("Andy", "en", 240, 55, "train"),
    "hugo": Speaker("boris", "en-gb-x-gbclan", 225, 35, "train"),
    "anna": Speaker("f1", "en-us", 230, 50, "train"),
    "beth": Speaker("f2", "en", 240, 58, "train"),
    "cleo": Speaker("f3", "en-us-nyc", 225, 44, "train"),
    "dora": Speaker("linda", "en-gb-x-rp", 235, 62, "train"),
    "elsa": Speaker("steph", "en-us", 230, 40, "train"),
    "ivan": Speaker("m8", "en-gb-x-gbcwmd", 225, 50, "choose"),
    "fran": Speaker("f5", "en", 235, 52, "choose"),
    "jack": Speaker("m7", "en-029", 220, 42, "test"),
    "gina": Speaker("f4", "en-gb-scotland", 230, 55, "test"),
    "kurt": Speaker("Michael", "en-us", 228, 57, "test"),
}


class SpokenDigit(NamedTuple):
    """A digit as somebody said it."""

    samples: Tensor
    """(n,)"""
    digit: int
    voice: str
    language: str

    @property
    def word(self) -> str:
        """How the digit is written in the language in which it was said."""
        return WORDS[self.language][self.digit]


def voices(group: str) -> tuple[str, ...]:
    """Return the names of the voices of a group.

    Raises:
        ValueError: if there is no such group.
    """
    found = tuple(name for name, speaker in SPEAKERS.items() if speaker.group == group)
    if not found:
        raise ValueError(f"group={group!r} is none of train, choose, test")
    return found


def spoken_digit(digit: int, voice: str, language: str = "en") -> SpokenDigit:
    """Return one recording.

    Raises:
        ValueError: if there is no such digit, voice or language.

    Example:
        >>> spoken_digit(7, "adam").word
        'seven'
    """
    if voice not in SPEAKERS:
        raise ValueError(f"there is no voice {voice!r}; there are {', '.join(SPEAKERS)}")
    if language not in WORDS:
        raise ValueError(f"language={language!r} is none of {', '.join(WORDS)}")
    if not isinstance(digit, int) or not 0 <= digit <= 9:
        raise ValueError(f"digit={digit!r} must be a whole number from 0 to 9")
    return SpokenDigit(_recordings()[voice, language][digit], digit, voice, language)


def say_digits(digits: Sequence[int], voice: str, language: str = "en", *, pauses: Sequence[int] | int = 400) -> Tensor:
    """Return the sound of several digits one after the other, (n,).

    Args:
        pauses: samples of silence before each digit and after the last, one number for all, or one more than digits.

    Raises:
        ValueError: if there is no digit, or the pauses are not such.
    """
    pauses = [pauses] * (len(digits) + 1) if isinstance(pauses, int) else list(pauses)
    if not len(digits) or len(pauses) != len(digits) + 1 or min(pauses) < 0:
        raise ValueError(f"{len(digits)} digits need {len(digits) + 1} pauses of 0 samples or more; given {pauses}")
    words = [spoken_digit(int(digit), voice, language).samples for digit in digits]
    parts = [torch.zeros(pauses[0])]
    for word, pause in zip(words, pauses[1:], strict=True):
        parts += [word, torch.zeros(pause)]
    return torch.cat(parts)


@cache
def _recordings() -> dict[tuple[str, str], list[Tensor]]:
    """Return the ten digits by voice and language."""
    ends = json.loads((FOLDER / INDEX).read_text(encoding="utf-8"))
    found = {}
    for name, numbers in ends.items():
        voice, language = name.split("_")
        samples = read_wav(FOLDER / f"{name}.wav", rate=RATE)
        found[voice, language] = [samples[a:b] for a, b in zip([0, *numbers], numbers, strict=False)]
    return found
