"""Read text files in chunks, compressed or not, in the Unicode encodings; name what is not text."""

import codecs
import importlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 1 << 12

# First bytes -> the module of the standard library that unpacks such a file.
_COMPRESSIONS = {rb"\x1f\x8b\x08": "gzip", rb"BZh[1-9]1AY&SY": "bz2", rb"\xfd7zXZ\x00": "lzma"}
_COMPRESSION_SUFFIXES = (".gz", ".bz2", ".xz")
# A byte order mark says which encoding follows. That of UTF-32 begins as that of UTF-16, so it comes first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UNPACK, _SAVE, _TABLE = "unpack it first", "save it as plain text first", "write its texts as JSON lines first"
_OUT = "leave it out"
# First bytes -> what such a file is, and what to do. Those that could begin a text count if there is a zero byte too.
_OTHERS = {
    b"PK\x03\x04": ("a zip archive", _UNPACK),
    b"\x1f\x8b": ("a gzip file", _UNPACK),
    b"\x1f\x9d": ("a file of compress (Z)", _UNPACK),
    b"\xfd7zXZ": ("an xz file", _UNPACK),
    b"(\xb5/\xfd": ("a zstd file", _UNPACK),
    b"\x04\x22M\x18": ("an lz4 file", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": ("a rar archive", _UNPACK),
    b"%PDF-": ("a PDF", _SAVE),
    b"{\\rtf": ("a rich text (RTF) document", _SAVE),
    b"\xd0\xcf\x11\xe0": ("an old Office document", _SAVE),
    b"PAR1": ("a Parquet table", _TABLE),
    b"ARROW1": ("an Arrow table", _TABLE),
    b"SQLite format 3\x00": ("an SQLite database", _TABLE),
    b"\x89HDF": ("an HDF5 file", _TABLE),
    b"\x89PNG": ("a PNG picture", _OUT),
    b"\xff\xd8\xff": ("a JPEG picture", _OUT),
    b"GIF8": ("a GIF picture", _OUT),
    b"\x7fELF": ("a program", _OUT),
}
_IN_ZIP = {
    "word/": ("a Word document (docx)", _SAVE),
    "xl/": ("an Excel workbook (xlsx)", _TABLE),
    "ppt/": ("a PowerPoint presentation (pptx)", _SAVE),
    "META-INF/container.xml": ("an EPUB book", _SAVE),
    "META-INF/manifest.xml": ("an OpenDocument file", _SAVE),
}


def text_suffix(path: Path) -> str:
    """Return the suffix in small letters, that before the compression's if there is one.

    Example:
        >>> text_suffix(Path("STORIES.TXT")), text_suffix(Path("a.jsonl.gz"))
        ('.txt', '.jsonl')
    """
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _COMPRESSION_SUFFIXES else suffix


def read_chunks(path: Path) -> Iterator[str]:
    """Yield the text of a file in chunks: UTF-8, or UTF-16 or -32 with a byte order mark; gzip, bz2 or xz around it.

    Raises:
        ValueError: if it is something else, or damaged.
    """
    with path.open("rb") as file, _unpacked(file) as data:
        try:
            head = data.read(_HEAD_BYTES)
            encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
            if encoding is None:
                _refuse_other(head, path)
            yield from _decode(head, data, encoding or "utf-8", path)
        except Exception as error:
            # Each module has its own errors for a damaged file; an OSError with a number is the disk's.
            name = type(error).__name__
            if name in ("EOFError", "LZMAError", "BadGzipFile") or isinstance(error, zlib.error) or _is_bz2(error):
                raise ValueError(f"{path} is damaged or cut short: it cannot be unpacked ({error})") from None
            raise


def _unpacked(file: BinaryIO) -> Any:
    head = file.read(16)
    file.seek(0)
    for pattern, module in _COMPRESSIONS.items():
        if re.match(pattern, head):
            return importlib.import_module(module).open(file)
    return file


def _is_bz2(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno is None


def _decode(head: bytes, file: BinaryIO, encoding: str, path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    data, before, line = head, 0, 1
    while True:
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            place = before - pending + error.start
            line += error.object[: error.start].count(b"\n")
            in_line = f" (line {line})" if encoding == "utf-8" else ""
            where = f"byte 0x{error.object[error.start]:02x} at offset {place}{in_line}"
            raise ValueError(_not_unicode(path, encoding, where, zeros=b"\0" in head)) from None
        # A byte order mark at the start belongs to the file, not to its text.
        yield text if before else text.removeprefix("\ufeff")
        if not data:
            return
        before += len(data)
        line += text.count("\n")
        data = file.read(_CHUNK_BYTES)


def _not_unicode(path: Path, encoding: str, where: str, *, zeros: bool) -> str:
    if encoding != "utf-8":
        return f"{path} has the byte order mark of {encoding.upper()} but is not that: {where}; is it damaged?"
    if zeros:
        return f"{path} is binary data, not text: a zero byte, and {where}; {_OUT}"
    return (
        f"{path} is not UTF-8: {where}; convert it first, for instance with iconv -f CP1252 -t UTF-8 "
        f"(or from GB18030, SHIFT_JIS, KOI8-R, whatever it is), or {_OUT}"
    )


def _refuse_other(head: bytes, path: Path) -> None:
    zeros = head.count(0)
    kind = next((magic for magic in _OTHERS if head.startswith(magic)), None)
    if kind is not None and (zeros or not kind.isalnum()):
        name, advice = _kind_of_zip(path) if kind.startswith(b"PK") else _OTHERS[kind]
    elif head[257:262] == b"ustar":
        name, advice = "a tar archive", _UNPACK
    # Text may hold a zero byte, but not many.
    elif zeros * 20 > len(head):
        if encoding := _encoding_of_zeros(head):
            raise ValueError(
                f"{path} looks like {encoding} without a byte order mark; convert it first, with "
                f"iconv -f {encoding} -t UTF-8"
            )
        name, advice = "binary data", _OUT
    else:
        return
    raise ValueError(f"{path} is {name}, not text; {advice}")


def _encoding_of_zeros(head: bytes) -> str | None:
    # Western text in UTF-16 has a zero in every pair of bytes, always at the same place; in UTF-32, three in four.
    shares = [head[start::4].count(0) / max(1, len(head[start::4])) for start in range(4)]
    by_zeros = {(0, 1, 0, 1): "UTF-16LE", (1, 0, 1, 0): "UTF-16BE", (0, 1, 1, 1): "UTF-32LE", (1, 1, 1, 0): "UTF-32BE"}
    return by_zeros.get(tuple(int(share > 0.5) for share in shares))


def _kind_of_zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    kinds = (kind for start, kind in _IN_ZIP.items() if any(name.startswith(start) for name in names))
    return next(kinds, _OTHERS[b"PK\x03\x04"])
