"""More text from the Llama Valley than a folder should hold: told and encoded anew by all cores, as one stream."""

import os
from collections.abc import Sequence
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_minimal.checkpoint import COURSE
from llama_minimal.course.card import held_out, token_stream
from llama_minimal.course.pool import process_pool
from llama_minimal.data.valley import ValleySettings, mixed
from llama_minimal.files import replace_file
from llama_minimal.tokenizer import TextCodec, load_tokenizer

TEXTS = 4000
"""Texts of a part. Each part is a valley of its own: the one whose seed is the part's number."""


def valley_tokens(path: Path, n_parts: int, *, texts: int = TEXTS, processes: int | None = None) -> NDArray[np.uint16]:
    """Return n_parts · texts texts of the valley as ids of the course's tokenizer, (n,), mapped from a file.

    The file is written if it is not there. The text is the same whatever the number of processes.

    Args:
        path: a ``.npy`` file.
        n_parts: parts of the text, each told by one process; about a million tokens each.
        texts: of a part; about 237 tokens each.
        processes: None means one for each core.

    Raises:
        ValueError: if the file holds something else.
    """
    if not path.exists():
        parts = _told(range(n_parts), texts, processes or os.cpu_count() or 1)
        file = BytesIO()
        np.save(file, np.concatenate(parts))
        replace_file(path, file.getbuffer())
    tokens = np.load(path, mmap_mode="r")
    if tokens.dtype != np.uint16 or tokens.ndim != 1:
        raise ValueError(f"{path} holds no tokens; delete it, and run the command again")
    return tokens


def held_out_tokens(n: int, tokenizer: TextCodec) -> NDArray[np.uint16]:
    """Return n stories that no part has, as one stream of ids."""
    return token_stream(tokenizer, [story.text() for story in held_out(n)])


def _told(seeds: Sequence[int], texts: int, processes: int) -> list[NDArray[np.uint16]]:
    tell = partial(_tell, texts=texts)
    if min(processes, len(seeds)) == 1:
        return list(map(tell, seeds))
    with process_pool(min(processes, len(seeds))) as pool:
        return list(pool.map(tell, seeds))


def _tell(seed: int, *, texts: int) -> NDArray[np.uint16]:
    return token_stream(_tokenizer(), [example.text for example in mixed(texts, ValleySettings(seed=seed))])


@cache
def _tokenizer() -> TextCodec:
    return load_tokenizer(COURSE)
