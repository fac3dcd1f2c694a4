"""Speech and text: sentences of digits to listen to and to say, as examples for a model, and the errors in words."""

# n samples, U units

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llama_minimal.model import Llama
from llama_minimal.multimodal import Example, Prompt, Vocabulary, generate
from llama_minimal.multimodal.speech import HOP, STACKED, speech_features
from llama_minimal.multimodal.speech_digits import SPEAKERS, WORDS, say_digits
from llama_minimal.multimodal.speech_synthesis import SpeechUnits
from llama_minimal.scores import answer_words
from llama_minimal.tokenizer import TextCodec, Tokenizer

SOUND, UNIT = "sound", "unit"  # what a model reads, and the codes that it writes
_SPEEDS, _NOISE, _PAUSES = (0.87, 1.15), 0.03, (240, 800)  # of the sounds for training
_LONGEST = 80  # units of an answer: three seconds


class Utterance(NamedTuple):
    """Some digits, said one after the other."""

    samples: Tensor
    """(n,)"""
    digits: tuple[int, ...]
    voice: str
    language: str

    @property
    def text(self) -> str:
        """What was said: " three seven", or "三七"."""
        return digits_text(self.digits, self.language)


def digits_text(digits: Sequence[int], language: str) -> str:
    """Return digits in words: " three seven" in English, "三七" in Chinese."""
    words = [WORDS[language][digit] for digit in digits]
    return "".join(words) if language == "zh" else "".join(f" {word}" for word in words)


def is_held_out(digits: Sequence[int]) -> bool:
    """Return whether a model in training never hears or says these digits in this order: their sum ends in 0 or 5."""
    return len(digits) > 1 and sum(digits) % 5 == 0


def draw_digits(rng: np.random.Generator, n_digits: Sequence[int], *, held_out: bool = False) -> tuple[int, ...]:
    """Return digits at random, as many as one of ``n_digits``, from those that are held out or from the others."""
    while True:
        digits = tuple(rng.integers(0, 10, size=int(rng.choice(n_digits))).tolist())
        if is_held_out(digits) == held_out:
            return digits


def utterances(
    n: int,
    voices: Sequence[str],
    *,
    seed: int,
    n_digits: Sequence[int] = (1, 2),
    held_out: bool = False,
    rough: bool = True,
    languages: Sequence[str] = tuple(WORDS),
) -> list[Utterance]:
    """Return sentences of digits by several voices.

    Args:
        voices: who speaks, drawn anew for each.
        seed: of everything that is drawn.
        n_digits: in each, drawn from these numbers.
        held_out: digits in an order that training does not have, see ``is_held_out``.
        rough: said faster or slower by up to a seventh (and higher or lower by as much), half of them with some noise.
        languages: drawn anew for each.
    """
    rng = np.random.default_rng(seed)
    return [
        utterance(
            draw_digits(rng, n_digits, held_out=held_out),
            voices[int(rng.integers(len(voices)))],
            languages[int(rng.integers(len(languages)))],
            rng,
            rough=rough,
        )
        for _ in range(n)
    ]


def utterance(
    digits: Sequence[int], voice: str, language: str, rng: np.random.Generator, *, rough: bool = False
) -> Utterance:
    """Return digits as a voice says them, with pauses of 30 to 100 milliseconds."""
    samples = say_digits(digits, voice, language, pauses=rng.integers(*_PAUSES, size=len(digits) + 1).tolist())
    if rough:
        n = round(len(samples) / rng.uniform(*_SPEEDS))
        samples = torch.nn.functional.interpolate(samples[None, None], size=n, mode="linear")[0, 0]
        loudness = max(0.0, float(rng.uniform(-_NOISE, _NOISE)))  # half of the sounds stay clean
        samples = samples + loudness * torch.from_numpy(rng.normal(size=n)).float()
    return Utterance(samples, tuple(digits), voice, language)


def speech_tokenizer() -> Tokenizer:
    """Return a tokenizer to which every digit's word and every voice's name is one piece or a few."""
    texts = [digits_text(range(10), language) for language in WORDS for _ in range(9)] + [
        f"{voice} says{digits_text((digit,), 'en')}" for voice in SPEAKERS for digit in range(10)
    ]
    return Tokenizer.train(texts, vocab_size=360)


