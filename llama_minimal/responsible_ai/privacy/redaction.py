"""Take personal details out of prompts, logs and corpora: mail and street addresses, phones, cards, names, codes.

The rules know forms, and nothing of the world: what is written in another form stays. How much that is must be measured
on text whose details are known (``planting``).
"""

import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from llama_minimal.data.document import Document, LongDocument

# Forms, in English and Chinese text; none goes on after a line break, so that a text can be read line by line.
_HAN_NAME = r"[王李张刘陈杨赵黄周吴林何][\u4e00-\u9fff]{1,2}?"
_FORMS = {
    "email": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "card": r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])",
    "phone": r"(?<![\w.-])(?<!\d{3} )(?:\+\d{1,3}[ .-]?)?"
    r"(?:(?:\(\d{2,4}\) ?|\d{2,4}[ .-])\d{3,4}[ .-]\d{3,4}|\d{3}[ .-]\d{4})"
    r"(?![\w-]|\.\d| \d{3})",
    "address": r"\b\d{1,4} (?:[A-Z][a-z]+ ){1,3}(?:Street|Road|Lane|Avenue|Square|St|Rd|Ave)\b"
    r"|[\u4e00-\u9fff]{2}(?:大街|路|街|巷)\d{1,4}号",
    "code": r"(?i:\b(?:secret|pin|passcode|password)\b[^.!?\n\d]{0,40}?)(?P<code>\d(?:[ -]?\d){3,9})(?![\d-])"
    r"|(?:密码|暗号)[^。\n\d]{0,10}(?P<han_code>\d(?:[ -]?\d){3,9})",
    "name": r"\b(?:Mr|Mrs|Ms|Dr|Miss)\.? [A-Z][\w'-]+(?: [A-Z][\w'-]+)?"
    rf"|{_HAN_NAME}(?=先生|女士|医生)",
}
KINDS = tuple(_FORMS)
_PATTERNS = {kind: re.compile(form, re.ASCII if kind in ("email", "phone") else 0) for kind, form in _FORMS.items()}
_PLACEHOLDER = re.compile(r"\[[A-Z]+-\d+\]")
_HELD = 1 << 16  # characters of a text without line breaks that are looked at together


@dataclass(frozen=True, slots=True, order=True)
class Detail:
    """A personal detail, and where in its text it stands."""

    start: int
    end: int
    kind: str


