"""Exercises of chapter 18, adaptive computation."""

import numpy as np

from llama_minimal.course.checks import adaptive_answers as of
from llama_minimal.course.exercises import Exercise

EXERCISES = {
    "accept": Exercise(
        right=of.step,
        cases=[
            (of.P, of.Q, 1, 0.3, 0.93),
            (of.P, of.Q, 1, 0.45, 0.93),
            (of.P, of.Q, 1, 0.45, 0.1),
            (of.P, of.Q, 0, 0.99, 0.9),
            (of.P, of.Q, 3, 0.7, 0.85),
            (of.P, of.Q, 3, 0.3, 0.85),
            (of.P, of.Q, 3, 0.7, 0.35),
            (of.P, of.Q, 1, 0.95, 0.72),
            (of.P, of.Q, 1, 0.45, 0.6),
        ],
        mistakes={
            "the ratio is upside down: a token is kept with probability p/q": of.slip(
                chance=lambda p, q, x: q[x] / p[x]
            ),
            "it keeps with probability p, whatever q says; the draft has weighed it with q already": of.slip(
                chance=lambda p, q, x: p[x]
            ),
            "it keeps every candidate; that gives q": of.slip(chance=lambda p, q, x: 1.0),
            "it keeps a candidate only if p is at least q there; below, p/q of them stay": of.slip(
                chance=lambda p, q, x: float(p[x] >= q[x])
            ),
            "in the place of a refused one it draws from p; draw from what p has over q": (
                of.slip(rest=lambda p, q, x: p)
            ),
            "it draws from p without the refused token; what p has over q is another thing": of.slip(rest=of.without),
            "it draws from |p − q|; only where p is larger is something missing": of.slip(
                rest=lambda p, q, x: np.abs(p - q)
            ),
            "it draws from what q has over p; the other way round": of.slip(rest=lambda p, q, x: np.maximum(q - p, 0)),
            "what p has over q is not made to sum to 1 before the dart is thrown": of.slip(norm=False),
            "the second dart is w; u has been thrown already, and is not small where a candidate is refused": of.slip(
                dart=lambda u, w: u
            ),
            "it takes the likeliest of what is left; throw the dart w": of.slip(
                dart=lambda u, w: np.cumsum(of.ROOM / of.ROOM.sum())[of.ROOM.argmax()] - 1e-9
            ),
        },
    ),
    "expected": Exercise(
        right=of.expected,
        cases=[([0.5, 0.5],), ([0.9, 0.5, 0.1],), ([0.1, 0.5, 0.9],), ([0.75],), ([1.0, 1.0, 1.0, 1.0],), ([],)],
        mistakes={
            "the token that comes in any case is missing": lambda chances: of.expected(chances, more=0.0),
            "a candidate counts only if all before it are kept: multiply the chances before you add": lambda chances: (
                1 + float(np.sum(chances))
            ),
            "this is the chance that all are kept, and one": lambda chances: 1 + float(np.prod(chances)),
            "it puts the mean chance into the formula; kept runs end at the first bad place": lambda chances: (
                of.even(chances) if len(chances) else 1.0
            ),
            "the chances are multiplied from the far end; the first candidate comes first": lambda chances: of.expected(
                list(chances)[::-1]
            ),
            "it leaves out the last candidate": lambda chances: of.expected(list(chances)[:-1]),
        },
    ),
    "best": Exercise(
        right=of.best,
        cases=[
            (0.8, 0.1, 0.0, 12),
            (0.8, 0.1, 0.2, 12),
            (0.3, 0.5, 0.2, 12),
            (0.9, 0.8, 0.1, 12),
            (0.95, 0.02, 0.01, 8),
            (0.6, 0.05, 0.0, 12),
        ],
        mistakes={
            "n = 0, to write without a draft, is a choice, too: its speed is 1": lambda *case: int(
                of.speeds(*case)[1:].argmax() + 1
            ),
            "this is an index and not n; is your list one that begins with n = 1?": lambda *case: int(
                of.speeds(*case)[1:].argmax()
            ),
            "these are the most tokens a pass, whatever they cost": lambda alpha, c, slope, most: most,
            "the wider pass is free here; it costs 1 + slope · n": lambda alpha, c, slope, most: of.best(
                alpha, c, 0.0, most
            ),
            "the draft is free here; it costs n · c": lambda alpha, c, slope, most: of.best(alpha, 0.0, slope, most),
            "the draft takes one step here; n candidates take n": lambda alpha, c, slope, most: int(
                (np.cumsum(alpha ** np.arange(most + 1)) / (1 + c + slope * np.arange(most + 1))).argmax()
            ),
            "the token that comes in any case is missing in the numerator": lambda alpha, c, slope, most: int(
                ((np.cumsum(alpha ** np.arange(most + 1)) - 1) / (1 + (c + slope) * np.arange(most + 1))).argmax()
            ),
            "this is the speed; which n has it?": lambda *case: float(of.speeds(*case).max()),
        },
    ),
    "written": Exercise(
        right=of.written,
        cases=[
            ([5, 6, 7], [5, 6, 7, 8]),
            ([5, 9, 7], [5, 6, 7, 8]),
            ([4, 6, 7], [5, 6, 7, 8]),
            ([5, 6, 9], [5, 6, 7, 8]),
            ([], [5]),
            ([6, 6, 6, 6], [6, 6, 5, 6, 6]),
        ],
        mistakes={
            "this is the function above: a match after the first miss was made after another text": of.as_it_was,
            "candidate i is compared with what the model says after it; choices[i] is what it says in its place": (
                of.late
            ),
            "the model's own token is missing: after the kept ones it has one more": lambda a, b: of.written(a, b)[:-1],
            "in the place of the first miss comes the model's choice, not the candidate": lambda a, b: list(
                (*a, *b[-1:])[: len(of.written(a, b))]
            ),
            "it writes all that the model chose; after the first miss these were answers to another text": (
                lambda a, b: list(b)
            ),
            "it writes all candidates; the model has to agree": lambda a, b: [*a, b[-1]],
            "all candidates or none: kept are those before the first miss": lambda a, b: (
                list(b) if list(a) == list(b[:-1]) else [b[0]]
            ),
        },
    ),
    "batch": Exercise(
        right=of.batch,
        cases=[(of.confidence(0, 5, 3, 3), 0.75), (of.confidence(1, 4, 2, 5), 0.875), (of.confidence(2, 3, 1, 2), 0.5)],
        mistakes={
            "a token leaves if its confidence is *at least* the threshold": lambda confidence, threshold: of.layers(
                of.depths(confidence, threshold, reaches=np.greater)
            ),
            "a token for which no exit is sure uses all E + 1 layers; argmax of a row without True is 0": (
                lambda confidence, threshold: of.layers((confidence >= threshold).argmax(-1) + 1)
            ),
            "a token for which no exit is sure uses E + 1 layers: those after the last exit, too": (
                lambda confidence, threshold: of.layers(
                    np.minimum(of.depths(confidence, threshold), confidence.shape[-1])
                )
            ),
            "the first exit is after one layer: depth is place plus 1": lambda confidence, threshold: of.layers(
                of.depths(confidence, threshold) - 1
            ),
            "a token leaves at the first exit that is sure, not at the last": of.last_sure,
            "a layer runs for the batch if *any* row needs it: the largest depth of a step, not the mean": (
                lambda confidence, threshold: (of.batch(confidence, threshold)[0],) * 2
            ),
            "the smallest depth: there the first row leaves, and the others still need the layers above": (
                lambda confidence, threshold: (
                    of.batch(confidence, threshold)[0],
                    float(of.depths(confidence, threshold).min(1).mean()),
                )
            ),
            "the largest depth of each row over time; the rows of one *step* share a layer": (
                lambda confidence, threshold: (
                    of.batch(confidence, threshold)[0],
                    float(of.depths(confidence, threshold).max(0).mean()),
                )
            ),
            "the other way round: first the mean depth of a token, then the layers that the batch runs": (
                lambda *case: of.batch(*case)[::-1]
            ),
        },
    ),
}
