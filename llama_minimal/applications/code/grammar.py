"""The parts of which small functions are made, each in words, in Python, and as what it does."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

GOODS = (
    "apples",
    "pears",
    "eggs",
    "turnips",
    "candles",
    "pies",
    "pots",
    "brooms",
    "cakes",
    "melons",
    "carrots",
    "buns",
)
_WORDS = (*GOODS, "oak", "hat", "map", "kite", "drum", "bell", "book", "flute", "lantern", "basket", "umbrella", "ring")
_WORDS += ("bridge", "barn", "orchard", "waterfall", "meadow", "apple", "bee", "pot", "crossroads", "ribbon", "lake")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a function: a way to keep, to change, or to sum up."""

    phrases: tuple[str, ...]
    code: str
    value: Callable
    constants: tuple = (None,)
    takes: str = ""
    """What a sum needs: ``number`` or ``text``; empty: anything."""
    gives: str = ""
    alone: bool = False
    """Makes sense of the items themselves only: squares are as many as numbers."""

    def draw(self, dice: Random) -> Any:
        """Return one of its constants, None if it has none."""
        return dice.choice(self.constants)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Functions of one kind of argument, and arguments to try them with."""

    argument: str
    variables: str
    source: str
    items: Callable[[Any], Iterable]
    keeps: tuple[Part, ...]
    maps: tuple[Part, ...]
    reduces: tuple[Part, ...]
    inputs: Callable[[Random, Any], list]


def _part(phrases: str, code: str, value: Callable, constants: Sequence = (None,), **kinds: Any) -> Part:
    return Part(phrases=tuple(phrases.split(" | ")), code=code, value=value, constants=tuple(constants), **kinds)


_SMALL = range(2, 10)
_REDUCES = (
    _part("the sum of {what} | the total of {what}", "sum({item} {loop})", sum, takes="number"),
    _part("the number of {what} | the count of {what}", "len([{item} {loop}])", len, alone=True),
    _part("the number of different values among {what}", "len({{{item} {loop}}})", lambda v: len(set(v))),
    _part("the largest of {what}", "max(({item} {loop}), default=0)", lambda v: max(v, default=0), takes="number"),
    _part("the smallest of {what}", "min(({item} {loop}), default=0)", lambda v: min(v, default=0), takes="number"),
    _part("a list of {what} | all {what}", "[{item} {loop}]", list),
    _part("a sorted list of {what} | {what}, sorted,", "sorted({item} {loop})", sorted),
    _part("the first of {what}", "next(({item} {loop}), None)", lambda v: v[0] if v else None),
    _part("the last of {what}", "([None] + [{item} {loop}])[-1]", lambda v: v[-1] if v else None),
    _part("{what}, joined,", "'-'.join({item} {loop})", "-".join, takes="text"),
    _part("the longest of {what}", "max(({item} {loop}), key=len, default='')", lambda v: _longest(v), takes="text"),
)


def _longest(words: list[str]) -> str:
    best = ""
    for word in words:
        best = word if len(word) > len(best) else best
    return best


def _numbers(dice: Random, k: Any) -> list:
    """Return lists that tell the constants from their neighbors: each alone."""
    near = [] if k is None else [[k], [k - 1], [k + 1]]
    return [[], *near, *([dice.randint(-9, 12) for _ in range(dice.randint(2, 8))] for _ in range(8))]


def _words(dice: Random, k: Any) -> list:
    some = [[word] for word in dice.sample(_WORDS, 8)]
    lengths = {len(word): [word] for word in _WORDS}
    near = [lengths[n] for n in (k - 1, k, k + 1) if n in lengths] if isinstance(k, int) else []
    return [[], *some, *near, *(dice.choices(_WORDS, k=dice.randint(2, 7)) for _ in range(8))]


def _prices(dice: Random, k: Any) -> list:
    near = [] if k is None else [{"pots": k}, {"pies": k - 1}, {"eggs": k + 1}]
    some = ({good: dice.randint(1, 12) for good in dice.sample(GOODS, dice.randint(1, 6))} for _ in range(8))
    return [{}, *near, *some]


NUMBERS = Family(
    argument="xs",
    variables="x",
    source="xs",
    items=list,
    keeps=(
        _part("numbers", "", lambda x, k: True),
        _part("even numbers", "x % 2 == 0", lambda x, k: x / 2 == x // 2),
        _part("odd numbers", "x % 2 == 1", lambda x, k: x / 2 != x // 2),
        _part("positive numbers", "x > 0", lambda x, k: x >= 1),
        _part("negative numbers", "x < 0", lambda x, k: x <= -1),
        _part("numbers above {k} | numbers greater than {k}", "x > {k}", lambda x, k: x >= k + 1, _SMALL),
        _part("numbers below {k} | numbers less than {k}", "x < {k}", lambda x, k: x <= k - 1, _SMALL),
        _part("multiples of {k}", "x % {k} == 0", lambda x, k: x / k == x // k, range(3, 7)),
    ),
    maps=(
        _part("the ", "x", lambda x, m: x, gives="number"),
        _part("the squares of the ", "x * x", lambda x, m: x**2, gives="number"),
        _part("the doubles of the ", "2 * x", lambda x, m: x + x, gives="number"),
        _part("the absolute values of the ", "abs(x)", lambda x, m: max(x, -x), gives="number"),
        _part("the remainders by {m} of the ", "x % {m}", lambda x, m: x - m * (x // m), range(3, 8), gives="number"),
    ),
    reduces=_REDUCES,
    inputs=_numbers,
)

WORDS = Family(
    argument="words",
    variables="w",
    source="words",
    items=list,
    keeps=(
        _part("words", "", lambda w, k: True),
        _part("words longer than {k}", "len(w) > {k}", lambda w, k: len(w) >= k + 1, range(3, 9)),
        _part("words shorter than {k}", "len(w) < {k}", lambda w, k: len(w) <= k - 1, range(4, 10)),
        _part("words of length {k}", "len(w) == {k}", lambda w, k: w[k - 1 :] == w[-1], range(3, 8)),
        _part("words that start with '{k}'", "w[0] == '{k}'", lambda w, k: w.find(k) == 0, "abcmop"),
        _part("words that end with '{k}'", "w[-1] == '{k}'", lambda w, k: w[::-1].find(k) == 0, "snkelt"),
        _part("words with an '{k}'", "'{k}' in w", lambda w, k: w.count(k) > 0, "aeo"),
    ),
    maps=(
        _part("the ", "w", lambda w, m: w, gives="text"),
        _part("the lengths of the ", "len(w)", lambda w, m: sum(1 for _ in w), gives="number"),
        _part("the first letters of the ", "w[0]", lambda w, m: next(iter(w)), gives="text"),
        _part("the last letters of the ", "w[-1]", lambda w, m: w[len(w) - 1], gives="text"),
        _part("the capitals of the ", "w.upper()", lambda w, m: "".join(chr(ord(c) - 32) for c in w), gives="text"),
    ),
    reduces=_REDUCES,
    inputs=_words,
)

PRICES = Family(
    argument="prices",
    variables="g, p",
    source="prices.items()",
    items=lambda prices: [(good, prices[good]) for good in prices],
    keeps=(
        _part("goods", "", lambda pair, k: True),
        _part("goods that cost more than {k}", "p > {k}", lambda pair, k: pair[1] >= k + 1, _SMALL),
        _part("goods that cost less than {k}", "p < {k}", lambda pair, k: pair[1] <= k - 1, _SMALL),
        _part("goods that cost {k}", "p == {k}", lambda pair, k: not pair[1] - k, _SMALL),
    ),
    maps=(
        _part("the names of the ", "g", lambda pair, m: pair[0], gives="text"),
        _part("the prices of the ", "p", lambda pair, m: pair[1], gives="number"),
        _part("the doubled prices of the ", "2 * p", lambda pair, m: pair[1] + pair[1], gives="number"),
        _part("the prices plus {m} of the ", "p + {m}", lambda pair, m: m + pair[1], range(1, 6), gives="number"),
    ),
    reduces=_REDUCES,
    inputs=_prices,
)

FAMILIES = (NUMBERS, WORDS, PRICES)
