"""Processes that share out a long computation: one thread each, and none is left when it ends, however it ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def process_pool(
    n: int, begin: Callable[..., None] | None = None, arguments: Sequence[Any] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Open n processes of one thread each, which are ended with the block: at once if it fails.

    They are started anew, not forked, so what they run must be importable. They leave Ctrl-C to this process.

    Args:
        begin: called with ``arguments`` in each process before its first task.

    Raises:
        ValueError: if n is less than 1.
    """
    if n < 1:
        raise ValueError(f"{n} processes cannot do anything; give at least 1")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        n, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(begin, *arguments)
    )
    former = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)  # read by the libraries of whoever is started from here on
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _begin(begin: Callable[..., None] | None, *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it went: nobody would read what it finds."""
    multiprocessing.parent_process().join()
    os._exit(1)
