"""Ask a model for the answers of examples, and score what it says: labels, completions, the last turn of a chat."""

# B rows, T tokens of the longest, V vocabulary

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from llama_minimal.chat import ChatTemplate
from llama_minimal.data.packing import PackedExamples, best_fit
from llama_minimal.finetuning.encoding import encode_examples
from llama_minimal.finetuning.grouping import Task, answer_of, prompt_of
from llama_minimal.finetuning.kinds import Chat, Example, Pair
from llama_minimal.finetuning.methods import classify
from llama_minimal.generation import encode_prompt, generate
from llama_minimal.model import Llama
from llama_minimal.prompts import by_length
from llama_minimal.retrieval import terms
from llama_minimal.scores import chrf
from llama_minimal.tokenizer import TextCodec

_BATCH = 32
# Words (of Chinese, characters and pairs of them): a median answer of so many or fewer is right or wrong.
_SHORT = 5
_ROW = 512  # tokens: rows are not longer than the longest example or this


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Say how a model is asked, and what its answers are measured by.

    Args:
        kind: labels, pairs or chat.
        labels: in the order of the outputs; empty for pairs and chats.
        metric: accuracy, exact match or chrF.
        max_new_tokens: the most that it may write.
        stop: texts that end an answer.
        template: of chats.
    """

    kind: str
    tokenizer: TextCodec
    labels: tuple[str, ...] = ()
    metric: str = "accuracy"
    max_new_tokens: int = 1
    stop: tuple[str, ...] = ()
    template: ChatTemplate | None = None

    @classmethod
    def like(
        cls, task: Task, examples: Sequence[Example], tokenizer: TextCodec, *, template: ChatTemplate | None = None
    ) -> "Asking":
        """Return how to ask for answers like these."""
        answers = [answer_of(one) for one in examples]
        if task.kind == "labels":
            return cls(kind="labels", tokenizer=tokenizer, labels=tuple(sorted(set(answers))))
        is_short = median(len(terms(answer)) for answer in answers) <= _SHORT
        longest = max(len(tokenizer.encode(answer)) for answer in answers)
        has_lines = any("\n" in (one.completion if isinstance(one, Pair) else answer_of(one)) for one in examples)
        stop = () if has_lines else ("\n",)
        if template is not None:
            end = template.turn_end()
            stop = (end,) if end and end.strip() else ()
        return cls(
            kind=task.kind,
            tokenizer=tokenizer,
            metric="exact match" if is_short else "chrF",
            max_new_tokens=longest + longest // 4 + 4,
            stop=stop,
            template=template,
        )

    def pack(self, examples: Sequence[Example], *, at_most: int) -> PackedExamples:
        """Return examples in rows of the length that leaves the least room empty, and not more than ``at_most``."""
        encoded = encode_examples(self.tokenizer, examples, template=self.template, labels=self.labels or None)
        lengths = [len(one.rows()[0]) for one in encoded]
        longest = max(lengths)
        row_lengths = {min(at_most, max(longest, 64 * n)) for n in range(1, max(longest, _ROW) // 64 + 1)}
        seq_len = min(sorted(row_lengths, reverse=True), key=lambda length: length * len(best_fit(lengths, length)))
        return PackedExamples.pack(encoded, seq_len=seq_len)

    def ask(self, model: Llama, examples: Sequence[Example]) -> list[str]:
        """Return what a model answers, without white space around it."""
        if model.config.labels:
            found = classify(model, self.tokenizer, [prompt_of(one) for one in examples])
            return [max(probabilities, key=lambda label: probabilities[label]) for probabilities in found]
        if self.labels:
            return [self._likeliest(model, prompt_of(one)) for one in examples]
        return self._written(model, examples)

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> tuple[float, ...]:
        """Return 0 to 100 for each answer."""
        pairs = [(given.strip(), answer_of(one)) for given, one in zip(predictions, examples, strict=True)]
        if self.metric == "chrF":
            return tuple(chrf([given], [wanted]) for given, wanted in pairs)
        return tuple(100.0 * (given == wanted) for given, wanted in pairs)

    def _prompt(self, example: Example) -> list[int]:
        if not isinstance(example, Chat):
            return encode_prompt(self.tokenizer, prompt_of(example))
        last = max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
        return self.template.encode(example.messages[:last], reply=True)

    def _written(self, model: Llama, examples: Sequence[Example]) -> list[str]:
        room = max(1, model.config.max_seq_len - self.max_new_tokens)
        prompts = [self._prompt(one)[-room:] for one in examples]
        answers = [""] * len(prompts)
        for which in by_length(prompts, _BATCH):
            options = {"max_new_tokens": self.max_new_tokens, "stop": self.stop}
            found = generate(model, self.tokenizer, [prompts[i] for i in which], **options)
            for i, completion in zip(which, found, strict=True):
                answers[i] = (completion.text or "").strip()
        return answers

    @torch.inference_mode()
    def _likeliest(self, model: Llama, text: str) -> str:
        """Return the label that a model which writes text would most probably go on with."""
        ends = [self.tokenizer.encode(f" {label}") for label in self.labels]
        room = model.config.max_seq_len - max(map(len, ends))
        prompt = encode_prompt(self.tokenizer, f"{text}\nLabel:")[-room:]
        tokens = torch.zeros(len(ends), len(prompt) + max(map(len, ends)), dtype=torch.long)
        for row, end in zip(tokens, ends, strict=True):
            row[: len(prompt) + len(end)] = torch.tensor([*prompt, *end])
        logits = model(tokens.to(model.device))[:, len(prompt) - 1 :].float().log_softmax(-1).cpu()  # (L, ·, V)
        totals = [
            sum(row[i, token].item() for i, token in enumerate(end)) for row, end in zip(logits, ends, strict=True)
        ]
        return self.labels[max(range(len(totals)), key=lambda i: totals[i])]


def spread(examples: Sequence[Example], *, at_most: int) -> list[Example]:
    """Return at most so many examples, evenly from the whole list."""
    n = min(len(examples), at_most)
    return [examples[i * len(examples) // n] for i in range(n)]
