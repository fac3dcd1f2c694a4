"""What every application has: examples with an answer key, a score, and baselines that only count."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from llama_minimal.data.valley import Story, ValleySettings, stories
from llama_minimal.prompts import by_length

if TYPE_CHECKING:
    from llama_minimal.adaptive_computation.speculative import Draft
    from llama_minimal.chat import ChatTemplate
    from llama_minimal.model import Llama
    from llama_minimal.tokenizer import TextCodec

Split = Literal["train", "validation", "test"]
Scores = dict[str, float]
FIRST_SEED = 1000  # the course model has read the stories of seed 0


@dataclass(frozen=True, slots=True)
class Example:
    """Hold what a model is given, and what it should write.

    The prompt ends without a space, and the completion begins with it: so a tokenizer writes words. A space at the end
    of the prompt is moved.
    """

    prompt: str
    completion: str
    kind: str
    """What the score is grouped by. It belongs to the answer key: a predictor must not look at it."""
    references: tuple[str, ...] = ()
    """All right answers; left out: the completion."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the score or a baseline needs, such as the story; ``messages``: the prompt as turns of a chat."""

    def __post_init__(self) -> None:
        bare = self.prompt.rstrip(" ")
        if bare != self.prompt:
            object.__setattr__(self, "completion", self.prompt[len(bare) :] + self.completion)
            object.__setattr__(self, "prompt", bare)

    @property
    def answers(self) -> tuple[str, ...]:
        """The right answers, as predictions are compared with them: without space around."""
        return tuple(text.strip() for text in self.references or (self.completion,))

    def as_dict(self) -> dict[str, Any]:
        """Return what a model is tuned on: ``messages`` if there are any, else ``prompt`` and ``completion``."""
        if "messages" in self.extra:
            answer = {"role": "assistant", "content": self.completion.strip()}
            return {"messages": [*self.extra["messages"], answer]}
        return {"prompt": self.prompt, "completion": self.completion}


