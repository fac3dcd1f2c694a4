"""What a teacher thinks of each token of a text, kept on disk: its k likeliest next tokens, and the rest as one.

A folder of three files: ``ids.npy`` (R, T, k), ``log_probs.npy`` (R, T, k + 1) in float32, the rest last, and
``cache.json``, which says of what text, what teacher, what k and what temperature.
"""

# R rows, T time, k kept tokens, E the teacher's width, V vocabulary

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llama_minimal.chunked_loss import chunk_rows
from llama_minimal.config import read_json
from llama_minimal.config.checks import check_integer, check_number
from llama_minimal.data import PackedExamples
from llama_minimal.distillation.divergences import keep_top
from llama_minimal.files import atomic_folder
from llama_minimal.model import Llama
from llama_minimal.observing import reading

_IDS, _LOG_PROBS, _ABOUT = "ids.npy", "log_probs.npy", "cache.json"
_MAKE_ANEW = "make another with write_cache, in another folder"


@dataclass(frozen=True, slots=True)
class CachedExamples(PackedExamples):
    """Hold examples, and for each token what a teacher thinks comes next; the arrays may be files."""

    ids: NDArray[np.integer]
    """(R, T, k), the likeliest first."""
    log_probs: NDArray[np.floating]
    """(R, T, k + 1), the rest last."""
    temperature: float
    """Of the teacher's softmax."""
    vocab_size: int
    """Tokens among which the teacher chose."""

    def rows(self, which: Any) -> tuple[NDArray, ...]:
        """Return inputs, targets, documents, the teacher's ids and log-probabilities of some rows."""
        top = self.ids[which].astype(np.int64), np.array(self.log_probs[which])
        return *PackedExamples.rows(self, which), *top


def rows_of_text(tokens: NDArray[np.integer], *, seq_len: int) -> PackedExamples:
    """Cut a text into rows of T tokens that stay the same in every epoch, as a cache needs them.

    Args:
        tokens: (n,), with n > T; what is left at the end is left out.
        seq_len: tokens of a row, T.

    Raises:
        ValueError: if the text is shorter than a row and its last target.
    """
    seq_len = check_integer("seq_len", seq_len)
    n_rows = (len(tokens) - 1) // seq_len
    if n_rows < 1:
        raise ValueError(f"the text has {len(tokens)} tokens, too few for a row of seq_len={seq_len} and one more")
    ids = np.asarray(tokens[: n_rows * seq_len + 1], np.int64)
    inputs, targets = (part.reshape(n_rows, seq_len) for part in (ids[:-1], ids[1:]))
    return PackedExamples(inputs, targets, np.ones_like(inputs))


