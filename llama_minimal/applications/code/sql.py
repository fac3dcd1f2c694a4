"""From a question to SQL, scored by asking two markets of the valley: the one that is shown, and a hidden one.

Source: Zhong, Yu and Klein 2020, "Semantic Evaluation for Text-to-SQL with Distilled Test Suites" (why one database is
not enough).
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from random import Random
from zlib import crc32

from llama_minimal.applications.base import Example, check_request
from llama_minimal.applications.code.functions import draw
from llama_minimal.applications.code.grammar import GOODS

KIND = "sql"
SCHEMA = (
    "create table sellers (seller text, place text)",
    "create table prices (seller text, good text, day integer, price integer)",
)
SELLERS = ("Nora", "Max", "Sasha", "Benny", "Luna", "Otto", "Rosa", "Hugo")
PLACES = ("mill", "bridge", "barn", "market")
MOST_ROWS = 200
_MOST_STEPS = 200  # thousands of instructions of SQLite's machine
_MOST_BYTES = 10_000  # of a text or a query
_FUNCTIONS = {"count", "max", "min", "avg", "sum", "total", "abs", "round", "length", "lower", "upper", "coalesce"}

Rows = list[tuple]

# A condition: its column, in words, in SQL, and its constants.
_CONDITIONS: tuple[tuple[str, str, str, tuple], ...] = (
    ("good", "of {}", "good = '{}'", GOODS),
    ("seller", "by {}", "seller = '{}'", SELLERS),
    ("place", "at the {}", "seller in (select seller from sellers where place = '{}')", PLACES),
    ("day", "on day {}", "day = {}", tuple(range(1, 7))),
    ("price>", "above {}", "price > {}", tuple(range(20, 121, 10))),
    ("price<", "below {}", "price < {}", tuple(range(80, 181, 10))),
)
_FIGURES = {"highest price": "max(price)", "lowest price": "min(price)", "average price": "avg(price)"}
_FIGURES |= {"number": "count(*)", "total price": "sum(price)"}
_COLUMNS = ("seller", "good", "day")


@dataclass(frozen=True, slots=True)
class Question:
    """A question without its conditions; ``{}`` in the words stands for these."""

    words: str
    select: str
    tail: str = ""
    column: str = ""
    """A condition on this column would ask for what is given."""

    def split(self, conditions: tuple) -> str:
        """Return the split of a question with such conditions, whatever their constants."""
        name = " ".join([self.select, self.tail, *(condition[0] for condition in conditions)])
        return {0: "test", 1: "test", 2: "validation"}.get(crc32(name.encode()) % 10, "train")

    def example(self, conditions: tuple, dice: Random) -> Example | None:
        """Draw the constants; None where both markets give the same answer, or one has none."""
        drawn = [(words, code, dice.choice(constants)) for _, words, code, constants in conditions]
        words = " ".join(["offers", *(words.format(k) for words, _, k in drawn)])
        where = " and ".join(code.format(k) for _, code, k in drawn)
        query = f"select {self.select} from prices{' where ' + where if where else ''}{self.tail}"
        answers = [answer(query, market(seed)) for seed in (0, 1)]
        if not all(rows and rows[0] not in ((None,), (0,)) for rows in answers):
            return None
        if Counter(answers[0]) == Counter(answers[1]):  # a constant would fit both
            return None
        text = self.words.format(words)
        return Example(f"Question: {text}\nSQL:", f" {query}", KIND, extra={"question": text})


def questions() -> Iterator[Question]:
    """Yield every kind of question."""
    for words, figure in _FIGURES.items():
        yield Question(f"What is the {words} of {{}}?", figure)
        for column in _COLUMNS:
            text = f"What is the {words} of {{}} for each {column}?"
            yield Question(text, f"{column}, {figure}", f" group by {column}", column)
    for column in _COLUMNS:
        yield Question(f"Which {column}s have {{}}?", f"distinct {column}", "", column)
        for words, order in (("lowest", ""), ("highest", " desc")):
            text = f"Which {column} has the {words} price of {{}}?"
            yield Question(text, column, f" order by price{order} limit 1", column)
            text = f"List the {column}s of {{}} from the {words} price on."
            yield Question(text, f"{column}, price", f" order by price{order}", column)


def examples(n: int, *, split: str = "train", seed: int = 0) -> list[Example]:
    """Return n questions about the market, no two the same; the completion is SQL.

    A question is made of what is asked and of up to two conditions; compositions of test and validation never occur
    in training, whatever the names and numbers in them.

    Raises:
        ValueError: if n or split cannot be, or if there are not so many.
    """
    check_request(n, split)
    makers: list[Callable] = []
    for question in questions():
        for count in range(3):
            for chosen in combinations(_CONDITIONS, count):
                columns = {condition[0] for condition in chosen}
                asks = question.column not in columns and columns != {"seller", "place"}
                if asks and question.split(chosen) == split:
                    makers.append(lambda dice, q=question, c=chosen: q.example(c, dice))
    return draw(n, makers, f"{seed} {split} {KIND}")


@cache
def market(seed: int) -> sqlite3.Connection:
    """Return a market in memory that can only be read; 0 is the one that is shown, 1 the hidden one.

    No two offers have the same price, so that an order by price is one order.
    """
    database = sqlite3.connect(":memory:", check_same_thread=False)
    for statement in SCHEMA:
        database.execute(statement)
    dice = Random(f"market {seed}")
    database.executemany("insert into sellers values (?, ?)", [(name, dice.choice(PLACES)) for name in SELLERS])
    offers = [
        (name, good, day) for name in SELLERS for good in dice.sample(GOODS, 6) for day in dice.sample(range(1, 7), 3)
    ]
    prices = dice.sample(range(1, 201), len(offers))
    rows = [(*offer, price) for offer, price in zip(offers, prices, strict=True)]
    database.executemany("insert into prices values (?, ?, ?, ?)", rows)
    database.commit()
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
    database.set_authorizer(_allow)
    return database


def _allow(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    reads = action == sqlite3.SQLITE_READ and first in ("sellers", "prices")
    calls = action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS
    return sqlite3.SQLITE_OK if reads or calls or action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_DENY


def answer(query: str, database: sqlite3.Connection) -> Rows | None:
    """Return the rows that a query gives; None if it is no query, is refused, takes too long, or gives too many.

    Nothing but reading the two tables and a few functions is allowed. How long it takes is counted in steps of
    SQLite's machine, so that a busy computer changes nothing.
    """
    left = iter(range(_MOST_STEPS))
    database.set_progress_handler(lambda: next(left, None) is None, 1000)
    try:
        cursor = database.execute(query)
        rows = cursor.fetchmany(MOST_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError):
        return None
    finally:
        database.set_progress_handler(None, 1000)
    return rows if cursor.description and len(rows) <= MOST_ROWS else None  # nothing at all has no columns


def same_answers(prediction: str, reference: str) -> bool:
    """Tell whether two queries give the same rows on both markets.

    Their order matters only if the reference asks for one; how often a row occurs always does.
    """
    for seed in (0, 1):
        given, right = answer(prediction, market(seed)), answer(reference, market(seed))
        if given is None or right is None:
            return False
        if given != right and ("order by" in reference or Counter(given) != Counter(right)):
            return False
    return True
