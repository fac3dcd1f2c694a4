"""Code: the rest of a line, a function from its docstring, and SQL from a question."""

from collections.abc import Sequence

from llama_minimal.applications.base import Application, Example, Predictor, Scores, check_request
from llama_minimal.applications.code import completion, functions, sql
from llama_minimal.applications.code.baselines import look_up, n_grams
from llama_minimal.scores import chrf

KINDS = {part.KIND: part.examples for part in (completion, functions, sql)}


def examples(n: int, *, split: str = "train", seed: int = 0, kinds: Sequence[str] = tuple(KINDS)) -> list[Example]:
    """Return n examples of code, the kinds in turn.

    ``completion``: a line of the standard library, from its beginning. ``function``: a docstring; the rest of the
    function. ``sql``: a question about the valley's market; a query.

    Args:
        kinds: one or more of them.

    Raises:
        ValueError: if n, split or kinds cannot be, or if there are not so many.
    """
    check_request(n, split)
    if isinstance(kinds, str) or not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds={kinds!r}; give a list of one or more of {', '.join(KINDS)}")
    each = -(-n // len(kinds))
    made = [KINDS[kind](each, split=split, seed=seed) for kind in kinds]
    return [one for turn in zip(*made, strict=True) for one in turn][:n]


def score(predictions: Sequence[str], examples: Sequence[Example]) -> Scores:
    """Return how many predictions are right, as each kind means it; chrF; and how many lines parse.

    A completed line is right if it is the library's; a function, if it passes the hidden tests; a query, if it gives
    the same rows as the reference on two markets. ``parses`` is about completed lines: a completion that is empty or a
    comment does not count.

    Raises:
        ValueError: if there is not a prediction for every example.
    """
    if len(predictions) != len(examples) or not examples:
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples; give one for each")
    pairs = list(zip(predictions, examples, strict=True))
    right = [is_right(text, one) for text, one in pairs]
    scores = {
        "correct": _percent(right),
        "chrF": chrf([text.strip() for text in predictions], [one.answers for one in examples]),
    }
    lines = [(text, one) for text, one in pairs if one.kind == completion.KIND]
    if lines:
        scores["parses"] = _percent(
            [completion.parses(one.extra["beginning"], _spaced(text, one)) for text, one in lines]
        )
    for kind in sorted({one.kind for one in examples}):
        scores[kind] = _percent([fine for fine, one in zip(right, examples, strict=True) if one.kind == kind])
    return scores


def is_right(prediction: str, example: Example) -> bool:
    """Tell whether a prediction does what its example asks for; a function is run, in a process of its own.

    Only the first line counts of a completed line and of a query.
    """
    if example.kind == functions.KIND:
        return functions.passes(prediction, example)
    line = prediction.strip().split("\n")[0].strip()
    if example.kind == sql.KIND:
        return sql.same_answers(line, example.answers[0])
    return line in example.answers


def _spaced(prediction: str, example: Example) -> str:
    """Give a prediction the space back with which the rest of its line begins; predictions come without."""
    return " " * example.completion.startswith(" ") + prediction.strip()


def _percent(right: Sequence[bool]) -> float:
    return 100 * sum(right) / len(right)


def baselines(train: Sequence[Example]) -> dict[str, Predictor]:
    """Return two ways to write code without a model; a look-up, and n-grams of characters."""
    return {"n-grams": n_grams(train), "nearest example": look_up(train)}


APPLICATION = Application(
    name="code", metric="correct", examples=examples, score=score, baselines=baselines, max_new_tokens=72
)