Predictor = Callable[[Sequence[Example]], list[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """Hold what a model wrote, and its score."""

    scores: Scores
    predictions: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Say what a model is to do, how that is measured, and what counting alone can do."""

    name: str
    metric: str
    """Name of the main score."""
    examples: Callable[..., list[Example]]
    """``(n, *, split="train", seed=0) -> list[Example]``; the splits have no text in common."""
    score: Callable[[Sequence[str], Sequence[Example]], Scores]
    """Predictions and examples → percentages: the main score first, then others, then the main score by kind."""
    baselines: Callable[[Sequence[Example]], dict[str, Predictor]]
    """Training examples → what predicts without a model, by name."""
    max_new_tokens: int = 24
    stop: tuple[str, ...] = ("\n",)

    def predict(
        self,
        model: "Llama",
        tokenizer: "TextCodec",
        examples: Sequence[Example],
        *,
        batch_size: int = 32,
        template: "ChatTemplate | None" = None,
        progress: Callable[[int], Any] | None = None,
        draft: "Draft | None" = None,
    ) -> list[str]:
        """Return what a model writes after each prompt, greedily, without space around it.

        A prompt that leaves no room for an answer loses its beginning, after the token that begins a text.

        Args:
            batch_size: prompts at a time; those of similar length go together.
            template: what writes prompts that are turns; None: the tokenizer's own, and without one they are text.
            progress: called with the number of prompts done since the last call.
            draft: proposes tokens, as for ``generate``: the answers stay the same.
        """
        from llama_minimal.chat import chat_template
        from llama_minimal.generation import generate

        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if template is None and any("messages" in one.extra for one in examples):
            template = chat_template(tokenizer)
        stop = list(self.stop) + ([end] if template and (end := template.turn_end()) else [])
        ids = [_fitting(model, tokenizer, self._ids(tokenizer, one, template), self.max_new_tokens) for one in examples]
        written = [""] * len(ids)
        for batch in by_length(ids, batch_size):
            prompts = [ids[i] for i in batch]
            options = {"max_new_tokens": self.max_new_tokens, "stop": stop, "draft": draft}
            done = generate(model, tokenizer, prompts, **options)
            for i, completion in zip(batch, done, strict=True):
                written[i] = completion.text.strip()
            if progress:
                progress(len(batch))
        return written

    def _ids(self, tokenizer: "TextCodec", example: Example, template: "ChatTemplate | None") -> list[int]:
        if template and "messages" in example.extra:
            return template.encode(example.extra["messages"], reply=True)
        from llama_minimal.generation import encode_prompt

        return encode_prompt(tokenizer, example.prompt)

    def evaluate(self, model: "Llama", tokenizer: "TextCodec", examples: Sequence[Example], **options: Any) -> Result:
        """Return what a model writes after each prompt, and its score; options are those of ``predict``."""
        predictions = self.predict(model, tokenizer, examples, **options)
        return Result(self.score(predictions, examples), predictions)


def check_request(n: int, split: str) -> None:
    """Refuse a number of examples or a split that cannot be.

    Raises:
        ValueError: naming what is allowed.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n={n!r} examples; give a whole number of at least 1")
    if split not in get_args(Split):
        raise ValueError(f"split={split!r} is not one of {', '.join(get_args(Split))}")


def take(n: int, make: Callable[[Story], Sequence[Example]], *, split: str, seed: int) -> list[Example]:
    """Return n examples from stories of a split, in the order of the stories.

    Which split a story is in follows from who and what is in it: two equal stories are in the same one.

    Args:
        make: story → its examples, none or several.
    """
    check_request(n, split)
    found: list[Example] = []
    for story in split_stories(split, seed):
        found += make(story)
        if len(found) >= n:
            return found[:n]
    raise ValueError(f"the valley has only {len(found)} examples of this kind, not n={n}")


def split_stories(split: str, seed: int) -> Any:
    """Yield the stories of a split without end: those that no training of the course model has read.

    The valley's own split "train" is cut in two by the casts: an eighth of them is for validation.
    """
    from zlib import crc32

    settings = ValleySettings(seed=FIRST_SEED + seed)
    for story in stories(2**31, settings, split="test" if split == "test" else "train"):
        cast = "|".join(("validation", *story.characters, *story.things, *story.places))
        if split == "test" or (crc32(cast.encode()) % 8 == 0) == (split == "validation"):
            yield story


def by_kind(
    metric: str,
    measure: Callable[[list[str], list[tuple[str, ...]]], float],
    predictions: Sequence[str],
    examples: Sequence[Example],
    **others: Callable[[list[str], list[tuple[str, ...]]], float],
) -> Scores:
    """Return a score over all examples, further scores, and the first one by kind, in alphabetical order.

    Args:
        measure: predictions and the right answers of each → 0 to 100.
        others: name → such a measure; ``_`` in a name becomes a space.

    Raises:
        ValueError: if there is not a prediction for every example.
    """
    if len(predictions) != len(examples) or not examples:
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples; give one for each")
    texts, answers = [text.strip() for text in predictions], [one.answers for one in examples]
    scores = {metric: measure(texts, answers)}
    scores |= {name.replace("_", " "): other(texts, answers) for name, other in others.items()}
    for kind in sorted({one.kind for one in examples}):
        rows = [i for i, one in enumerate(examples) if one.kind == kind]
        scores[kind] = measure([texts[i] for i in rows], [answers[i] for i in rows])
    return scores


def same(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Return how many of a hundred predictions are a right answer, character by character."""
    pairs = list(zip(predictions, answers, strict=True))
    return 100 * sum(text in right for text, right in pairs) / len(pairs)


def _fitting(model: "Llama", tokenizer: "TextCodec", ids: list[int], room: int) -> list[int]:
    longest = max(1, model.config.max_seq_len - room)
    if len(ids) <= longest:
        return ids
    start = ids[:1] if ids[0] == tokenizer.bos_id and longest > 1 else []
    return start + ids[len(ids) - longest + len(start) :]
