"""Translation: a sentence about an event in one language, and the same event in the other."""

from collections.abc import Callable, Sequence
from functools import partial

from llama_minimal.applications.base import Application, Example, Predictor, Scores, by_kind, check_request, same, take
from llama_minimal.applications.plain_telling import translatable, wordings
from llama_minimal.applications.translation_memory import Dictionary, Memory
from llama_minimal.data import valley
from llama_minimal.scores import bleu, chrf

DIRECTIONS = {"en-zh": ("english", "chinese"), "zh-en": ("chinese", "english")}
_ASKS = {"en-zh": "Chinese:", "zh-en": "English:"}
PER_STORY = 4


def examples(n: int, *, split: str = "train", seed: int = 0, direction: str = "en-zh") -> list[Example]:
    """Return n sentences with their translations, up to four of each story.

    The source is an event in one of its wordings; the completion is the plainest wording in the other language that
    says no more than the source, and ``references`` has all that are as plain. ``kind`` is the direction; ``extra`` has
    the ``source`` and the ``event``.

    Args:
        direction: "en-zh", "zh-en", or "both".

    Raises:
        ValueError: if there is no such direction.
    """
    check_request(n, split)
    if direction not in (*DIRECTIONS, "both"):
        raise ValueError(f"direction={direction!r} is not one of {', '.join(DIRECTIONS)}, both")
    directions = list(DIRECTIONS) if direction == "both" else [direction]
    return take(n, partial(_of_story, directions=directions), split=split, seed=seed)


def as_prompt(source: str, direction: str) -> str:
    """Return the prompt that asks for a translation, in the form of the course model's own texts."""
    return f"{source}\n\n{_ASKS[direction]}"


def _of_story(story: valley.Story, directions: Sequence[str]) -> list[Example]:
    dice = story.dice("application")
    found: list[Example] = []
    events = translatable(story)
    for event in dice.sample(events, min(PER_STORY, len(events))):
        direction = dice.choice(directions)
        source_language, target_language = DIRECTIONS[direction]
        sources = wordings(story, event, source_language)
        if not sources:  # some events are only told with their reasons
            continue
        source = dice.choice(sources)
        fitting = [
            sentence
            for sentence in wordings(story, event, target_language)
            if sentence.says <= source.says and sentence.tags <= source.tags
        ]
        targets = [sentence.text for sentence in fitting if sentence.color == fitting[0].color]
        if targets:
            extra = {"source": source.text, "event": event.kind}
            prompt = as_prompt(source.text, direction)
            found.append(Example(prompt, f" {targets[0]}", direction, tuple(dict.fromkeys(targets)), extra))
    return found


def score(predictions: Sequence[str], examples: Sequence[Example]) -> Scores:
    """Return chrF, beside BLEU (of Chinese by characters) and exact match, and chrF by direction."""
    return by_kind("chrF", chrf, predictions, examples, BLEU=_bleu_of(examples), exact_match=same)


def _bleu_of(examples: Sequence[Example]) -> Callable[..., float]:
    return partial(bleu, tokenize="13a" if all(one.kind == "zh-en" for one in examples) else "zh")


def baselines(train: Sequence[Example]) -> dict[str, Predictor]:
    """Return a dictionary, a memory of sentences, and a memory whose words are exchanged; each learned by counting."""
    dictionary = Dictionary(train)
    return {
        "dictionary": dictionary,
        "nearest sentence": Memory(train),
        "nearest sentence, words exchanged": Memory(train, dictionary),
    }


APPLICATION = Application(
    name="translation",
    metric="chrF",
    examples=examples,
    score=score,
    baselines=baselines,
    max_new_tokens=80,
)
