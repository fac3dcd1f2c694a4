"""Numbers in a text, as digits or words, and those that a report has no right to."""

import re
from itertools import accumulate

from llama_minimal.data.valley.english import number

_WORDS = {number(n): n for n in range(200)} | {"once": 1, "twice": 2}
_ANY = "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True))
_NUMBER = re.compile(rf"\b(?:(\d+)|({_ANY}))\b", re.IGNORECASE)
_LABEL = re.compile(r"^sale \d+:", re.MULTILINE)  # the number of a field's name says nothing about the sale


def numbers(text: str) -> list[int]:
    """Return the numbers in a text in their order, written in digits or in English words below 200.

    >>> numbers("Sold thirty-six pots, twice, for 9 coins.")
    [36, 2, 9]
    """
    return [int(digits) if digits else _WORDS[word.lower()] for digits, word in _NUMBER.findall(text)]


def in_digits(text: str) -> str:
    """Return a text with its number words as digits; "once" and "twice" stay."""
    return _NUMBER.sub(lambda m: m[0] if m[0].lower() in ("once", "twice") else str(numbers(m[0])[0]), text)


def invented_numbers(report: str, source: str) -> list[int]:
    """Return the numbers in a report that neither stand in its source nor follow from it by a ledger's arithmetic.

    What follows: the sum of the sales up to any of them (of none, 0), and that sum less a number of the source. A sale
    is two numbers of the source, one after the other, of which the greater is the smaller times the price; and the
    price, the same for all sales, is a number that stands before them. What nobody wrote down as a price may be taken
    for one, so a few numbers pass that should not; no right number is ever called invented.

    Args:
        report: what was written.
        source: what it was written from: a story, a record, or lines of fields.

    Returns:
        Each number as often as it is in the report without right, in its order.
    """
    source = _LABEL.sub("", source)
    found = numbers(source)
    known = set(found)
    # Any number may be the price; and what looks like a sale after the last one must not hide the true sum.
    totals = {total for price in known for total in accumulate(_sales(found, price), initial=0)} | {0}
    allowed = known | totals | {total - n for total in totals for n in known if n <= total}
    return [n for n in numbers(_LABEL.sub("", report)) if n not in allowed]


def _sales(found: list[int], price: int) -> list[int]:
    """Return what was paid in each sale at a price, of all numbers of a source in their order."""
    sums: list[int] = []
    i = found.index(price) + 1
    while i < len(found) - 1:
        low, high = sorted(found[i : i + 2])
        if low and low * price == high:
            sums.append(high)
            i += 1
        i += 1
    return sums
