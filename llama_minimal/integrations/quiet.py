"""What other libraries say while they work for us, kept back: a notebook shows only what its reader asked for."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from types import ModuleType

from tqdm import tqdm


@contextlib.contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Keep back a library's log below errors, and its warnings about what will change in it."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def bars_for_terminals(module: ModuleType) -> Iterator[None]:
    """Let a module show the progress bars that it imports as ``tqdm`` in a terminal only, as ours are shown."""
    theirs = module.tqdm
    module.tqdm = partial(tqdm, disable=None, leave=False)
    try:
        yield
    finally:
        module.tqdm = theirs
