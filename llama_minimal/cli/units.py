"""Amounts as people write them: 80GB, 1.4T, 4M."""

import math
import re

_PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def amount(flag: str, text: str, *, unit: str = "", example: str = "1.4T") -> float:
    """Return the number that a text stands for.

    A prefix may follow, k, M, G (or, without a unit, B for billion), T, P; with a unit also Ki, Mi, Gi, Ti; then the
    unit, which may be left out after a prefix: 80 alone would be 80 bytes, which nobody means. Commas and underscores
    between digits are skipped.

    Raises:
        ValueError: if it is none, or not above 0, or lacks its unit.

    Example:
        >>> amount("--memory", "80GB", unit="B"), amount("--tokens", "1.4T"), amount("--memory", "24 GiB", unit="B")
        (80000000000.0, 1400000000000.0, 25769803776.0)
    """
    found = re.fullmatch(r"\s*([-+]?[\d,_]*\.?\d*(?:e[-+]?\d+)?)\s*([a-z]*)\s*", str(text).lower())
    number, letters = found.groups() if found else ("", "")
    prefixes = _PREFIXES | (_BINARY if unit else {"b": 1e9})
    is_bare = bool(unit) and not letters
    letters = letters.removesuffix(unit.lower())
    try:
        value = float(number.replace(",", "").replace("_", "")) * prefixes[letters]
    except (ValueError, KeyError):
        raise ValueError(f"{flag} {text} is no number with a unit; give such as {example}") from None
    if not 0 < value < math.inf:
        raise ValueError(f"{flag} {text} must be more than 0, such as {example}")
    if is_bare:
        raise ValueError(f"{flag} {text} is a bare number; give a unit, such as {example}")
    return value
