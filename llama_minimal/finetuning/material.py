"""What a fine-tuning starts from: a base model, a file of examples that was looked at, and its three parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from llama_minimal.chat import ChatTemplate, chat_template, set_chat_template
from llama_minimal.checkpoint import load
from llama_minimal.data import documents, sequential_batches
from llama_minimal.data.packing import PackedExamples
from llama_minimal.data.valley import ValleySettings, stories
from llama_minimal.devices import find_device
from llama_minimal.evaluation import Evaluation, sum_loss
from llama_minimal.finetuning.asking import Asking
from llama_minimal.finetuning.checking import Findings, check_examples
from llama_minimal.finetuning.examples import read_numbered
from llama_minimal.finetuning.grouping import Task, recognize
from llama_minimal.finetuning.methods import with_output
from llama_minimal.finetuning.splitting import Split, split_examples
from llama_minimal.lora import refuse_adapters
from llama_minimal.model import Llama
from llama_minimal.quantization import refuse_quantized
from llama_minimal.tokenizer import TextCodec

Say = Callable[[str], object]
"""Called with a line that a user should read."""

_FEW = 500  # examples, of which larger shares are needed to choose and to test
_SHARES = {True: (0.7, 0.15, 0.15), False: (0.8, 0.1, 0.1)}
_REPLAYED = 2_000_000  # characters of a replayed corpus, at most
_FORGETTING_STORIES, _FORGETTING_TOKENS = 60, 16_384
_STORY_SEED = 1000  # of stories that no model has read


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Hold a text of the kind that the base model has read, as tokens."""

    name: str
    ids: np.ndarray
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Hold what all trainings share; nothing of it changes."""

    path: Path
    base_name: str
    base: Llama
    task: Task
    asking: Asking
    split: Split
    findings: tuple[str, ...]
    train: PackedExamples
    validation: PackedExamples
    replay: np.ndarray | None
    held_out: Text | None

    @property
    def kind(self) -> str:
        """labels, pairs or chat."""
        return self.task.kind

    @property
    def n_examples(self) -> int:
        """How many examples there are in all parts together."""
        return sum(len(part) for part in (self.split.train, self.split.validation, self.split.test))


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        FileNotFoundError: if there is none.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one file of examples")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    return sha256(path.read_bytes()).hexdigest()


def gather(
    data: str | Path,
    base: str | Path,
    *,
    seed: int,
    template: Path | None = None,
    replay: str | None = None,
    device: str | None = None,
    say: Say = lambda line: None,
) -> Material:
    """Read examples and a base model, look at both, and divide the examples.

    Raises:
        FileNotFoundError: if there is no such file or model.
        ValueError: if the file cannot be read, or a finding says that no training makes sense.
    """
    path = Path(data).expanduser()
    examples, lines = read_numbered(path)
    task = recognize(examples)
    say(f"{path}: {task.sentence}")
    model, tokenizer = _base(base, device)
    if replay and task.kind == "labels":
        raise ValueError("--replay is text to write, and a model of labels writes none; leave it out")
    turns, most = _template(task, tokenizer, template), model.config.max_seq_len
    found = check_examples(examples, tokenizer=tokenizer, max_tokens=most, template=turns, lines=lines)
    split, findings = _divided(path, found, seed=seed, say=say)
    asking = Asking.like(task, found.kept, tokenizer, template=turns)
    replayed, held_out = _texts(base, replay, tokenizer)
    return Material(
        path=path,
        base_name=str(base),
        base=model,
        task=task,
        asking=asking,
        split=split,
        findings=findings,
        train=asking.pack(split.train, at_most=most),
        validation=asking.pack(split.validation, at_most=most),
        replay=replayed,
        held_out=held_out,
    )


def _divided(path: Path, found: Findings, *, seed: int, say: Say) -> tuple[Split, tuple[str, ...]]:
    """Return the three parts, and all that a user should know about the examples."""
    if found.stops:
        raise ValueError(f"{path}: {' '.join(_sentence(finding.sentence) for finding in found.stops)}")
    split = split_examples(found.kept, seed=seed, shares=_SHARES[len(found.kept) < _FEW])
    findings = tuple(map(_sentence, (*(finding.sentence for finding in found.found), *split.notes)))
    for finding in findings:
        say(f"  {finding}")
    sizes = [len(part) for part in (split.train, split.validation, split.test)]
    say("{:,} examples to train on, {:,} to choose by, {:,} to test on; the search does not see these".format(*sizes))
    return split, findings


def _base(name: str | Path, device: str | None) -> tuple[Llama, TextCodec]:
    model, tokenizer = load(name, dtype=torch.float32, device=find_device(device))
    refuse_adapters(model, "tune the weights")
    refuse_quantized(model, f"tune {name}")
    if tokenizer is None:
        raise ValueError(f"{name} has no tokenizer; put the model's tokenizer there")
    if model.config.labels:
        raise ValueError(f"{name} tells labels apart and does not write text; give the model that it was made from")
    return model, tokenizer


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _template(task: Task, tokenizer: TextCodec, path: Path | None) -> ChatTemplate | None:
    if path is not None and task.kind != "chat":
        raise ValueError(f"--template is for conversations, and the file holds {task.kind}; leave it out")
    if path is not None:
        return set_chat_template(tokenizer, path.read_text(encoding="utf-8"))
    if task.kind != "chat":
        return None
    found = chat_template(tokenizer)
    if found is None:
        raise ValueError("the file holds conversations, and the base model has no chat template; give one: --template")
    return found


def _texts(base: str | Path, replay: str | None, tokenizer: TextCodec) -> tuple[np.ndarray | None, Text | None]:
    """Return text to train on once more, and text on which to measure what was forgotten; None where there is none."""
    if replay is not None:
        pieces, left = [], _REPLAYED
        for document in documents(replay):
            pieces.append("".join(document.chunks())[:left])
            left -= len(pieces[-1])
            if left <= 0:
                break
        kept, last = _last_tenth(pieces)
        return _encoded(tokenizer, kept), _text(f"a tenth of {replay} that was held out", last, tokenizer)
    if str(base) != "course":
        return None, None
    unread = stories(_FORGETTING_STORIES, ValleySettings(seed=_STORY_SEED), split="test")
    return None, _text("stories that the base model has not read", [one.text() for one in unread], tokenizer)


def _last_tenth(pieces: Sequence[str]) -> tuple[list[str], list[str]]:
    if len(pieces) > 9:
        cut = len(pieces) - len(pieces) // 10
        return list(pieces[:cut]), list(pieces[cut:])
    text = "\n\n".join(pieces)
    cut = len(text) - len(text) // 10
    if cut == len(text):
        raise ValueError(f"--replay holds {len(text)} characters, too few to hold any out; give a longer text")
    return [text[:cut]], [text[cut:]]


def _text(name: str, pieces: Sequence[str], tokenizer: TextCodec) -> Text:
    kept, n_tokens = [], 0
    for piece in pieces:
        kept.append(piece)
        n_tokens += len(tokenizer.encode(piece))
        if n_tokens >= _FORGETTING_TOKENS:
            break
    return Text(name=name, ids=_encoded(tokenizer, kept), n_bytes=sum(len(piece.encode()) for piece in kept))


def _encoded(tokenizer: TextCodec, pieces: Sequence[str]) -> np.ndarray:
    return np.array([token for piece in pieces for token in (*tokenizer.start_ids, *tokenizer.encode(piece))])


def bits_per_byte(material: Material, model: Llama) -> float | None:
    """Return how well a model predicts text of the kind that its base has read; None if there is no such text.

    A model of labels writes no text: its body is measured with the base's output layer.
    """
    text = material.held_out
    if text is None:
        return None
    if model.config.labels:
        model = with_output(model, material.base.output, material.base.config)
    seq_len = min(model.config.max_seq_len, 512)
    batches = sequential_batches(text.ids, batch_size=8, seq_len=seq_len)
    total, count = sum_loss(model, batches, device=model.device)
    return Evaluation(total=total, n_tokens=count, n_bytes=text.n_bytes).bits_per_byte
