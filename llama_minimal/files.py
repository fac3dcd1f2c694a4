"""Files that are either whole or not there: write under a temporary name, then rename."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from llama_minimal.locks import alone_in, claimed, if_abandoned

# Names that a process killed while writing leaves behind. Only ours: other programs have hidden .tmp files, too.
LEFTOVER = re.compile(r"\..+\.llama-[0-9a-f]{8}\.tmp|\.(update|start|step-\d{8})\.\d+\.tmp")
_OLD, _NEW = "old", ".new"  # in an update's folder, while files change places: the former ones, the names of the others
_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def replace_files(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Open new files that take the place of ``paths`` when the block ends without an error.

    Until then they have temporary names in the same folders; after an error those are removed and the former files
    are untouched. Links stay; the files that they lead to are replaced. Of several paths the last must be the one that
    readers open first: it is away while the others change, so that a crash in that instant leaves a set that is refused
    and not a mixture.

    Raises:
        ValueError: if something else than a file is there.
        OSError: if a file cannot be written, for instance because the disk is full.
    """
    targets = [path.resolve() if path.is_symlink() else path for path in paths]
    _check_places(targets)
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    partial = [_beside(target) for target in targets]
    with ExitStack() as cleanup:
        for path in partial:
            cleanup.callback(path.unlink, missing_ok=True)
            # Not tempfile: files get the rights that the user's umask gives, not the owner's alone.
            cleanup.enter_context(claimed(path, lambda new: new.touch(exist_ok=False)))
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("r+b")) for path in partial]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        if len(targets) > 1:
            with explained(targets[-1]):
                targets[-1].unlink(missing_ok=True)
        for source, target in zip(partial, targets, strict=True):
            with explained(target):
                source.replace(target)


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
    with _temporary_folder(path) as temporary:
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        _flush(temporary)
        with explained(path):
            temporary.rename(path)
        _flush(path.parent)


@contextmanager
def update_folder(folder: Path, *, last: str, obsolete: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder to fill; its files then replace those of the same name in ``folder``.

    Args:
        last: the file to move last: a folder that lacks it is recognizably incomplete.
        obsolete: patterns of files that go away, unless there are new ones of that name.

    Raises:
        ValueError: if another process is at work in the folder, or a folder has the name of a file.
    """
    with made_folder(folder), alone_in(folder):
        remove_leftovers(folder)
        olds = [folder / last, *(path for pattern in obsolete for path in folder.glob(pattern))]
        _check_places(olds)
        with _temporary_folder(folder / "update") as temporary:
            yield temporary
            files = sorted(temporary.iterdir(), key=lambda file: (file.name == last, file.name))
            for file in files:
                _flush(file)
            olds += (folder / file.name for file in files)
            _exchange(files, list(dict.fromkeys(olds)), temporary)
            _flush(folder)


def _exchange(files: list[Path], olds: list[Path], temporary: Path) -> None:
    """Move files aside, and others into their folder; until the last one is there, ``_settle`` undoes it."""
    _check_places(olds)
    (temporary / _NEW).mkdir()
    for file in files:
        (temporary / _NEW / file.name).touch()
    (temporary / _OLD).mkdir()
    # Whoever is killed from here on leaves a folder without the file that makes it complete, not a mixture.
    for old in olds:
        if old.exists() or old.is_symlink():
            with explained(old):
                old.rename(temporary / _OLD / old.name)
    for file in files:
        with explained(temporary.parent / file.name):
            file.replace(temporary.parent / file.name)


def _settle(temporary: Path) -> None:
    """Remove a temporary folder; where an exchange of files has stopped in the middle, all is as before it."""
    folder, aside, names = temporary.parent, temporary / _OLD, temporary / _NEW
    if aside.is_dir():
        olds = {path.name for path in aside.iterdir()}
        waiting = {path.name for path in temporary.iterdir() if path.is_file()}
        # Earlier versions left no list of new names.
        placed = ({path.name for path in names.iterdir()} if names.is_dir() else olds) - waiting
        if waiting or not (names.is_dir() or all((folder / name).exists() for name in olds)):
            if any((folder / name).exists() for name in olds - placed):
                return  # somebody has put files there since: theirs stay, and so do these
            _undo(folder, aside, names, placed)
    shutil.rmtree(aside, ignore_errors=True)  # first: whoever is killed in the second leaves nothing to undo
    shutil.rmtree(temporary, ignore_errors=True)


def _undo(folder: Path, aside: Path, names: Path, placed: Iterable[str]) -> None:
    # Whoever is killed here leaves the rest to the next one, who must not take what is back for what was placed.
    for name in placed:
        (folder / name).unlink(missing_ok=True)
        (names / name).unlink(missing_ok=True)
    for path in sorted(aside.iterdir(), key=lambda path: path.suffix == ".json"):  # a config makes a folder complete
        with explained(folder / path.name):
            path.rename(folder / path.name)
    aside.rmdir()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.llama-{secrets.token_hex(4)}.tmp")


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    temporary = _beside(path)
    with claimed(temporary, lambda new: new.mkdir(parents=True)):
        try:
            yield temporary
        finally:
            _settle(temporary)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half-written in a folder, and put back what it had moved aside.

    Other people's hidden files stay, and what a process is still writing, where the system has locks.
    """
    for leftover in folder.glob(".*.tmp"):
        if not LEFTOVER.fullmatch(leftover.name):
            continue
        with if_abandoned(leftover) as abandoned:
            if abandoned and leftover.is_dir() and not leftover.is_symlink():
                _settle(leftover)
            elif abandoned:
                leftover.unlink(missing_ok=True)


def _check_places(paths: Iterable[Path]) -> None:
    """Refuse what is no file where one belongs."""
    for path in paths:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no regular file but a pipe, a socket or a device"
            raise ValueError(
                f"{path} is {what}, and a file of this name would replace it; move it, or give another name"
            )


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder and its parents; if the block fails, take those away again that are new and empty.

    Raises:
        OSError: if it cannot be made.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in a sentence why a file could be neither replaced nor deleted."""
    try:
        yield
    except PermissionError as error:
        # Windows neither moves nor replaces a file that is open anywhere.
        raise PermissionError(
            f"could not replace or delete {path}: another program may have it open, or it is write-protected; "
            f"close it and try again"
        ) from error


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    is_folder = path.is_dir()
    try:
        # Windows flushes only what is open for writing.
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except PermissionError:
        if is_folder:  # Windows cannot open folders, and keeps their names safe without being asked
            return
        descriptor = os.open(path, os.O_RDONLY)  # write-protected
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_pointer(path: Path) -> None:
    """Refuse a file in whose place Git has left a few lines that say where it is.

    Raises:
        ValueError: with the way to get it.
    """
    if path.is_file() and path.stat().st_size < 1024:  # a pointer has about 130 bytes
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ValueError(
                    f"{path} is not the file itself but a pointer of Git LFS; to get it, run in its folder: "
                    f"git lfs install && git lfs pull"
                )