def find_details(text: str, *, kinds: Collection[str] = KINDS, names: Iterable[str] = ()) -> list[Detail]:
    """Return the details of a text in their order; where two would overlap, the one of more characters stays.

    Args:
        kinds: what to look for.
        names: people to find wherever they are named, such as those of an address book; without them a name is found
            by its title alone.

    Raises:
        ValueError: if a kind is unknown.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"there is no kind {sorted(unknown)[0]!r} of personal detail; there are {', '.join(KINDS)}")
    found = [detail for kind in kinds for detail in _of_kind(text, kind)]
    if "name" in kinds and (known := [re.escape(name) for name in sorted(names, key=len, reverse=True)]):
        found += [
            Detail(*m.span(), "name") for m in re.finditer(rf"(?<![A-Za-z])(?:{'|'.join(known)})(?![A-Za-z])", text)
        ]
    kept: list[Detail] = []  # in order, none overlapping
    for detail in sorted(found, key=lambda d: (d.start - d.end, KINDS.index(d.kind), d.start)):
        place = bisect_left(kept, detail)
        neighbors = kept[max(0, place - 1) : place + 1]
        if all(detail.end <= other.start or other.end <= detail.start for other in neighbors):
            kept.insert(place, detail)
    return kept


def _of_kind(text: str, kind: str) -> Iterator[Detail]:
    for match in _PATTERNS[kind].finditer(text):
        group = next((name for name, value in match.groupdict().items() if value), 0)
        if kind != "card" or is_card(match[0]):
            yield Detail(*match.span(group), kind)


def is_card(text: str) -> bool:
    """Return whether the digits of a text pass the check of payment cards: of random numbers nine in ten do not.

    From the right every second digit is doubled, less 9 if it has become 10 or more; the sum is divisible by 10.

    Source: ISO/IEC 7812-1, annex B (Luhn's formula).
    """
    digits = [int(c) for c in text if c.isdigit()][::-1]
    doubled = [2 * d - 9 * (d > 4) if i % 2 else d for i, d in enumerate(digits)]
    return len(digits) >= 13 and sum(doubled) % 10 == 0


def redact(text: str, **options: object) -> str:
    """Return a text with its details replaced by their kinds, such as ``[PHONE]``; options of ``find_details``.

    Example:
        >>> redact("Write to mina@example.com, or call (555) 555-0142.")
        'Write to [EMAIL], or call [PHONE].'
    """
    return _replace(text, find_details(text, **options), lambda detail: f"[{detail.kind.upper()}]")


def _replace(text: str, details: Sequence[Detail], word: Callable[[Detail], str]) -> str:
    parts, at = [], 0
    for detail in details:
        parts += [text[at : detail.start], word(detail)]
        at = detail.end
    return "".join([*parts, text[at:]])


@dataclass(frozen=True, slots=True)
class RedactedPrompt:
    """A prompt whose details have numbered placeholders, so that the answer can have them back."""

    text: str
    known: Mapping[str, str] = field(default_factory=dict)
    """Placeholder -> what it stands for. It stays with the user."""

    @classmethod
    def of(cls, prompt: str, **options: object) -> "RedactedPrompt":
        """Redact a prompt; the same detail gets the same placeholder, such as ``[PHONE-1]``.

        A placeholder that the prompt itself has written stands for nothing, and no detail gets it.
        """
        numbers = {kind: count(1) for kind in KINDS}
        taken = set(_PLACEHOLDER.findall(prompt))
        words: dict[str, str] = {}

        def word(detail: Detail) -> str:
            original = prompt[detail.start : detail.end]
            if original not in words:
                free = (f"[{detail.kind.upper()}-{number}]" for number in numbers[detail.kind])
                words[original] = next(placeholder for placeholder in free if placeholder not in taken)
            return words[original]

        text = _replace(prompt, find_details(prompt, **options), word)
        return cls(text, {placeholder: original for original, placeholder in words.items()})

    def restore(self, answer: str) -> str:
        """Put the details into an answer that speaks of them by their placeholders."""
        return _PLACEHOLDER.sub(lambda m: self.known.get(m[0], m[0]), answer)


class RedactingFilter(logging.Filter):
    """Redact what a log handler is about to write: ``handler.addFilter(RedactingFilter())``."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_text = record.exc_text and redact(record.exc_text)
        return True


def redact_document(document: Document | LongDocument, **options: object) -> Document | LongDocument:
    """Return a document of a corpus without its details; one that is not in memory is redacted as it is read."""
    if isinstance(document, Document):
        return Document(document.name, redact(document.text, **options))
    return LongDocument(document.name, partial(_redact_chunks, document, options))


def _redact_chunks(document: LongDocument, options: Mapping[str, object]) -> Iterator[str]:
    held = ""
    for chunk in document.chunks():
        held += chunk
        end = held.rfind("\n") + 1
        if not end and len(held) > _HELD:  # one endless line: cut it where no detail stands
            end = min([len(held) - 256, *(d.start for d in find_details(held, **options) if d.end > len(held) - 256)])
        yield redact(held[:end], **options)
        held = held[end:]
    yield redact(held, **options)


def redaction_score(found: Collection[Detail], key: Collection[Detail]) -> dict[str, tuple[int, int, int]]:
    """Return for each kind how many details were found and are there, were found and are not, and were missed.

    A detail counts as found only if all of its characters are covered by what was found, of whatever kind; and what was
    found is false if it touches no detail. So half a phone number is a miss.
    """
    result = {}
    for kind in KINDS:
        mine = [detail for detail in key if detail.kind == kind]
        hits = sum(any(f.start <= d.start and d.end <= f.end for f in found) for d in mine)
        false = sum(all(f.end <= d.start or d.end <= f.start for d in key) for f in found if f.kind == kind)
        result[kind] = hits, false, len(mine) - hits
    return result
