"""Exercises of chapter 20, responsible AI."""

import numpy as np

from llama_minimal.course.checks import responsible_answers as of
from llama_minimal.course.checks.privacy_answers import EXERCISES_PRIVACY
from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(20)

EXERCISES = {
    "temperature": Exercise(
        right=of.temperature,
        cases=[(0.7, 0.9), (0.3, 0.1), (0.9, 0.7), (0.55, 0.95)],
        draw=of.shares_case,
        mistakes={
            "upside down: the log-odds are divided by the temperature, so this is 1 over it": lambda share, wanted: (
                of.logit(wanted) / of.logit(share)
            ),
            "these are odds; take their logarithms first": lambda share, wanted: (
                (share / (1 - share)) / (wanted / (1 - wanted))
            ),
            "odds, upside down; take their logarithms, and divide the old by the new": lambda share, wanted: (
                (wanted / (1 - wanted)) / (share / (1 - share))
            ),
            "the logarithms of the shares; what a temperature divides is the log-odds, log p/(1 − p)": (
                lambda share, wanted: np.log(share) / np.log(wanted)
            ),
            "`share` is not the log-odds yet; what a temperature divides is log p/(1 − p), of both": (
                lambda share, wanted: share / of.logit(wanted)
            ),
            "`wanted` is not the log-odds yet; what a temperature divides is log p/(1 − p), of both": (
                lambda share, wanted: of.logit(share) / wanted
            ),
            "the logarithms of 1 − p; what a temperature divides is the log-odds, log p/(1 − p)": (
                lambda share, wanted: np.log(1 - share) / np.log(1 - wanted)
            ),
            "this is the ratio of the two shares": lambda share, wanted: share / wanted,
            "this is how far the log-odds move; how many times smaller or larger do they become?": (
                lambda share, wanted: of.logit(wanted) - of.logit(share)
            ),
            "the sign is lost somewhere: a temperature is positive": lambda share, wanted: (
                -of.temperature(share, wanted)
            ),
            "this is the distance from one half, as a ratio; the log-odds are not linear in the share": (
                lambda share, wanted: (share - 0.5) / (wanted - 0.5)
            ),
        },
    ),
    "lowest_cost": Exercise(
        right=of.lowest_cost,
        cases=[
            of.scored_case(_RNG),
            of.scored_case(_RNG, 12, 1.0, 4.0),
            (np.array([2.0, 1, 1, 0]), np.array([0, 1, 0, 0]), 2.0, 3.0),
            (np.array([-1.0, 0, -1, 2]), np.array([1, 1, 0, 1]), 10.0, 4.0),
        ],
        draw=lambda rng: of.scored_case(
            rng, int(rng.integers(4, 14)), float(rng.integers(1, 9)), float(rng.integers(1, 9))
        ),
        mistakes={
            "the two prices are exchanged: `miss` is for what should be refused and is shown": (
                lambda scores, labels, miss, alarm: of.lowest_cost(scores, labels, alarm, miss)
            ),
            "to refuse nothing at all is a choice, too; it may be the cheapest": of.lowest_by(nothing=False),
            "to refuse everything is a choice, too (a score *at* the threshold is refused)": of.lowest_by(
                everything=False
            ),
            "to refuse all or nothing are choices, too; one of them may be the cheapest": of.lowest_by(
                everything=False, nothing=False
            ),
            "equal scores are refused together; no threshold lies between them": of.lowest_by(ties=True),
            "this counts the mistakes; the two kinds have different prices": of.lowest_by(by=of.counted),
            "the fewest mistakes are not the lowest cost; choose the threshold by the cost": of.most_right,
            "a threshold of 0 is one of many; try every score": of.at(0.0),
            "this is the mean of an example; add the costs up": lambda scores, labels, miss, alarm: (
                of.lowest_cost(scores, labels, miss, alarm) / len(scores)
            ),
            "this is what refusing nothing costs": of.at(np.inf),
            "this is what refusing everything costs": of.at(-np.inf),
        },
    ),
    "hold": Exercise(
        right=of.held,
        cases=[
            ("such a liar", ["liar"]),
            ("how familiar", ["liar"]),
            ("you li", ["liar", "lie"]),
            ("just let it go", ["go away", "ugly"]),
            ("long ago", ["go away"]),
            ("silly", ["lie", "silly"]),
            ("you said go awa", ["away", "go away"]),
            ("all is well. ", ["liar"]),
            ("g", ["go", "a"]),
            ("a", ["away", "ugly"]),
            ("", ["lie"]),
            ("lie", ["li"]),
        ],
        draw=of.held_case,
        mistakes={
            "a finished word must wait, too: the next character may be a letter, and then it was another word": (
                of.held_by(whole=False)
            ),
            "a letter stands before it, so it is part of another word and need not wait": of.held_by(alone=False),
            "as in the chapter's filter; here the word may be finished, and no letter may stand before it": of.held_by(
                whole=False, alone=False
            ),
            "of several ends that fit, the longest counts": of.held_by(longest=False),
            "only the first of the words is looked at": of.held_by(first=True),
            "this holds back as much as the longest word has; most of it is certain already": lambda text, words: min(
                len(text), max(map(len, words))
            ),
            "this holds back the last word, whatever it is": lambda text, words: len(text.split(" ")[-1]),
            "this is how much may be shown; return how much may not": lambda text, words: (
                len(text) - of.held(text, words)
            ),
        },
    ),
} | EXERCISES_PRIVACY