def listening(tokenizer: TextCodec, vocabulary: Vocabulary, said: Utterance) -> Example:
    """Return what a model reads that listens, and the words that it shall write."""
    prompt = vocabulary.prompt(tokenizer, (SOUND, speech_features(said.samples)))
    return Example(prompt, [*tokenizer.encode(said.text), tokenizer.eos_id])


def speaking_prompt(
    tokenizer: TextCodec, vocabulary: Vocabulary, digits: Sequence[int], voice: str, language: str
) -> Prompt:
    """Return what a model reads that shall speak: whose voice, and the words."""
    return vocabulary.prompt(tokenizer, f"{voice} says{digits_text(digits, language)}:")


def speaking(tokenizer: TextCodec, vocabulary: Vocabulary, units: SpeechUnits, said: Utterance) -> Example:
    """Return what a model reads that shall speak, and the units that it shall write."""
    prompt = speaking_prompt(tokenizer, vocabulary, said.digits, said.voice, said.language)
    codes = vocabulary.prompt(tokenizer, (UNIT, units.encode(said.samples)), bos=False).ids
    return Example(prompt, [*codes, tokenizer.eos_id])


def even_utterance(digits: Sequence[int], voice: str, language: str) -> Utterance:
    """Return digits as a voice says them, each beginning with a token of its own, so that a word has the same units.

    Pauses are of 40 to 80 milliseconds.
    """
    step = STACKED * HOP
    lengths = [len(say_digits([digit], voice, language, pauses=0)) for digit in digits]
    pauses = [step] + [2 * step - n % step for n in lengths]
    return Utterance(say_digits(digits, voice, language, pauses=pauses), tuple(digits), voice, language)


def transcribe(
    model: Llama, tokenizer: TextCodec, vocabulary: Vocabulary, sounds: Sequence[Tensor], *, batch_size: int = 64
) -> list[str]:
    """Return what a model hears in sounds, each (n,)."""
    prompts = [vocabulary.prompt(tokenizer, (SOUND, speech_features(sound))) for sound in sounds]
    return [
        written.text
        for start in range(0, len(prompts), batch_size)
        for written in generate(model, tokenizer, prompts[start : start + batch_size], max_new_tokens=16)
    ]


def say(model: Llama, tokenizer: TextCodec, vocabulary: Vocabulary, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the units that a model writes for texts."""
    codes = vocabulary.code_ids(UNIT)
    answers = generate(model, None, prompts, max_new_tokens=_LONGEST, stop_ids=[tokenizer.eos_id])
    return [[token - codes[0] for token in answer.tokens if token in codes] for answer in answers]


def word_edits(heard: Sequence[str], said: Sequence[str]) -> int:
    """Return how many words have to be put in, left out or exchanged to make the one list of the other.

    d[i, j] = min(d[i−1, j] + 1, d[i, j−1] + 1, d[i−1, j−1] + (heardᵢ ≠ saidⱼ)), row by row.

    Source: Wagner and Fischer 1974, "The String-to-String Correction Problem".
    """
    row = list(range(len(said) + 1))
    for i, word in enumerate(heard, start=1):
        last, row = row, [i]
        for j, true in enumerate(said, start=1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (word != true)))
    return row[-1]


def word_error(heard: Sequence[str], said: Sequence[str]) -> float:
    """Return the word error of texts in percent: the edits of all, by the words that were said in all.

    It may be above 100: there is no end to what can be put in. Of Chinese, every character is a word.

    Raises:
        ValueError: if there are not as many of the one as of the other, or nothing was said.
    """
    if len(heard) != len(said):
        raise ValueError(f"{len(heard)} texts were heard and {len(said)} said; give one for each")
    pairs = [(answer_words(a), answer_words(b)) for a, b in zip(heard, said, strict=True)]
    if not (n := sum(len(b) for _, b in pairs)):
        raise ValueError("no word was said, so there is no word error; give texts with words")
    return 100 * sum(word_edits(a, b) for a, b in pairs) / n