def write_cache(
    teacher: Llama,
    examples: PackedExamples,
    folder: str | Path,
    *,
    k: int = 32,
    temperature: float = 1.0,
    batch_size: int = 16,
) -> CachedExamples:
    """Let a teacher read examples, and keep what it thinks of each token in a new folder.

    Of V logits a token, k + 1 numbers are kept: 4·(k + 1) bytes, and 2·k or 4·k for the ids.

    Args:
        examples: of text, ``rows_of_text`` makes them.
        k: tokens to keep of each, from 1 to V.
        temperature: of the softmax; the student must be trained at the same.
        batch_size: rows to read at once.

    Raises:
        ValueError: if k is not from 1 to V, or the folder is there already.
        OSError: if the disk is full; nothing half-written stays.
    """
    path, n_outputs = Path(folder).expanduser(), teacher.config.n_outputs
    k, temperature = check_integer("k", k), check_number("temperature", temperature)
    if k > n_outputs:
        raise ValueError(f"k={k} is more than the teacher's {n_outputs} outputs; give at most as many")
    if path.exists():
        raise ValueError(f"{path} is there already; open it with open_cache, or give another folder")
    about = {"k": k, "temperature": temperature, "vocab_size": n_outputs}
    about |= {"text": _fingerprint_of_text(examples), "teacher": _fingerprint_of_teacher(teacher)}
    with atomic_folder(path) as temporary:
        _write_arrays(teacher, examples, temporary, k=k, temperature=temperature, batch_size=batch_size)
        (temporary / _ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")
    return open_cache(path, examples)


def open_cache(
    folder: str | Path, examples: PackedExamples, *, teacher: Llama | None = None, k: int | None = None
) -> CachedExamples:
    """Open what ``write_cache`` has written, for the same examples; the numbers stay on disk until they are read.

    Args:
        teacher: also ask whether it is this one's; None takes any.
        k: also ask for so many tokens; None takes any.

    Raises:
        FileNotFoundError: if there is no cache.
        ValueError: if it is of other examples, of another teacher or of another k, or damaged.
    """
    path = Path(folder).expanduser()
    if not (path / _ABOUT).is_file():
        raise FileNotFoundError(f"{path} holds no cache of a teacher (no {_ABOUT}); make one with write_cache")
    about = read_json(path / _ABOUT)
    asked = {"text": (_fingerprint_of_text(examples), "other examples (or examples in other rows)")}
    if teacher is not None:
        asked["teacher"] = (_fingerprint_of_teacher(teacher), "another teacher, or of this one with other weights")
    if k is not None:
        asked["k"] = (k, f"k={about.get('k')}, not k={k}")
    for name, (expected, what) in asked.items():
        if about.get(name) != expected:
            raise ValueError(f"the cache in {path} is of {what}; {_MAKE_ANEW}")
    try:
        ids, log_probs = (np.load(path / name, mmap_mode="r") for name in (_IDS, _LOG_PROBS))
        shapes = [(*examples.inputs.shape, about["k"] + more) for more in (0, 1)]
        if [ids.shape, log_probs.shape] != shapes:
            raise ValueError(f"shapes {ids.shape} and {log_probs.shape} instead of {shapes}")
        settings = {"temperature": float(about["temperature"]), "vocab_size": int(about["vocab_size"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"the cache in {path} is damaged ({error}); {_MAKE_ANEW}") from None
    return CachedExamples(examples.inputs, examples.targets, examples.documents, ids, log_probs, **settings)


def _write_arrays(
    teacher: Llama, examples: PackedExamples, folder: Path, *, k: int, temperature: float, batch_size: int
) -> None:
    n_outputs, shape = teacher.config.n_outputs, examples.inputs.shape
    small = np.uint16 if n_outputs <= 1 << 16 else np.uint32
    ids = np.lib.format.open_memmap(folder / _IDS, mode="w+", dtype=small, shape=(*shape, k))
    log_probs = np.lib.format.open_memmap(folder / _LOG_PROBS, mode="w+", dtype=np.float32, shape=(*shape, k + 1))
    for start in range(0, len(ids), check_integer("batch_size", batch_size)):
        rows = slice(start, start + batch_size)
        inputs, _, documents = (
            torch.from_numpy(part).to(teacher.device) for part in PackedExamples.rows(examples, rows)
        )
        with reading(teacher):
            states = teacher.hidden_states(inputs, documents=documents).flatten(0, 1)  # (N, E)
            top = _keep_top(teacher, states, k, temperature)
        ids[rows], log_probs[rows] = (part.cpu().numpy().reshape(*inputs.shape, -1) for part in top)
    for array in (ids, log_probs):
        array.flush()


def _keep_top(teacher: Llama, states: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Do what ``keep_top`` does, chunk by chunk from what the output layer reads, (N, E)."""
    chunks = states.split(chunk_rows(*states.shape, teacher.config.n_outputs))
    parts = [keep_top(teacher.output(chunk[None])[0], k, temperature) for chunk in chunks]
    ids, log_probs = (torch.cat(part) for part in zip(*parts, strict=True))
    return ids, log_probs.float()


def _fingerprint_of_text(examples: PackedExamples) -> str:
    """Return the sha256 of what a teacher reads; which tokens are learned is not its concern."""
    digest = hashlib.sha256(str(examples.inputs.shape).encode())
    for part in (examples.inputs, examples.documents):
        digest.update(np.ascontiguousarray(part, np.int64))
    return digest.hexdigest()


def _fingerprint_of_teacher(teacher: Llama) -> str:
    """Return the sha256 of a model: its shape, and all its numbers."""
    digest = hashlib.sha256(json.dumps(teacher.config.to_dict()).encode())
    for name, parameter in teacher.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
