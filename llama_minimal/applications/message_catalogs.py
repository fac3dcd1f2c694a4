"""Real English–Chinese pairs: the messages of an installed package, as its translators left them in ``.mo`` files."""

import struct
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32

from llama_minimal.applications.base import Example
from llama_minimal.applications.translation import as_prompt

_LITTLE, _BIG = 0x950412DE, 0xDE120495  # the number that a catalog begins with, by the order of its bytes
_CONTEXT, _PLURAL = "\x04", "\0"
_HELD_OUT = 10


def read_catalog(path: Path) -> list[tuple[str, str]]:
    """Return the messages of a compiled catalog with their translations, in its order.

    Of a message with a plural the singular is taken, and the context that tells two equal messages apart is left out.

    Raises:
        ValueError: if the file is no such catalog.

    Source: the manual of GNU gettext, "The Format of GNU MO Files".
    """
    content = path.read_bytes()
    first = struct.unpack_from("<I", content)[0] if len(content) >= 20 else None
    if first not in (_LITTLE, _BIG):
        raise ValueError(f"{path} is no catalog of messages; give a .mo file, as msgfmt writes it")
    order = "<" if first == _LITTLE else ">"
    count, *tables = struct.unpack_from(f"{order}3I", content, 8)
    try:
        messages, translations = (
            [_text(content, struct.unpack_from(f"{order}2I", content, table + 8 * i)) for i in range(count)]
            for table in tables
        )
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}; install the package again") from error
    pairs = zip(messages, translations, strict=True)
    # The message without text holds the catalog's own data.
    return [(_bare(message), _bare(text)) for message, text in pairs if _bare(message) and _bare(text)]


def catalog_examples(*, split: str = "train", package: str = "django", locale: str = "zh_Hans") -> list[Example]:
    """Return the messages of an installed package as examples of translation, each pair once, in the order of the text.

    Every tenth message, by a checksum, is for the test, and another tenth for validation.

    Raises:
        ImportError: if the package is not installed.
        ValueError: if there is no such split, or the package has no catalog of this locale.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split={split!r} is not one of train, validation, test")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not installed; run: pip install 'llama_minimal[translation]'")
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.glob(f"**/locale/{locale}/LC_MESSAGES/*.mo"))
    if not files:
        raise ValueError(f"{package} has no messages in {locale}; look into its folders named locale")
    pairs = sorted({pair for file in files for pair in read_catalog(file)})
    return [_example(*pair) for pair in pairs if _split_of(pair[0]) == split]


def _split_of(message: str) -> str:
    return {0: "test", 1: "validation"}.get(crc32(message.encode()) % _HELD_OUT, "train")


def _example(message: str, text: str) -> Example:
    extra = {"source": message}
    return Example(as_prompt(message, "en-zh"), f" {text}", "en-zh", extra=extra)


def _text(content: bytes, place: tuple[int, int]) -> str:
    length, start = place
    if start + length > len(content):
        raise struct.error(f"a message ends at byte {start + length} of {len(content)}")
    return content[start : start + length].decode("utf-8")


def _bare(message: str) -> str:
    return message.rpartition(_CONTEXT)[2].partition(_PLURAL)[0].strip()
