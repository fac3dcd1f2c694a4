"""Exercises of chapter 13, applications."""

import numpy as np

from llama_minimal.course.checks import application_answers as of
from llama_minimal.course.checks import metric_answers as metric
from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(13)
_SATURDAY = ["the bear sang softly on the old bridge", "a cat a cat sat on a mat"]
_SUNDAY = ["the bear sang a soft song on the bridge", "the cat sat on the mat again"]

EXERCISES = {
    "chrf": Exercise(
        right=metric.right_chrf,
        cases=[
            (_SATURDAY, _SUNDAY, 6, 2.0),
            (["a cat"], ["the cat sat"], 6, 2.0),
            (_SUNDAY, _SATURDAY, 2, 3.0),
            (["xyz"], ["the cat"], 3, 2.0),
        ],
        draw=metric.texts,
        mistakes={
            "the spaces are counted; take them out first": metric.wrong_chrf(spaces=True),
            "this is the mean of the sentences' scores; add up the counts of all sentences first": metric.chrf_of_means,
            "recall and precision are exchanged: β² stands with the precision, below": lambda hyp, ref, order, beta: (
                metric.right_chrf(ref, hyp, order, beta)
            ),
            "this is F with β = 1; recall counts β times as much": lambda hyp, ref, order, beta: metric.right_chrf(
                hyp, ref, order, 1.0
            ),
            "each kind of n-gram counts once; count how often it occurs": metric.wrong_chrf(
                made=lambda text, n: metric.Counter(dict.fromkeys(metric.ngrams(text, n), 1))
            ),
            "a hypothesis that repeats an n-gram gets it again: it counts at most as often as in the reference": (
                metric.wrong_chrf(common=lambda ours, theirs: sum(ours[one] for one in ours if one in theirs))
            ),
            "the n-grams of all lengths are in one pot; average P and R over the lengths": metric.chrf_pooled,
            "this is the mean of the F-scores of the lengths; average P and R first": metric.chrf_by_length,
            "a length of which one side has no n-gram is left out, and does not count as 0": metric.wrong_chrf(
                left_out=False
            ),
            "these are the longest n-grams alone": metric.wrong_chrf(lengths=lambda order: [order]),
            "the longest n-grams are missing: the lengths are 1 to `order`": metric.wrong_chrf(
                lengths=lambda order: range(1, order)
            ),
            "this is a fraction; give percent": lambda *case: metric.right_chrf(*case) / 100,
        },
    ),
    "one_wrong_word": Exercise(
        right=metric.one_wrong_word,
        cases=[(10, 5), (10, 0), (10, 9), (12, 1), (8, 3), (20, 17)],
        draw=lambda rng: (n := int(rng.integers(8, 30)), int(rng.integers(0, n))),
        mistakes={
            "at an end of the sentence fewer n-grams have the word": lambda n, i: metric.one_wrong_word(
                n, i, hit=lambda n, i, k: k
            ),
            "a wrong word spoils more than one n-gram of two words and longer": lambda n, i: metric.one_wrong_word(
                n, i, hit=lambda n, i, k: 1
            ),
            "the words are counted from 0": lambda n, i: metric.one_wrong_word(n, max(i - 1, 0)),
            "the four shares are averaged; BLEU takes the fourth root of their product": lambda n, i: float(
                100 * np.mean([(n - k + 1 - metric.touched(n, i, k)) / (n - k + 1) for k in range(1, 5)])
            ),
            "this is the product; the fourth root is missing": lambda n, i: (
                100 * (metric.one_wrong_word(n, i) / 100) ** 4
            ),
            "these are the words alone: n-grams of two to four words count as well": lambda n, i: 100 * (n - 1) / n,
            "n words have n − k + 1 k-grams, not n": lambda n, i: (
                100 * float(np.prod([(n - metric.touched(n, i, k)) / n for k in range(1, 5)]) ** 0.25)
            ),
            "this is a fraction; give percent": lambda n, i: metric.one_wrong_word(n, i) / 100,
        },
    ),
    "stuffing": Exercise(
        right=of.repeats,
        cases=[
            (3.0, 1.5, 10.0, 1.2, 0.75),
            (2.0, 1.0, 8.0, 1.0, 0.0),
            (2.0, 2.5, 10.0, 1.2, 0.75),
            (2.0, 1.9, 10.0, 1.2, 0.75),
            (3.0, 2.6, 10.0, 1.2, 0.75),
            (2.5, 1.0, 6.0, 2.0, 0.5),
        ],
        draw=of.stuffing_case,
        mistakes={
            "the sentence grows with each repetition, and a long one counts less": of.without_length,
            "the sentence grows with each repetition: its d is f, and d/d̄ is not 0": lambda idf, score, mean, k1, b: (
                of.repeats(idf, score, np.inf, k1, b)
            ),
            "as many as needed for a tie; it must get more than the score": lambda idf, score, mean, k1, b: max(
                0, of.repeats(idf, score - 1e-9, mean, k1, b)
            ),
            "one repetition too few": lambda *case: max(0, of.repeats(*case) - 1),
            "one repetition too many": lambda *case: of.repeats(*case) + (of.repeats(*case) > 0),
            "in some cases no number of repetitions is enough: return 0 there": of.formula_without_its_case,
            "in the cases in which no number is enough, return 0": of.when_it_never_can(lambda *_: -1),
            "in the cases in which no number is enough, return 0, not infinity": of.when_it_never_can(
                lambda *_: np.inf
            ),
            "the factor k1 + 1 is not in this chapter's formula": lambda idf, score, mean, k1, b: of.repeats(
                idf * (k1 + 1), score, mean, k1, b
            ),
            "k1 is missing: it says how slowly repetitions add up": of.other_k1(lambda k1: 1.0),
            "this is for the longest sentences alone, b = 1": lambda idf, score, mean, k1, b: of.repeats(
                idf, score, mean, k1, 1.0
            ),
        },
    ),
    "hidden_test": Exercise(
        right=of.hidden_test,
        cases=[(function,) for function in of.MEDIANS],
        mistakes={
            "with an odd count of numbers there is one in the middle: test an even one, too": of.lets_through(
                of.upper, of.lower, of.rounded
            ),
            "a function that takes the upper of the two in the middle passes it": of.lets_through(of.upper),
            "a function that takes the lower of the two in the middle passes it": of.lets_through(of.lower),
            "a function that divides with // passes it: let the two in the middle have an odd sum": of.lets_through(
                of.rounded
            ),
            "a function that does not sort passes it": of.lets_through(of.unsorted),
            "a function that sorts the caller's list passes it: look at the list afterwards": of.lets_through(
                of.in_place
            ),
            "a function that sorts without the signs passes it: test numbers below 0": of.lets_through(of.by_size),
            "a function that drops repeated numbers passes it": of.lets_through(of.without_doubles),
            "a function that returns the mean passes it": of.lets_through(of.mean),
            "two wrong functions pass it: one sorts the caller's list, one drops the signs": of.lets_through(
                of.in_place, of.by_size
            ),
            "two wrong functions pass it: one sorts the caller's list, one drops repeated numbers": of.lets_through(
                of.in_place, of.without_doubles
            ),
            "two wrong functions pass it: one drops the signs, one drops repeated numbers": of.lets_through(
                of.by_size, of.without_doubles
            ),
            "three wrong functions pass it: they drop signs, drop repeated numbers, or sort the caller's list": (
                of.lets_through(of.by_size, of.without_doubles, of.in_place)
            ),
            "it refuses a right function: the library's median": lambda function: function is of.median,
            "it refuses a function that is right": lambda function: False,
            "it lets wrong functions pass, and the one that is named is among them": lambda function: True,
            "it says True for the wrong ones, and False for the right ones": lambda function: not of.MEDIANS[function],
        },
    ),
    "ledger": Exercise(
        right=of.ledger_errors,
        cases=[
            (2, [(4, 8), (1, 2)], 10, 0, 10),
            (2, [(4, 8), (1, 3)], 11, 3, 8),
            (3, [(2, 6), (5, 15)], 20, 4, 16),
            (3, [(2, 5), (5, 12), (1, 3)], 20, 4, 14),
            (1, [(3, 3)], 3, 2, 5),
            (4, [(2, 8)], 10, 1, 9),
        ],
        draw=of.ledger,
        mistakes={
            "the balance is not checked": of.parts_of_ledger(of.wrong_sales, of.wrong_total),
            "the total is not checked": of.parts_of_ledger(of.wrong_sales, of.wrong_balance),
            "the sales are not checked: each is pieces times price": of.parts_of_ledger(
                of.wrong_total, of.wrong_balance
            ),
            "these are the wrong sales alone": of.wrong_sales,
            "what was spent is missing in the balance": lambda price, sales, total, spent, balance: of.ledger_errors(
                price, sales, total, 0, balance
            ),
            "what was spent is added; it is taken from the total": lambda price, sales, total, spent, balance: (
                of.ledger_errors(price, sales, total, -spent, balance)
            ),
            "the total is that of the stated sums, not of pieces times price": lambda price, sales, total, *rest: (
                of.wrong_sales(price, sales, total, *rest)
                + (sum(pieces for pieces, _ in sales) * price != total)
                + of.wrong_balance(price, sales, total, *rest)
            ),
            "the balance follows from the stated total, not from the sales": lambda price, sales, total, spent, left: (
                of.parts_of_ledger(of.wrong_sales, of.wrong_total)(price, sales, total, spent, left)
                + (sum(paid for _, paid in sales) - spent != left)
            ),
            "all wrong sales together count as one; count each": lambda *case: (
                int(of.wrong_sales(*case) > 0) + of.wrong_total(*case) + of.wrong_balance(*case)
            ),
            "this says whether there is an error; count them": lambda *case: int(of.ledger_errors(*case) > 0),
            "these are the sums that are right": lambda price, sales, *rest: (
                len(sales) + 2 - of.ledger_errors(price, sales, *rest)
            ),
        },
    ),
    "paired": Exercise(
        right=of.paired,
        cases=[
            of.answers(_RNG),
            of.answers(_RNG, 60),
            (np.array([True, True, False, True]), np.array([True, True, False, True])),
            (np.array([True, True, True, False, True, True]), np.array([False, True, False, False, False, True])),
        ],
        draw=of.answers,
        mistakes={
            "this treats the two as if they had answered different questions; look at those on which they differ": (
                of.unpaired
            ),
            "the sign is turned: above 0 where a is better": lambda a, b: of.paired(b, a),
            "this is the square, as in a χ² table; give the root, with its sign": lambda a, b: of.paired(a, b) ** 2,
            "this divides by the root of all examples; only those on which they differ can vary": of.over(
                lambda a, b: len(a)
            ),
            "this divides by the number of differences, and not by its root": lambda a, b: (
                of.paired(a, b) / np.sqrt((a != b).sum() or 1)
            ),
            "the root is taken of the wrong number: of those that a alone got right": of.over(
                lambda a, b: int((a & ~b).sum())
            ),
            "these are percent of the examples, not standard errors": lambda a, b: 100 * float(a.mean() - b.mean()),
            "this is the difference itself; divide by its standard error": lambda a, b: int(a.sum()) - int(b.sum()),
            "where the two never differ, 0 / 0 is not a number: return 0": lambda a, b: (
                of.paired(a, b) if (a != b).any() else np.nan
            ),
        },
    ),
}
