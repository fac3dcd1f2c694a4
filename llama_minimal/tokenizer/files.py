"""Write files so that a reader sees the old content or the new, never half of it."""

import os
import secrets
from collections.abc import Iterator
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
    suffix = f".{secrets.token_hex(4)}.partial"
    partial = [path.with_name(path.name + suffix) for path in paths]
    try:
        with ExitStack() as stack:
            # Mode "x", not tempfile: files get the rights that the user's umask gives, not the owner's alone.
            files = [stack.enter_context(path.open("xb")) for path in partial]
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_files(path) as (file,):
        file.write(content)
