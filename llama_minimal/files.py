"""Files that are either whole or not there: write under a temporary name, then rename."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# Names that a process killed while writing leaves behind: .NAME.PROCESS.tmp and .NAME.8 hex digits.tmp
LEFTOVER = re.compile(r"\..+\.(\d+|[0-9a-f]{8})\.tmp")
_POINTER = b"version https://git-lfs.github.com/spec/"


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
            with explained(paths[-1]):
                paths[-1].unlink(missing_ok=True)
        for source, target in zip(partial, paths, strict=True):
            with explained(target):
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
        with explained(path):
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
    with made_folder(folder):
        yield from _updated(folder, last, obsolete)


def _updated(folder: Path, last: str, obsolete: Iterable[str]) -> Iterator[Path]:
    # A container gives every process the same id: one that was killed may have left this very name.
    remove_leftovers(folder)
    temporary = folder / f".update.{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(temporary.iterdir(), key=lambda file: (file.name == last, file.name))
        for file in files:
            _flush(file)
        new = {file.name for file in files}
        olds = dict.fromkeys([last, *(path.name for pattern in obsolete for path in folder.glob(pattern)), *new])
        # Whoever is killed from here on leaves a folder without ``last``, not a mixture of old and new.
        with _put_aside([folder / name for name in olds], temporary) as done:
            for file in files:
                with explained(folder / file.name):
                    done.append(file.replace(folder / file.name))
        _flush(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _put_aside(paths: list[Path], temporary: Path) -> Iterator[list[Path]]:
    """Move files away, and yield a list for those that take their place; after an error all is as it was."""
    aside = temporary / "old"
    aside.mkdir()
    moved: list[Path] = []
    placed: list[Path] = []
    try:
        for path in filter(Path.exists, paths):
            with explained(path):
                path.rename(aside / path.name)
            moved.append(path)
        yield placed
    except OSError:
        for path in placed:
            path.unlink()
        for path in reversed(moved):  # the one that makes a folder complete went first, and comes back last
            (aside / path.name).rename(path)
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half-written in a folder; other people's hidden files stay."""
    for leftover in folder.glob(".*.tmp"):
        if not LEFTOVER.fullmatch(leftover.name):
            continue
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


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
def hold_folder(path: Path) -> Iterator[None]:
    """Let no other process hold this folder until the block ends; a killed process holds nothing.

    Where the system cannot lock folders (Windows, some network drives) nothing is held.

    Raises:
        ValueError: if another process holds it.
    """
    descriptor = None
    try:
        # Only if the system has locks, and opens folders to lock them.
        with suppress(ImportError, OSError):
            import fcntl

            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is at work in {path}; wait for it, or give another folder") from None
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


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
