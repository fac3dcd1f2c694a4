"""Notes that processes leave each other beside their collective operations.

A collective operation has a time limit, and a signal is heard only when it ends. A note may be waited for as long as
it takes, and signals are heard meanwhile.
"""

import itertools
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")
_LONGEST_PAUSE = 0.1  # seconds between two looks at the board
_PATIENCE = timedelta(seconds=10)  # with the one who says what is wrong
_INTERVAL, _GRACE = 1.0, 5.0  # seconds between two looks for a failure, and then until this process ends
_NAME = "llama_minimal"


class Board:
    """Where the first process notes what it did while the others waited."""

    _number = itertools.count()  # of boards: all processes make them in the same order

    def __init__(self, store: dist.Store, rank: int) -> None:
        self._store = dist.PrefixStore(f"{_NAME}/{next(self._number)}", store)
        self._rank, self._n = rank, 0

    def first(self, work: Callable[[], T]) -> T:
        """Let the first process do something; all return its result, or raise its error."""
        self._n += 1
        if self._rank:
            result, error = pickle.loads(self._wait_for(str(self._n)))  # from a process of this run
        else:
            result, error = _outcome(work)
            self._store.set(str(self._n), _packed(result, error))
        if error is not None:
            raise error
        return result

    def _wait_for(self, name: str) -> bytes:
        pause = 0.001
        while not self._store.check([name]):
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self._store.get(name)


def _outcome(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return work(), None
    except BaseException as error:  # whatever it is, the others must not wait for ever
        return None, error


def _packed(result: Any, error: BaseException | None) -> bytes:
    try:
        note = pickle.dumps((result, error))
        pickle.loads(note)  # some exceptions can be written and not be read
    except Exception:
        note = pickle.dumps((None, RuntimeError(f"the first process failed: {error!r}")))
    return note


def launcher_store(timeout: timedelta = _PATIENCE) -> dist.Store | None:
    """Return the board of torchrun itself, which is there before the processes know each other and after a restart."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)
    except (KeyError, ValueError, RuntimeError):  # torchrun has ended
        return None
    return dist.PrefixStore(_NAME, store)


@contextmanager
def speaking() -> Iterator[bool]:
    """Yield whether this process is the one to tell the user; the others wait until it has.

    Of several that found something wrong it is the first: its error is the cause of those that follow. Without torchrun
    it is the process of rank 0.
    """
    store = launcher_store()
    try:
        mine = store.add(_speaks(), 1) == 1 if store else os.environ.get("RANK", "0") == "0"
    except RuntimeError:
        store, mine = None, True
    try:
        yield mine
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        _let_finish(store, f"{_speaks()} no more", mine=mine)


def _let_finish(store: dist.Store | None, note: str, *, mine: bool) -> None:
    # torchrun ends all processes as soon as one has ended, and must not cut off the one that speaks.
    try:
        if store and mine:
            store.set(note, "")
        elif store:
            store.wait([note], _PATIENCE)
    except RuntimeError:  # it takes too long, or torchrun has ended
        return


@contextmanager
def ending_with_the_others() -> Iterator[None]:
    """End this process soon after another one has failed, or torchrun has, though it hears nothing.

    One that waits in a collective operation hears no signal, and over NCCL does not notice that the other is gone.
    """
    store, is_over = launcher_store(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(store, is_over), daemon=True)
    if store:
        watcher.start()
    try:
        yield
    finally:
        is_over.set()
        if store:
            watcher.join()


def _watch(store: dist.Store, is_over: threading.Event) -> None:
    while not is_over.wait(_INTERVAL):
        try:
            has_failed = store.check([_speaks()])
        except RuntimeError:  # torchrun has ended
            has_failed = True
        if has_failed:
            if not is_over.wait(_GRACE):  # else it has noticed by itself
                os._exit(1)
            return


def _speaks() -> str:
    return f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/speaks"


def was_begun() -> bool:
    """Whether torchrun started this run before, and it had made its folder ready when it broke off."""
    store = launcher_store()
    return store is not None and store.check(["begun"])


def note_begun() -> None:
    """Note for a process that torchrun may have to start again that the folder is this run's."""
    if store := launcher_store():
        store.set("begun", "")


def is_lost_connection(error: Exception) -> bool:
    """Return whether an error only says that another process is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
