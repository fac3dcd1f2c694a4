"""Question answering: a story and a question in, a short answer out. Of many stories at once: ``many_stories.py``."""

from collections.abc import Sequence

from llama_minimal.applications.base import Application, Example, Predictor, Scores, by_kind, same, take
from llama_minimal.applications.counted_answers import CountedAnswers, most_common, nearest_words
from llama_minimal.data import valley
from llama_minimal.scores import token_f1

PER_STORY = 3  # questions, of about nine that a story allows
_QUESTION = "\n\nQuestion: "


def examples(n: int, *, split: str = "train", seed: int = 0) -> list[Example]:
    """Return n questions about stories, three about each, with the answers of the valley's records.

    ``kind`` is what is asked for: where, who, what, why, when, how many …, and yes, no or unknown, by the answer.
    ``extra`` has the ``story`` and the ``question``.
    """
    return take(n, _of_story, split=split, seed=seed)


def as_prompt(text: str, question: str) -> str:
    """Return the prompt that asks a question about a text; about no text if that is empty."""
    return f"{text}{_QUESTION}{question}\nAnswer:".lstrip("\n")


def _of_story(story: valley.Story) -> list[Example]:
    found = valley.examples(story, "qa")
    chosen = story.dice("application").sample(found, min(PER_STORY, len(found)))
    return [_example(one) for one in chosen]


def _example(one: valley.Example) -> Example:
    text, _, rest = one.prompt.rpartition(_QUESTION)
    question = rest.removesuffix("\nAnswer: ")
    return Example(as_prompt(text, question), f" {one.answer}", one.kind, extra={"story": text, "question": question})


def score(predictions: Sequence[str], examples: Sequence[Example]) -> Scores:
    """Return the share of answers that are right to the character, beside the F1 of their words, and by kind."""
    return by_kind("exact match", same, predictions, examples, token_F1=token_f1)


def baselines(train: Sequence[Example]) -> dict[str, Predictor]:
    """Return three ways to answer by counting; the last is the strongest."""
    return {
        "most common answer": most_common(train),
        "answer of the nearest sentence": nearest_words(train),
        "counted answers": CountedAnswers(train),
    }


APPLICATION = Application(
    name="question_answering",
    metric="exact match",
    examples=examples,
    score=score,
    baselines=baselines,
)
