"""Right and wrong answers to the exercises of chapter 13."""

import math
import statistics
from collections.abc import Callable

import numpy as np

Median = Callable[[list[float]], float]


def repeats(idf: float, score: float, mean_length: float, k1: float, b: float) -> int:
    """Return how often a sentence must repeat a word, and nothing else, to get more than a score; 0 if never."""
    slope = idf - score * (1 + k1 * b / mean_length)
    return 0 if slope <= 0 else math.floor(score * k1 * (1 - b) / slope) + 1


def without_length(idf: float, score: float, mean_length: float, k1: float, b: float) -> int:
    """Leave out that a longer sentence counts less."""
    return repeats(idf, score, mean_length, k1, 0.0)


def other_k1(change: Callable[[float], float]) -> Callable:
    """Return an answer with another k1."""
    return lambda idf, score, mean_length, k1, b: repeats(idf, score, mean_length, change(k1), b)


def when_it_never_can(value: Callable[..., float]) -> Callable:
    """Return an answer that is wrong where no number of repetitions is enough."""

    def answer(idf: float, score: float, mean_length: float, k1: float, b: float) -> float:
        return repeats(idf, score, mean_length, k1, b) or value(idf, score, mean_length, k1, b)

    return answer


def formula_without_its_case(idf: float, score: float, mean_length: float, k1: float, b: float) -> int:
    """Solve for the number without a look at the sign."""
    slope = idf - score * (1 + k1 * b / mean_length)
    return math.floor(score * k1 * (1 - b) / slope) + 1 if slope else 0


def stuffing_case(rng: np.random.Generator) -> tuple[float, float, float, float, float]:
    """Draw a word, a score to beat, and the constants."""
    idf, score, mean_length, k1, b = rng.uniform(size=5) * (4, 3, 12, 1, 1) + (1, 0.3, 4, 0.8, 0)
    return float(idf), float(score), float(mean_length), float(k1), float(b)


def median(numbers: list[float]) -> float:
    """Return the median."""
    ordered, half = sorted(numbers), len(numbers) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def library_median(numbers: list[float]) -> float:
    """Return the library's median."""
    return statistics.median(numbers)


def upper(numbers: list[float]) -> float:
    """Of two in the middle, take the upper."""
    return sorted(numbers)[len(numbers) // 2]


def lower(numbers: list[float]) -> float:
    """Of two in the middle, take the lower."""
    return sorted(numbers)[(len(numbers) - 1) // 2]


def unsorted(numbers: list[float]) -> float:
    """Forget to sort."""
    half = len(numbers) // 2
    return numbers[half] if len(numbers) % 2 else (numbers[half - 1] + numbers[half]) / 2


def in_place(numbers: list[float]) -> float:
    """Sort the list that was given."""
    numbers.sort()
    return median(numbers)


def rounded(numbers: list[float]) -> float:
    """Divide without a fraction."""
    ordered, half = sorted(numbers), len(numbers) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) // 2


def by_size(numbers: list[float]) -> float:
    """Sort without the sign."""
    ordered, half = sorted(numbers, key=abs), len(numbers) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def without_doubles(numbers: list[float]) -> float:
    """Count each number once."""
    return median(list(set(numbers)))


def mean(numbers: list[float]) -> float:
    """Return the mean."""
    return sum(numbers) / len(numbers)


MEDIANS: dict[Median, bool] = {
    median: True,
    library_median: True,
    upper: False,
    lower: False,
    unsorted: False,
    in_place: False,
    rounded: False,
    by_size: False,
    without_doubles: False,
    mean: False,
}


def hidden_test(function: Median) -> bool:
    """Say whether a function is a median: no wrong one of ``MEDIANS`` passes."""
    for given in ([5, 1, 4], [4, 1, 3, 2], [-9, 2, 1], [1, 1, 1, 5, 9], [7], [1, 2, 10, 20]):
        numbers = list(given)
        if function(numbers) != median(given) or numbers != given:
            return False
    return True


def lets_through(*wrong: Median) -> Callable[[Median], bool]:
    """Return a test that some wrong functions pass."""
    return lambda function: MEDIANS[function] or function in wrong


def ledger_errors(price: int, sales: list, total: int, spent: int, balance: int) -> int:
    """Return how many stated sums do not follow from the numbers that they are made of."""
    wrong = sum(pieces * price != paid for pieces, paid in sales)
    return wrong + (sum(paid for _, paid in sales) != total) + (total - spent != balance)


def parts_of_ledger(*parts: Callable) -> Callable:
    """Return a check that adds up some parts."""
    return lambda *ledger: int(sum(part(*ledger) for part in parts))


def wrong_sales(price: int, sales: list, total: int, spent: int, balance: int) -> int:
    """Return how many sales are wrong."""
    return sum(pieces * price != paid for pieces, paid in sales)


def wrong_total(price: int, sales: list, total: int, spent: int, balance: int) -> int:
    """Say whether the total is wrong."""
    return int(sum(paid for _, paid in sales) != total)


def wrong_balance(price: int, sales: list, total: int, spent: int, balance: int) -> int:
    """Say whether the balance is wrong."""
    return int(total - spent != balance)


def ledger(rng: np.random.Generator) -> tuple[int, list, int, int, int]:
    """Draw a ledger, in which some sums may be wrong."""
    price, pieces = int(rng.integers(1, 5)), rng.integers(1, 6, size=rng.integers(1, 4)).tolist()
    sales = [(n, n * price + int(rng.integers(0, 5) == 0)) for n in pieces]
    total = sum(paid for _, paid in sales) + int(rng.integers(0, 3) == 0)
    spent = int(rng.integers(0, 4))
    return price, sales, total, spent, total - spent + int(rng.integers(0, 3) == 0)


def paired(a: np.ndarray, b: np.ndarray) -> float:
    """Return by how many standard errors a is right more often than b, over the examples on which they differ."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return (only_a - only_b) / math.sqrt(only_a + only_b) if only_a + only_b else 0.0


def unpaired(a: np.ndarray, b: np.ndarray) -> float:
    """Treat the two as if they had answered other questions."""
    spread = sum(one.mean() * (1 - one.mean()) for one in (a, b)) / len(a)
    return float((a.mean() - b.mean()) / math.sqrt(spread)) if spread else 0.0


def over(count: Callable[[np.ndarray, np.ndarray], float]) -> Callable:
    """Return the difference in units of another root."""
    return lambda a, b: float((int(a.sum()) - int(b.sum())) / math.sqrt(count(a, b) or 1))


def answers(rng: np.random.Generator, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Draw which questions two systems answer; most of them both or neither."""
    a = rng.random(n) < 0.6
    return a, np.where(rng.random(n) < 0.25, rng.random(n) < 0.4, a)
