"""Sentiment: how a story ends, and how one of its characters feels: positive, neutral or negative."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from llama_minimal.applications.base import Application, Example, Predictor, Scores, by_kind, same, take
from llama_minimal.data import valley
from llama_minimal.finetuning.baselines import NaiveBayes

LABELS = ("positive", "neutral", "negative")


def examples(n: int, *, split: str = "train", seed: int = 0) -> list[Example]:
    """Return n stories with the sentiment of their ending, or of a character, one of each story.

    ``kind`` is ending or character; ``extra`` has the ``story`` and the ``question``: whose sentiment.
    """
    return take(n, _of_story, split=split, seed=seed)


def _of_story(story: valley.Story) -> list[Example]:
    ending, *characters = valley.examples(story, "sentiment")
    dice = story.dice("application")
    chosen = dice.choice(characters) if characters and dice.chance(0.8) else ending
    text, _, question = chosen.prompt.rpartition("\n\n")
    extra = {"story": text, "question": question.removesuffix(": ")}
    return [Example(chosen.prompt, chosen.answer, chosen.kind, extra=extra)]


def score(predictions: Sequence[str], examples: Sequence[Example]) -> Scores:
    """Return the accuracy, beside the average F1 of the three labels, and by kind.

    F1 of a label = 2 · right / (predicted + true). A label that is neither predicted nor true does not count.
    """
    return by_kind("accuracy", same, predictions, examples, macro_F1=_macro_f1)


def _macro_f1(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    true, predicted = Counter(answer for answer, *_ in answers), Counter(predictions)
    right = Counter(text for text, (answer, *_) in zip(predictions, answers, strict=True) if text == answer)
    there = [label for label in LABELS if true[label] + predicted[label]]
    return 100 * sum(2 * right[label] / (true[label] + predicted[label]) for label in there) / max(1, len(there))


def baselines(train: Sequence[Example]) -> dict[str, Predictor]:
    """Return three ways to count: the label most had, the words of the story, and those of whom is asked for."""
    return {
        "most common label": _most_common(train),
        "bag of words": _bag_of_words(train, lambda one: one.extra["story"]),
        "bag of the words that matter": _bag_of_words(train, _words_that_matter),
    }


def _most_common(train: Sequence[Example]) -> Predictor:
    counts: dict[str, Counter] = defaultdict(Counter)
    for one in train:
        for asked in (_asked(one), ""):
            counts[asked][one.answers[0]] += 1

    def predict(examples: Sequence[Example]) -> list[str]:
        return [counts[_asked(one) if _asked(one) in counts else ""].most_common(1)[0][0] for one in examples]

    return predict


def _asked(example: Example) -> str:
    return "ending" if example.extra["question"] == "Sentiment" else "character"


def _words_that_matter(example: Example) -> str:
    """Return the last two sentences; or those in which the character is named, each with the one that follows."""
    sentences = example.extra["story"].replace("\n\n", " ").split(". ")
    name = example.extra["question"].removeprefix("Sentiment").removeprefix(" of ")
    if not name:
        return " ".join(sentences[-2:])
    named = [i for i, text in enumerate(sentences) if name in text]
    return " ".join(sentences[i] for i in sorted({j for i in named for j in (i, i + 1) if j < len(sentences)}))


def _bag_of_words(train: Sequence[Example], text_of: Callable[[Example], str]) -> Predictor:
    """Return naive Bayes over the words of a text, counted apart for endings and for characters."""
    parts = {asked: [one for one in train if _asked(one) == asked] or list(train) for asked in ("ending", "character")}
    bayes = {
        asked: NaiveBayes([text_of(one) for one in part], [one.answers[0] for one in part])
        for asked, part in parts.items()
    }
    return lambda examples: [bayes[_asked(one)].predict([text_of(one)])[0] for one in examples]


APPLICATION = Application(
    name="sentiment",
    metric="accuracy",
    examples=examples,
    score=score,
    baselines=baselines,
    max_new_tokens=6,
)
