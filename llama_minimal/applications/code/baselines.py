"""What predicts code without a model: looking up the nearest example, and counting characters."""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from llama_minimal.applications.base import Example, Predictor
from llama_minimal.applications.code import completion, sql
from llama_minimal.ngrams import KEY_BITS, NGram
from llama_minimal.retrieval import Index

_LONGEST = 50  # pieces of a prediction
_PIECES = re.compile(r"\n|[^\S\n]+|\w+|[^\w\s]")
_NAMES = {"GOOD": sql.GOODS, "SELLER": sql.SELLERS, "PLACE": sql.PLACES}
_KIND_OF = {name: kind for kind, names in _NAMES.items() for name in names}
_CONSTANT = re.compile(rf"'\w'|\b(?:{'|'.join(_KIND_OF)}|\d+)\b")


def look_up(train: Sequence[Example]) -> Predictor:
    """Answer with the nearest training example's code, and a line with the most frequent one that begins like it.

    In code, the constants of the nearest text are replaced by those of the text at hand, by kind and in order.
    """
    lines = _line_completer([one for one in train if one.kind == completion.KIND])
    others = {kind: [e for e in train if e.kind == kind] for kind in {e.kind for e in train} - {completion.KIND}}
    nearest = {kind: _nearest(some) for kind, some in others.items()}
    by_kind = {completion.KIND: lines} | nearest
    return lambda examples: [by_kind[one.kind](one) if one.kind in by_kind else "" for one in examples]


def n_grams(train: Sequence[Example]) -> Predictor:
    """Write the most likely word or sign after the last few, again and again, to the end of the line; by kind."""
    by_kind = {kind: _NextPiece([one for one in train if one.kind == kind]) for kind in {one.kind for one in train}}
    return lambda examples: [by_kind[one.kind].write(one.prompt) if one.kind in by_kind else "" for one in examples]


class _NextPiece:
    """N-grams of words, spaces and signs, as long as fit in a key."""

    def __init__(self, train: Sequence[Example]) -> None:
        texts = [_PIECES.findall(f"{one.prompt}{one.completion}\n") for one in train]
        self.pieces = ["", *dict.fromkeys(piece for text in texts for piece in text)]  # the first begins a text
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        order = KEY_BITS // max(1, (len(self.pieces) - 1).bit_length())
        stream = np.array([self.ids[piece] for text in texts for piece in ("", *text)])
        self.model = NGram.train(stream, order=order, vocab_size=len(self.pieces), bos_id=0)

    def write(self, prompt: str) -> str:
        """Return what follows a prompt; of a piece that was never seen, nothing is known."""
        known = [self.ids.get(piece, 0) for piece in _PIECES.findall(prompt)]
        rng = np.random.default_rng(0)  # nothing is drawn at temperature 0
        ids = self.model.sample(known, _LONGEST, rng=rng, temperature=0, stop_id=self.ids["\n"])
        return "".join(self.pieces[i] for i in ids).strip()


def _line_completer(train: Sequence[Example]) -> Callable[[Example], str]:
    counts = Counter(
        line.strip() for one in train for line in (one.prompt + one.completion).split("\n") if line.strip()
    )
    lines = sorted(counts)

    def complete(one: Example) -> str:
        beginning = one.extra["beginning"].lstrip()
        found = []
        for line in lines[bisect_left(lines, beginning) :]:
            if not line.startswith(beginning):
                break
            if line != beginning:
                found.append(line)
        best = max(found, key=lambda line: counts[line], default=beginning)
        return best[len(beginning) :].strip()

    return complete


def _nearest(train: Sequence[Example]) -> Callable[[Example], str]:
    index = Index([_masked(one.extra["question"]) for one in train], method="tfidf")

    def find(one: Example) -> str:
        question = one.extra["question"]
        found = index.search(_masked(question), k=1)
        if not found:
            return ""
        near = train[found[0].index]
        mine, theirs = _constants(question), _constants(near.extra["question"])
        change = {old: new for kind in theirs for old, new in zip(theirs[kind], mine[kind], strict=False)}
        return _CONSTANT.sub(lambda match: change.get(match[0], match[0]), near.completion).strip()

    return find


def _masked(text: str) -> str:
    return _CONSTANT.sub(lambda match: _kind(match[0]), text)


def _constants(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for constant in _CONSTANT.findall(text):
        found[_kind(constant)].append(constant)
    return found


def _kind(constant: str) -> str:
    return _KIND_OF.get(constant) or ("NUMBER" if constant.isdigit() else "LETTER")
