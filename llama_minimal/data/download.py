"""Fetch a text from the web once, keep it, and notice if the kept copy changes."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from llama_minimal.config import read_json
from llama_minimal.files import replace_files

Progress = Callable[[int, int | None], None]

_CHUNK = 1 << 16
_TIMEOUT_SECONDS = 30
# urllib's default opener also follows a redirect to ftp; this one knows http and https alone.
_HANDLERS = (
    ProxyHandler,
    HTTPHandler,
    HTTPSHandler,
    HTTPRedirectHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    UnknownHandler,
)


def cache_folder() -> Path:
    """Return where downloads are kept: ``LLAMA_MINIMAL_CACHE``, else a folder in the user's cache."""
    if own := os.environ.get("LLAMA_MINIMAL_CACHE"):
        return Path(own)
    # The XDG standard: a relative path there is to be ignored.
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "llama_minimal"


def download(url: str, *, cache_dir: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Return the local copy of a URL, fetching it if there is none.

    A note beside the copy (``.json``) says where it came from and its checksum, which is verified at every use.

    Args:
        url: http or https.
        cache_dir: default ``cache_folder()``.
        progress: called with (bytes so far, bytes in all or None).

    Raises:
        ConnectionError: if the transfer fails or ends early; nothing is left behind.
        ValueError: if the scheme is another, or the copy was changed after the download.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is not an http or https address")
    tail = re.sub(r"[^A-Za-z0-9._-]", "_", Path(parts.path).name)[-80:]
    folder = Path(cache_dir) if cache_dir is not None else cache_folder()
    path = folder / f"{hashlib.sha256(url.encode('utf-8')).hexdigest()[:16]}-{tail or 'index'}"
    note = path.with_name(path.name + ".json")
    if path.is_file() and note.is_file():
        _verify(path, read_json(note).get("sha256"))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_files(path, note) as (file, note_file):
            note_file.write(_fetch(url, file, progress))
    return path


def _fetch(url: str, file: BinaryIO, progress: Progress | None) -> bytes:
    opener = OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    checksum = hashlib.sha256()
    done = 0
    try:
        with opener.open(Request(url, headers={"User-Agent": "llama_minimal"}), timeout=_TIMEOUT_SECONDS) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdecimal() else None
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                checksum.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    except HTTPError as error:
        raise ConnectionError(f"{url} answered {error.code} {error.reason}; check the address") from None
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"the download of {url} failed after {done} bytes ({error}); try again") from error
    if total is not None and done != total:
        raise ConnectionError(f"the download of {url} ended after {done} of {total} bytes; try again")
    note = {"url": url, "sha256": checksum.hexdigest(), "bytes": done, "date": datetime.now(UTC).isoformat()}
    return json.dumps(note, indent=1).encode("utf-8")


def _verify(path: Path, expected: str | None) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is not what was downloaded (sha256 {found}, noted {expected}); "
            "delete it and it is fetched again at the next use"
        )
