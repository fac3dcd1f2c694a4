"""Text to distill from: written by the teacher once, or by the student itself while it learns."""

# B batch, T time, R rows of written text

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from llama_minimal.beams import beam_search
from llama_minimal.config.checks import check_integer, check_number, check_seed
from llama_minimal.data import EncodedExample
from llama_minimal.distillation.objectives import Distillation, whole
from llama_minimal.generation import decode
from llama_minimal.loss import IGNORE, Batch
from llama_minimal.model import Llama
from llama_minimal.observing import reading
from llama_minimal.prompts import as_ids, by_length
from llama_minimal.settings import GREEDY, Sampling

Ids = Sequence[int]
_KEYS = (b"share", b"draws")


def teacher_writes(
    teacher: Llama,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling = GREEDY,
    beam_size: int | None = None,
    stop_ids: Ids | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> list[EncodedExample]:
    """Let the teacher continue prompts: examples from which a student learns by the next-token loss.

    That makes the student's distribution of whole texts like the teacher's, where soft targets compare token by token.

    Args:
        prompts: token ids each.
        max_new_tokens: the most to write after a prompt.
        sampling: how the teacher chooses.
        beam_size: search for the likeliest continuation instead, with so many beams, as the source does.
        stop_ids: tokens that end a text; None means those of the teacher's checkpoint. The one that came is learned.
        seed: prompt i is continued with seed + i.
        batch_size: prompts to continue at once.

    Returns:
        One example a prompt, in order: nothing is learned of the prompt, everything of what the teacher wrote.

    Raises:
        ValueError: if a prompt cannot be continued (see ``generate``), or beams are to be sampled.

    Source: Kim and Rush 2016, "Sequence-level knowledge distillation".
    """
    prompts, seed = [as_ids(prompt) for prompt in prompts], check_seed(seed)
    stops = as_ids((teacher.eos_ids or ()) if stop_ids is None else stop_ids, what="stop_ids")
    if beam_size is not None:
        if sampling != GREEDY:
            raise ValueError("a beam search looks for the likeliest text, and does not sample; leave out one of them")
        size = check_integer("beam_size", beam_size)
        written = [_best_beam(teacher, prompt, max_new_tokens, size, stops) for prompt in prompts]
    else:
        written = [[]] * len(prompts)
        for places in by_length(prompts, check_integer("batch_size", batch_size)):
            seeds, some = [seed + i for i in places], [prompts[i] for i in places]
            limits = [min(max_new_tokens, teacher.config.max_seq_len - len(prompt)) for prompt in some]
            for i, new in zip(places, _write(teacher, some, limits, sampling, seeds, stops), strict=True):
                written[i] = new
    pairs = zip(prompts, written, strict=True)
    return [EncodedExample([*prompt, *new], [False] * len(prompt) + [True] * len(new)) for prompt, new in pairs]


class OnPolicyDistillation:
    """Let the student write, and learn from what the teacher would have thought at each of its tokens.

    A student that has only read good text does not know how to go on from its own mistakes. Here it sees them. The
    gradient goes through the student's distributions, not through its choice of tokens.

    Which prompts it continues, and with what random numbers, depends on seed and prompt alone: not on how a batch is
    divided among micro-batches and processes, nor on a resumption. A prompt that comes again gets the same numbers.

    Args:
        distillation: how teacher and student are compared; of what the student writes, the teacher alone counts.
        prompt_tokens: of a row of text, how many of its first tokens are the prompt; in a row of packed examples each
            example's prompt is what is not learned.
        share: of the rows (or examples) that the student continues itself; the others are read as they are.
        max_new_tokens: the most to write; None means up to the length of a row.
        sampling: how the student chooses.
        stop_ids: tokens that end a text; None means those of the student's checkpoint.
        seed: of the choices.

    Raises:
        ValueError: if a value is not allowed.

    Source: Agarwal et al. 2023, "On-policy distillation of language models" (GKD).
    """

    def __init__(
        self,
        distillation: Distillation,
        *,
        prompt_tokens: int = 1,
        share: float = 1.0,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop_ids: Ids | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(distillation, Distillation):
            raise ValueError(
                f"distillation is a {type(distillation).__name__}, and must be a Distillation: the teacher has to read "
                f"what the student writes, and a cache knows other text"
            )
        self.distillation, self.seed = distillation, check_seed(seed)
        self.prompt_tokens = check_integer("prompt_tokens", prompt_tokens)
        self.max_new_tokens = None if max_new_tokens is None else check_integer("max_new_tokens", max_new_tokens)
        self.share = check_number("share", share, at_least=0.0)
        if self.share > 1:
            raise ValueError(f"share={share} must be from 0, all text as it is, to 1, all written by the student")
        self.sampling = sampling or Sampling(temperature=1.0)
        self.stop_ids = stop_ids

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed loss of a batch of which the student has written a part, and how many targets count."""
        if not torch.is_grad_enabled():
            return self.distillation(model, batch)
        student = whole(model)
        if hasattr(next(student.parameters()), "full_tensor"):
            raise ValueError("a student whose weights are spread over processes cannot write; leave out shard")
        return self.distillation(model, *self.rewrite(student, batch))

    def rewrite(self, student: Llama, batch: Batch) -> tuple[Batch, Tensor]:
        """Return a batch in which the student has written its share, in rows at the end, and the teacher's weights.

        Returns:
            inputs, targets and, if they were there, documents, (R, T); and weights (R, T).
        """
        inputs, targets, *documents = batch[:3]
        chosen = self._choose(student, batch)
        kept = targets.clone()
        for row, place, _, _ in chosen:
            kept[row, place] = IGNORE
        old = (kept != IGNORE).any(1)
        if not chosen and not old.any():
            old[0] = True  # a batch needs a row
        prompts, seeds = ([each[i] for each in chosen] for i in (2, 3))
        written = self._write(student, prompts, seeds, T=inputs.size(1))
        new = [part.to(inputs.device) for part in _as_rows(prompts, written, T=inputs.size(1))]
        parts = [torch.cat((before[old], after)) for before, after in zip((inputs, kept), new, strict=True)]
        if documents:
            parts.append(torch.cat((documents[0][old], documents[0].new_ones(new[0].shape))))
        weights = torch.ones(parts[0].shape, device=inputs.device)
        weights[: int(old.sum())] = self.distillation.config.weight
        return tuple(parts), weights

    def _choose(self, student: Llama, batch: Batch) -> list[tuple[int, slice, list[int], int]]:
        """Return what the student is to write itself: row, place, prompt, and a seed."""
        chosen = []
        for row, place, prompt in self._prompts(*batch[:3]):
            text = f"{self.seed} {prompt}".encode()
            draw, number = (int.from_bytes(hashlib.blake2b(text, digest_size=7, key=k).digest()) for k in _KEYS)
            if draw < self.share * (1 << 56) and len(prompt) < student.config.max_seq_len:
                chosen.append((row, place, prompt, number))
        return chosen

    def _prompts(
        self, inputs: Tensor, targets: Tensor, documents: Tensor | None = None
    ) -> Iterator[tuple[int, slice, list[int]]]:
        """Yield row, place and prompt of each text, or each example with something to learn."""
        if documents is None and self.prompt_tokens >= inputs.size(1):
            raise ValueError(
                f"prompt_tokens={self.prompt_tokens} leave no room in rows of {inputs.size(1)} tokens; give fewer"
            )
        for row, tokens in enumerate(inputs.tolist()):
            if documents is None:
                yield row, slice(None), tokens[: self.prompt_tokens]
                continue
            learned = (targets[row] != IGNORE).tolist()
            for number, start, stop in _runs(documents[row].tolist()):
                first = next((t for t in range(start, stop) if learned[t]), None)
                if number and first is not None:
                    yield row, slice(start, stop), tokens[start : first + 1]

    def _write(self, student: Llama, prompts: list[list[int]], seeds: list[int], *, T: int) -> list[list[int]]:
        limits = [min(self.max_new_tokens or T, T + 1 - len(prompt)) for prompt in prompts]
        stops = as_ids((student.eos_ids or ()) if self.stop_ids is None else self.stop_ids, what="stop_ids")
        return _write(student, prompts, limits, self.sampling, seeds, stops)


def _write(
    model: Llama, prompts: list[list[int]], limits: list[int], sampling: Sampling, seeds: list[int], stops: list[int]
) -> list[list[int]]:
    """Return what a model writes after each prompt, a stop id included, and not more than each limit."""
    texts: list[list[int]] = [[] for _ in prompts]
    unfinished = set(range(len(prompts)))
    if not prompts:
        return texts
    # In the precision of the weights, as whoever uses the model has it write, whatever training multiplies in.
    with reading(model), torch.autocast(model.device.type, enabled=False):
        for written in decode(model, prompts, max_new_tokens=max(limits), sampling=sampling, seed=seeds):
            for i in tuple(unfinished):
                (token,) = written[i].tokens
                texts[i].append(token)
                if token in stops or len(texts[i]) == limits[i]:
                    unfinished.remove(i)
            if not unfinished:
                break
    return texts


def _best_beam(model: Llama, prompt: list[int], limit: int, beam_size: int, stops: list[int]) -> list[int]:
    best = beam_search(model, prompt, beam_size=beam_size, max_new_tokens=limit, stop_ids=stops)[0]
    # A beam does not say which id ended it; models have one, or it is the first.
    return best.tokens + (stops[:1] if best.finish_reason == "stop" else [])


def _as_rows(prompts: list[list[int]], written: list[list[int]], *, T: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (R, T): what was written is to be learned, the prompts and what fills up are not."""
    inputs = torch.zeros(len(prompts), T, dtype=torch.int64)
    targets = torch.full_like(inputs, IGNORE)
    for row, (prompt, new) in enumerate(zip(prompts, written, strict=True)):
        text = torch.tensor([*prompt, *new])
        inputs[row, : len(text) - 1] = text[:-1]
        targets[row, len(prompt) - 1 : len(text) - 1] = text[len(prompt) :]
    return inputs, targets


def _runs(numbers: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield each run of equal numbers: the number, where it starts and where it stops."""
    start = 0
    for number, run in groupby(numbers):
        yield number, start, (start := start + len(tuple(run)))
