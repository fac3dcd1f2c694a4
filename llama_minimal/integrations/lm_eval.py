"""lm-eval, the evaluation harness of many papers, on a model of ours.

    pip install 'llama_minimal[lm-eval]'
    python -m llama_minimal.integrations.lm_eval course --tasks valley_questions valley_names_zh

measures without a download; any other task of lm-eval's it will download. In Python, ``evaluate`` is the same; once
this is imported, ``lm_eval.simple_evaluate(model="llama_minimal", model_args="path=course", …)`` knows our models.

Source: Gao et al. 2021, "A framework for few-shot language model evaluation", its release 0.4.13.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn
from tqdm import tqdm

from llama_minimal.chat import chat_template as _template_of  # a method of lm-eval's has the name
from llama_minimal.checkpoint import load
from llama_minimal.generation import generate
from llama_minimal.integrations.likelihood import Row, encode_pair, encode_text, score, windows
from llama_minimal.integrations.quiet import bars_for_terminals, quiet
from llama_minimal.model import Llama
from llama_minimal.prompts import by_length
from llama_minimal.settings import Sampling
from llama_minimal.tokenizer import TextCodec

try:
    import lm_eval.api.task
    import lm_eval.models  # before ours is registered: else lm-eval takes ours for all there are
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ImportError("lm-eval is not installed; run: pip install 'llama_minimal[lm-eval]'") from error

TASKS = Path(__file__).with_name("lm_eval_tasks")
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of one thing
_KNOWN = {"until", "do_sample", "temperature", "top_k", "top_p", "min_p", *_LIMITS}


@register_model("llama_minimal")
class LlamaLM(LM):
    """Be a model to lm-eval.

    Args:
        path: a folder, a hub id, or ``course``, as for ``checkpoint.load``; or a ``Llama`` itself.
        tokenizer: with a model given, its tokenizer.
        batch_size: rows at a time; those of similar length go together.
        stride: of ``loglikelihood_rolling``, as of ``evaluation.sliding_batches``; None: the context, and no window
            overlaps.
        options: for ``checkpoint.load``: device, dtype, adapter, quantize.

    Raises:
        ValueError: if there is no tokenizer, or it has no token that a text could begin with.
    """

    def __init__(
        self,
        path: str | Path | Llama = "course",
        tokenizer: TextCodec | None = None,
        *,
        batch_size: int | str = 16,
        max_batch_size: object = None,
        stride: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size!r} must be a whole number of at least 1, such as 16")
        self.model, self.tokenizer = (path, tokenizer) if isinstance(path, nn.Module) else load(path, **options)
        if self.tokenizer is None:
            raise ValueError(f"{path if isinstance(path, str | Path) else 'the model'} has no tokenizer; give one")
        self.batch_size, self.stride = int(batch_size), stride
        self.context = self.model.config.max_seq_len
        self.start = encode_text(self.tokenizer, "")
        self._is_chat = False
        self.model.eval()

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return log p(continuation | context) in nats, and whether greedy writing would give the continuation.

        Args:
            requests: their ``args`` are (context, continuation).
        """
        rows = [self._row(*request.args) for request in requests]
        scored = score(self.model, rows, batch_size=self.batch_size, what="scoring answers")
        for request, result in zip(requests, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return scored

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-likelihood of whole texts in nats: −total of ``evaluation.sum_loss`` over sliding windows.

        Args:
            requests: their ``args`` are (text,).
        """
        rows, owner = [], []
        for i, (text,) in enumerate(request.args for request in requests):
            parts = windows(self._begin(text), size=self.context, stride=self.stride)
            rows, owner = rows + parts, owner + [i] * len(parts)
        totals = [0.0] * len(requests)
        scored = score(self.model, rows, batch_size=self.batch_size, what="scoring texts")
        for i, (total, _) in zip(owner, scored, strict=True):
            totals[i] += total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return what the model writes after each context.

        Args:
            requests: their ``args`` are (context, options); of the options ``until``, ``max_gen_toks`` (256 unless
                told), ``do_sample``, ``temperature``, ``top_k``, ``top_p`` and ``min_p`` are known.

        Raises:
            ValueError: if an option is another.
        """
        written = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(i)
        with tqdm(total=len(requests), desc="writing", unit="text", leave=False, disable=None) as bar:
            for places in groups.values():
                options = _generation(requests[places[0]].args[1])
                room = options["max_new_tokens"]
                prompts = [self._shortened(self._begin(requests[i].args[0]), room) for i in places]
                for batch in by_length(prompts, self.batch_size):
                    done = generate(self.model, self.tokenizer, [prompts[j] for j in batch], **options)
                    for j, completion in zip(batch, done, strict=True):
                        request, written[places[j]] = requests[places[j]], completion.text
                        self.cache_hook.add_partial("generate_until", request.args, completion.text)
                    bar.update(len(batch))
        return written

    def _begin(self, text: str) -> list[int]:
        return encode_text(self.tokenizer, text, allow_special=self._is_chat)

    def _row(self, context: str, continuation: str) -> Row:
        before, ids = encode_pair(self.tokenizer, context, continuation, allow_special=self._is_chat)
        # The last token is a target alone, and needs no place in the context.
        return Row(self._shortened(before, len(ids) - 1) + ids, len(ids))

    def _shortened(self, ids: list[int], room: int) -> list[int]:
        """Return ids that leave room for so many tokens: the beginning of a text, and its end."""
        most = self.context - room
        if len(ids) <= most:
            return ids
        if most <= len(self.start):
            raise ValueError(f"an answer of {room} tokens leaves the context of {self.context} no room for a question")
        warnings.warn(f"the beginning of a question of {len(ids)} tokens is left out: {most} have room", stacklevel=3)
        return [*self.start, *ids[len(ids) - most + len(self.start) :]]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return turns as the model's chat template writes them. Names of special tokens are read as such then."""
        template = _template_of(self.tokenizer)
        if template is None:
            raise ValueError("the model has no chat template; leave out apply_chat_template")
        self._is_chat = True
        return template.render(chat_history, reply=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the source of the template, which lm-eval writes down with the results."""
        found = _template_of(self.tokenizer) if chat_template else None
        return found.source if found else ""

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer from others, in lm-eval's own cache."""
        return self.tokenizer.fingerprint


def _generation(options: dict[str, Any]) -> dict[str, Any]:
    """Return lm-eval's names for how to write as those of ``generate``."""
    if unknown := sorted(set(options) - _KNOWN):
        raise ValueError(f"generation_kwargs has {', '.join(unknown)}; known are {', '.join(sorted(_KNOWN))}")
    until = options.get("until") or []
    limit = next((options[name] for name in _LIMITS if name in options), 256)
    temperature = float(options.get("temperature", 1.0 if options.get("do_sample") else 0.0))
    is_drawn = options.get("do_sample", temperature > 0) and temperature > 0
    filters = {name: options[name] for name in ("top_k", "top_p", "min_p") if options.get(name) and is_drawn}
    sampling = Sampling(temperature=temperature if is_drawn else 0.0, **filters)
    return {"max_new_tokens": int(limit), "stop": [until] if isinstance(until, str) else until, "sampling": sampling}


def evaluate(
    path: str | Path | Llama,
    tasks: Sequence[str | dict[str, Any]] = ("valley_questions", "valley_names_zh"),
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return what lm-eval measures of a model: by task, then by metric, as ``{"valley_questions": {"acc": 0.5}}``.

    The random generators of Python, NumPy and PyTorch stay as they are, which lm-eval would seed.

    Args:
        path: as for ``LlamaLM``, which takes the options, too.
        tasks: names; those of this package need no network.
        limit: ask so many of each task.
        num_fewshot: examples before each question; None: as the task says.

    Raises:
        ValueError: if there is no task of a name, or the model cannot be measured.
    """
    ours = sorted(one.stem for one in TASKS.glob("*.yaml"))
    # lm-eval's own tasks are some thousand files, which take seconds to list.
    manager = TaskManager(include_path=str(TASKS), include_defaults=not set(map(str, tasks)) <= set(ours))
    if unknown := [name for name in tasks if isinstance(name, str) and name not in manager.all_tasks]:
        raise ValueError(f"task {unknown[0]!r} is none of lm-eval's, and of ours there are {', '.join(ours)}")
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"))
    how = {"limit": limit, "num_fewshot": num_fewshot, "task_manager": manager, "bootstrap_iters": 0}
    # It also notes the commit of the folder that it runs in, and lets git complain of one that has none.
    no_commit = mock.patch.object(lm_eval.evaluator, "get_git_commit_hash", return_value=None)
    with quiet("lm_eval"), bars_for_terminals(lm_eval.api.task), no_commit:
        found = simple_evaluate(LlamaLM(path, **options), tasks=list(tasks), **how, **seeds)
    return {task: _plain(scores) for task, scores in found["results"].items()}


def _plain(scores: dict[str, Any]) -> dict[str, float]:
    """Return scores by the metric's name: lm-eval writes the filter behind it, and a standard error beside it."""
    numbers = {name.partition(",")[0]: value for name, value in scores.items() if "," in name}
    return {name: float(value) for name, value in numbers.items() if not name.endswith("_stderr")}


def main(args: Sequence[str] | None = None) -> None:
    """Measure a model by the command line, and print a line for each number."""
    parser = argparse.ArgumentParser(prog="python -m llama_minimal.integrations.lm_eval", description=evaluate.__doc__)
    parser.add_argument("model", help="folder of a model, a hub id, or: course")
    parser.add_argument("--tasks", nargs="+", default=["valley_questions", "valley_names_zh"], help="names of tasks")
    parser.add_argument("--limit", type=int, help="ask so many of each task")
    parser.add_argument("--num-fewshot", type=int, help="examples before each question")
    parser.add_argument("--batch-size", type=int, default=16, help="rows at a time")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--adapter", help="folder of an adapter, or the name of one that comes with the model")
    flags = vars(parser.parse_args(args))
    for task, scores in evaluate(flags.pop("model"), **flags).items():
        for metric, value in scores.items():
            print(f"{task:20} {metric:14} {value:.4f}")


if __name__ == "__main__":
    main()
