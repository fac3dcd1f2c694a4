"""Part III in one table: what each way to a smaller or quicker model saves, and what it costs.

Six rows are trained before they are measured: ``python -m llama_minimal.course.part_three train``, less than ten
minutes of one core. Measuring all rows takes about as long.
"""

import statistics
import time
from collections.abc import Callable

import torch

from llama_minimal.adaptive_computation import EarlyExit, read_with_exits
from llama_minimal.applications import application
from llama_minimal.course import part_three
from llama_minimal.course.card import held_out, story_loss
from llama_minimal.course.part_three import Candidate
from llama_minimal.evaluation import Evaluation
from llama_minimal.generation import generate
from llama_minimal.loss import next_token_loss

WHAT = "The course model as it is, in fewer bits, pruned, distilled, with shared parts, and decoded in other ways."
BUDGET = (
    "Rows that are trained: 100 steps of 4 × 512 tokens, AdamW, at one rate for all, which is not each one's best. "
    "Early exit: the model frozen, a matrix at each exit, as in chapter 18. Perplexity of 60 held-out stories, 64 "
    "stories to write, 128 questions; speed: the median of five repeats on two threads, batch 1, beside the float32 "
    "model. One seed."
)
CHECK = {"measure": "perplexity", "row": "int8"}
STORIES, WRITTEN, QUESTIONS = 60, 64, 128
PROMPTS, LENGTH, REPEATS, THREADS = 4, 100, 5, 2
MEASURES = ("perplexity", "stories", "questions", "speed")

POINTS = [{"measure": measure, "row": row} for measure in MEASURES for row in part_three.ROWS]


def run(*, measure: str, row: str) -> dict[str, float]:
    """Return one kind of figures of a row: bytes and perplexity, consistent stories, right answers, or speed."""
    candidate = part_three.load(row)
    measures: dict[str, Callable[[Candidate], dict[str, float]]] = {
        "perplexity": perplexity,
        "stories": lambda given: {"consistent": score("generation", given, WRITTEN)},
        "questions": lambda given: {"exact_match": score("question_answering", given, QUESTIONS)},
        "speed": speed,
    }
    return measures[measure](candidate)


def perplexity(candidate: Candidate) -> dict[str, float]:
    """Return the bytes of the weights, the perplexity of held-out stories, and the layers that a token goes through."""
    texts, tokenizer = [story.text() for story in held_out(STORIES)], candidate.tokenizer
    if isinstance(candidate.model, EarlyExit):
        found = exit_perplexity(candidate.model, tokenizer.encode_batch(texts, bos=True, eos=True))
    else:
        found = {"perplexity": story_loss(candidate.model, tokenizer, texts)["perplexity"]}
        found["layers"] = candidate.model.config.n_layers
    return {"bytes": candidate.weight_bytes} | found


@torch.inference_mode()
def exit_perplexity(model: EarlyExit, ids: list[list[int]], *, batch_size: int = 50) -> dict[str, float]:
    """Return the perplexity of texts that are read token by token, each left at its exit, and the layers used."""
    total = count = depth = 0.0
    for begin in range(0, len(ids), batch_size):
        rows = [torch.tensor(row) for row in ids[begin : begin + batch_size]]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, T)
        real = torch.tensor([[t < len(row) for t in range(1, tokens.size(1))] for row in rows]).float()
        logits, depths = read_with_exits(model, tokens[:, :-1])
        part, n = next_token_loss(logits, tokens[:, 1:], real)
        total, count, depth = total + float(part), count + float(n), depth + float((depths * real).sum())
    return {"perplexity": Evaluation(total=total, n_tokens=count).perplexity, "layers": depth / count}


def score(name: str, candidate: Candidate, n: int) -> float:
    """Return the main score of an application on n test examples, in percent; answers are greedy."""
    task = application(name)
    tests = task.examples(n, split="test")
    predictions = task.predict(candidate.model, candidate.tokenizer, tests, draft=candidate.draft)
    return task.score(predictions, tests)[task.metric]


def speed(candidate: Candidate) -> dict[str, float]:
    """Return the tokens per second of writing stories one at a time, and the tokens that a pass of the model writes.

    The float32 model takes its turn in every repeat: what else the machine does slows both down.
    """
    plain = part_three.load("fp32")
    prompts = [plain.tokenizer.encode(story.tell()[0].text, bos=True) for story in held_out(PROMPTS)]
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        write(candidate, prompts), write(plain, prompts)  # to warm up
        turns = [(write(candidate, prompts), write(plain, prompts)) for _ in range(REPEATS)]
    finally:
        torch.set_num_threads(before)
    ours, theirs = ([n / seconds for n, _, seconds in column] for column in zip(*turns, strict=True))
    n, passes, _ = turns[0][0]
    return {
        "tokens_per_second": statistics.median(ours),
        "slowest_tokens_per_second": min(ours),
        "fastest_tokens_per_second": max(ours),
        "fp32_tokens_per_second": statistics.median(theirs),
        "tokens_per_pass": n / passes,
    }


def write(candidate: Candidate, prompts: list[list[int]]) -> tuple[int, int, float]:
    """Write after one prompt after the other; return the tokens, the passes of the model, and the seconds."""
    started = time.perf_counter()
    done = [
        generate(candidate.model, None, [prompt], max_new_tokens=LENGTH, draft=candidate.draft)[0] for prompt in prompts
    ]
    seconds = time.perf_counter() - started
    return sum(len(one.tokens) for one in done), sum(1 + len(one.accepted) for one in done), seconds
