"""Dialogue: questions about a story over several turns, and recall of what the user said some turns ago."""

from collections import Counter
from collections.abc import Sequence
from math import log

from llama_minimal.applications.base import Application, Example, Predictor, Scores, by_kind, check_request, same, take
from llama_minimal.applications.counted_answers import most_common
from llama_minimal.applications.recall import Message, Recall, facts, recall_dialogues, recalls, study_dialogues
from llama_minimal.data import valley
from llama_minimal.retrieval import terms
from llama_minimal.scores import token_f1

__all__ = ["APPLICATION", "as_text", "baselines", "chance", "examples", "recall_dialogues", "recall_examples", "score"]

_NAMES = {"user": "User: ", "assistant": "Llama: ", "system": ""}
ABOUT_A_STORY = "about a story"


def examples(n: int, *, split: str = "train", seed: int = 0) -> list[Example]:
    """Return n dialogues that wait for an answer: by turns one that recalls a fact, and one about a story.

    ``kind`` says how many turns ago the fact was said, or that it never was. ``extra`` has the ``messages``, and the
    ``question`` that ends them. Of those to train on, two in three that recall ask for many facts, one after another:
    so a dialogue teaches more.
    """
    check_request(n, split)
    order = (_studies, recall_examples, _studies, _stories) if split == "train" else (recall_examples, _stories)
    kinds = [order[i % len(order)] for i in range(n)]
    made = {kind: iter(kind(kinds.count(kind), split=split, seed=seed)) for kind in set(kinds)}
    return [next(made[kind]) for kind in kinds]


def _stories(n: int, *, split: str, seed: int) -> list[Example]:
    return take(n, _about_a_story, split=split, seed=seed)


def _studies(n: int, *, split: str, seed: int) -> list[Example]:
    return [_study(one) for one in study_dialogues(n, split=split, seed=seed)]


def recall_examples(
    n: int, *, distance: int | None = None, unknown: float = 0.1, split: str = "train", seed: int = 0
) -> list[Example]:
    """Return dialogues that ask for what the user said; arguments as for ``recall.recall_dialogues``."""
    return [_recall(one) for one in recalls(n, distance=distance, unknown=unknown, split=split, seed=seed)]


def _study(messages: Sequence[Message]) -> Example:
    *asked, answer = messages
    extra = {"messages": asked, "question": asked[-1]["content"]}
    return Example(as_text(asked), f" {answer['content']}", "of many facts", extra=extra)


def as_text(messages: Sequence[Message]) -> str:
    """Return a dialogue that waits for an answer as a text: what a model without a chat template is given."""
    return "\n".join(_NAMES[one["role"]] + one["content"] for one in messages) + "\nLlama:"


def _recall(one: Recall) -> Example:
    *asked, answer = one.messages
    kind = f"{one.distance} turn{'s' * (one.distance != 1)} ago" if one.is_known else "never said"
    extra = {"messages": asked, "question": asked[-1]["content"], "fact": one.kind}
    return Example(as_text(asked), f" {answer['content']}", kind, extra=extra)


def _about_a_story(story: valley.Story) -> list[Example]:
    turns = valley.examples(story, "dialogue")
    if not turns:
        return []
    chosen = story.dice("application").choice(turns)
    text, _, rest = chosen.prompt.partition("\n\nUser: ")
    messages = []
    for said in rest.removesuffix("\nLlama: ").split("\nUser: "):
        question, _, answer = said.partition("\nLlama: ")
        messages.append({"role": "user", "content": question})
        messages += [{"role": "assistant", "content": answer}] if answer else []
    extra = {"question": messages[-1]["content"]}
    messages[0] = {"role": "user", "content": f"{text}\n\n{messages[0]['content']}"}
    return [Example(chosen.prompt, chosen.answer, ABOUT_A_STORY, extra=extra | {"messages": messages})]


def score(predictions: Sequence[str], examples: Sequence[Example]) -> Scores:
    """Return the share of answers that are right to the character, beside the F1 of their words, and by kind."""
    return by_kind("exact match", same, predictions, examples, token_F1=token_f1)


def chance(examples: Sequence[Example]) -> float:
    """Return the percentage that would be right if each answer were any value that its fact can have.

    Raises:
        ValueError: if no example asks for a fact that was said.
    """
    lists = [facts()[one.extra["fact"]].values for one in examples if one.kind.endswith("ago")]
    if not lists:
        raise ValueError("no example recalls a fact; take them from recall_examples")
    return 100 * sum(1 / len(values) for values in lists) / len(lists)


def baselines(train: Sequence[Example]) -> dict[str, Predictor]:
    """Return the most common answer to such a question, and an answer known from training in the nearest turn."""
    return {"most common answer": most_common(train), "known answer in the nearest turn": _nearest_turn(train)}


def _nearest_turn(train: Sequence[Example]) -> Predictor:
    known = Counter(one.answers[0] for one in train)
    used = Counter(term for one in train for term in set(terms(one.extra["question"])))

    def predict(examples: Sequence[Example]) -> list[str]:
        return [_from_nearest(one, known, used, len(train)) for one in examples]

    return predict


def _from_nearest(example: Example, known: Counter, used: Counter, n: int) -> str:
    """Return the longest answer known from training in what the user said with the rarest words of the question."""
    asked = set(terms(example.extra["question"]))
    best, found = 0.0, ""
    for message in example.extra["messages"][:-1]:
        said = message["content"]
        near = sum(log((n + 1) / (used[term] + 1)) for term in asked & set(terms(said)))
        inside = f" {' '.join(terms(said))} "
        options = [text for text in known if f" {' '.join(terms(text))} " in inside and not asked & set(terms(text))]
        if message["role"] == "user" and near > best and options:
            best, found = near, max(options, key=len)
    return found


APPLICATION = Application(
    name="dialogue",
    metric="exact match",
    examples=examples,
    score=score,
    baselines=baselines,
)
