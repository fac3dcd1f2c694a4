"""Files that are either whole or not there: write under a temporary name, then rename."""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replace_files(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Open new files that take the place of ``paths`` when the block ends without an error.

    Until then they have temporary names in the same folders; after an error those are removed and the former files
    are untouched. Of several paths the last must be the one that readers open first: it is away while the others
    change, so that a crash in that instant leaves a set that is refused and not a mixture.

    Raises:
        OSError: if a file cannot be written, for instance because the disk is full.
    """
    suffix = f".{secrets.token_hex(4)}.tmp"
    partial = [path.with_name(f".{path.name}{suffix}") for path in paths]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            # Mode "x", not tempfile: files get the rights that the user's umask gives, not the owner's alone.
            files = [stack.enter_context(path.open("x+b")) for path in partial]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        if len(paths) > 1:
            paths[-1].unlink(missing_ok=True)
        for source, target in zip(partial, paths, strict=True):
            source.replace(target)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write one file whole, creating its folder.

    Raises:
        OSError: if the file cannot be written.
    """
    with replace_files(path) as (file,):
        file.write(content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; it becomes ``path``, which must not exist, if all goes well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        _flush(temporary)
        temporary.rename(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def update_folder(folder: Path, *, last: str, obsolete: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder to fill; its files then replace those of the same name in ``folder``.

    Args:
        last: the file to move last: a folder that lacks it is recognizably incomplete.
        obsolete: patterns of files that go away, unless there are new ones of that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A container gives every process the same id: one that was killed may have left this very name.
    remove_leftovers(folder)
    temporary = folder / f".update.{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(temporary.iterdir(), key=lambda file: (file.name == last, file.name))
        for file in files:
            _flush(file)
        # Whoever is killed from here on leaves a folder without ``last``, not a mixture of old and new.
        (folder / last).unlink(missing_ok=True)
        new = {file.name for file in files}
        for old in [old for pattern in obsolete for old in folder.glob(pattern) if old.name not in new]:
            old.unlink(missing_ok=True)
        for file in files:
            file.replace(folder / file.name)
        _flush(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half-written in a folder."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
