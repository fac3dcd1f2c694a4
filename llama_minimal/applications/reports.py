"""Reports: fields from the vet's record, the market ledger and the council's ruling, fields from a story, and back."""

import re
from collections.abc import Sequence

from llama_minimal.applications.base import Application, Example, Predictor, Scores, take
from llama_minimal.applications.numbers import invented_numbers
from llama_minimal.applications.report_rules import FieldRules, content_words, is_within, nearest_report
from llama_minimal.data import valley
from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.reports import report

__all__ = ["APPLICATION", "baselines", "examples", "fields_of", "invented_numbers", "score"]


def examples(n: int, *, split: str = "train", seed: int = 0) -> list[Example]:
    """Return n reports of stories that call for one, one of each story.

    ``kind`` is a style (medical, finance, legal) and a direction: ``fields`` from a report's text, ``story`` for fields
    from a story, ``text`` for a report's text from its fields. ``extra`` has the ``source`` and the true ``fields``.
    """
    return take(n, _of_story, split=split, seed=seed)


def _of_story(story: valley.Story) -> list[Example]:
    found = valley.examples(story, "report")
    if not found:
        return []
    one = story.dice("application").choice(found)
    fields = found[0].answer
    references = tuple(dict.fromkeys((one.answer, *_wordings(story)))) if one.kind.endswith(" text") else ()
    source = one.prompt.rpartition("\n\n")[0]
    extra = {"source": source, "fields": fields_of(fields)}
    return [Example(one.prompt, one.answer, one.kind, references, extra)]


class _Always(Dice):
    """Dice that fall on the same side each time."""

    def __init__(self, side: int) -> None:
        self.random = lambda: side / 3


def _wordings(story: valley.Story) -> list[str]:
    """Return the report of a story in each of its three wordings."""
    return [report(story, _Always(side)).text for side in range(3)]


def fields_of(text: str) -> dict[str, str]:
    """Return the fields of lines "name: value"; of a name that comes twice the first, and no other lines."""
    found: dict[str, str] = {}
    for line in text.strip().splitlines():
        name, colon, value = line.partition(": ")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def score(predictions: Sequence[str], examples: Sequence[Example]) -> Scores:
    """Return the share of fields that are right, of whole reports, and of those without an invented number; by kind.

    A field is right if its name and value are; one too many counts as a wrong field. In a report's text a field is
    right if a sentence has the words of its value in their order; a text that copies lines of the record has none.
    """
    if len(predictions) != len(examples) or not examples:
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples; give one for each")
    shares = [_share(text, one) for text, one in zip(predictions, examples, strict=True)]
    whole = [text.strip() in one.answers for text, one in zip(predictions, examples, strict=True)]
    honest = [not invented_numbers(text, one.prompt) for text, one in zip(predictions, examples, strict=True)]
    scores = {"fields right": _percent(shares), "whole report": _percent(whole), "no invented number": _percent(honest)}
    for kind in sorted({one.kind for one in examples}):
        scores[kind] = _percent([share for share, one in zip(shares, examples, strict=True) if one.kind == kind])
    return scores


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def _share(prediction: str, example: Example) -> float:
    true = example.extra["fields"]
    if example.kind.endswith(" text"):
        # One wording has "Attending vet: Hugo", which is a line of the record, too; two such lines are copied.
        copied = sum(f"{name}: {value}" in prediction for name, value in true.items()) > 1
        return 0.0 if copied else sum(_says(prediction, value) for value in true.values()) / len(true)
    given = fields_of(prediction)
    return sum(given.get(name) == value for name, value in true.items()) / len(true | given)


def _says(text: str, value: str) -> bool:
    """Return whether one sentence has the words of a value in their order, and "not" as often as the value has it."""
    wanted = [word for word in content_words(value) if word != "and"]  # one wording says "Otto against Simon"
    return any(
        is_within(wanted, words) and words.count("not") == wanted.count("not")
        for words in map(content_words, re.split(r"(?<=[.;])\s", text))
    )


def baselines(train: Sequence[Example]) -> dict[str, Predictor]:
    """Return the nearest training report, and rules that are learned by counting what stands around each field."""
    return {"nearest report": nearest_report(train), "counted rules": FieldRules(train)}


APPLICATION = Application(
    name="reports",
    metric="fields right",
    examples=examples,
    score=score,
    baselines=baselines,
    max_new_tokens=120,
    stop=("\n\n",),
)
