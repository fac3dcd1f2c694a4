"""Who is at work where: locks on files and folders, which end with the process that holds them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HELD: set[Path] = set()  # by hold_folder, in this process


@contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Let no other process hold this folder until the block ends; a killed process holds nothing.

    Where the system cannot lock folders (Windows, some network drives) nothing is held.

    Raises:
        ValueError: if another process holds it.
    """
    place = path.resolve()
    with _alone(path):
        _HELD.add(place)
        try:
            yield
        finally:
            _HELD.discard(place)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder as ``hold_folder`` does, unless this process holds it already.

    Raises:
        ValueError: if another process holds it.
    """
    if folder.resolve() in _HELD:
        yield
    else:
        with _alone(folder):
            yield


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        held = _lock(folder)
    except BlockingIOError:
        raise ValueError(f"another process is at work in {folder}; wait for it, or give another folder") from None
    with _ended(held):
        yield


@contextmanager
def claimed(path: Path, make: Callable[[Path], None]) -> Iterator[None]:
    """Make a file or folder, and lock it until the block ends, so that nobody takes it for a leftover."""
    while True:
        make(path)
        with _ended(_lock(path, wait=True)):
            if path.exists():  # else somebody took it for one before it was locked
                yield
                return


@contextmanager
def if_abandoned(path: Path) -> Iterator[bool]:
    """Lock a file or folder until the block ends, and say whether that went: nobody else has it locked."""
    try:
        held = _lock(path)
    except BlockingIOError:
        yield False
        return
    with _ended(held):
        yield True


def _lock(path: Path, *, wait: bool = False) -> int | None:
    """Return a descriptor that locks a file or folder until it is closed; None if there are no locks for it.

    Raises:
        BlockingIOError: if it is locked and we do not wait.
    """
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        return None  # Windows has no such locks, and opens no folders
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


@contextmanager
def _ended(descriptor: int | None) -> Iterator[None]:
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
