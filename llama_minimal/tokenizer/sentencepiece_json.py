"""A SentencePiece model as a ``tokenizer.json``: the same ids, for programs that read nothing else.

The file is a protocol buffer; the numbers below are those of its fields in ``sentencepiece_model.proto``.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llama_minimal.tokenizer.json_format import added_token, begin_with

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_BPE = 2
_SPACE = "▁"


@dataclass(frozen=True, slots=True)
class _Piece:
    name: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class _Model:
    pieces: list[_Piece]
    algorithm: int
    byte_fallback: bool
    space_after_word: bool
    adds_prefix: bool
    removes_spaces: bool
    marks_spaces: bool
    changes_characters: bool


def to_json(
    content: bytes, special: dict[str, int], ordinary: dict[str, int], *, start_ids: Sequence[int]
) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``.

    Args:
        content: the SentencePiece model.
        special: name -> id of its control tokens, and of special tokens that were added.
        ordinary: name -> id of other tokens that were added.
        start_ids: what stands before every text.

    Raises:
        ValueError: if the library ``tokenizers`` would encode some text otherwise; the message says why.
    """
    model = _parse(content)
    added = special | ordinary
    if reasons := _differences(model, added):
        raise ValueError("; ".join(reasons))
    vocab = {piece.name: token_id for token_id, piece in enumerate(model.pieces)}
    renamed = {token_id: name for name, token_id in added.items() if token_id < len(model.pieces)}
    vocab = {renamed.get(token_id, name): token_id for name, token_id in vocab.items()} | added
    unknown = next(piece.name for piece in model.pieces if piece.kind == _UNKNOWN)
    return {
        "version": "1.0",
        "added_tokens": [
            added_token(name, token_id, special=name in special)
            for name, token_id in sorted(added.items(), key=lambda item: item[1])
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": None,
        "post_processor": begin_with({name: i for i in start_ids for name, j in special.items() if i == j}),
        "decoder": {"type": "Sequence", "decoders": _decoders(model)},
        "model": {
            "type": "BPE",
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": model.byte_fallback,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(model),
        },
    }


def _differences(model: _Model, added: dict[str, int]) -> list[str]:
    """Say in words what the library cannot do as SentencePiece does it."""
    normal = [piece for piece in model.pieces if piece.kind == _NORMAL]
    letters = {piece.name for piece in normal if len(piece.name) == 1}
    long = [piece for piece in normal if len(piece.name) > 1]
    tied = [p for p, other in pairwise(sorted(long, key=lambda p: p.score)) if p.score == other.score]
    ids = sorted(set(added.values()) - set(range(len(model.pieces))))
    found = {
        "it is no byte-pair encoding": model.algorithm != _BPE,
        "it changes characters before it encodes": model.changes_characters,
        "it marks spaces after words, or not at all": model.space_after_word or not model.marks_spaces,
        "it has user-defined or unused pieces": any(
            p.kind not in (_NORMAL, _UNKNOWN, _CONTROL, _BYTE) for p in model.pieces
        ),
        "two of its pieces have the same score": bool(tied) and _order_matters(long, tied[0].score),
        "a piece has letters that are no pieces": any(not letters.issuperset(piece.name) for piece in long),
        "ids are left out between its added tokens": ids
        != list(range(len(model.pieces), len(model.pieces) + len(ids))),
    }
    return [reason for reason, holds in found.items() if holds]


def _order_matters(long: list[_Piece], score: float) -> bool:
    """Say whether pieces with one score can be joined in an order that ranks do not give.

    Of pairs with the same score SentencePiece joins the leftmost. In LLaMA's model the runs of spaces have one score,
    the lowest of all: they are joined last, so that they can be tried out by themselves, run by run.
    """
    counts = Counter(piece.score for piece in long)
    runs = [piece for piece in long if piece.score == score]
    alone = score == min(counts) and all(set(piece.name) == {_SPACE} for piece in runs)
    if not alone or any(n > 1 for other, n in counts.items() if other != score):
        return True
    ranks = {len(piece.name): rank for rank, piece in enumerate(runs)}
    lengths = range(4 * max(ranks))
    return any(_joined(n, ranks) != _joined(n, dict.fromkeys(ranks, 0)) for n in lengths)


def _joined(n: int, ranks: dict[int, int]) -> list[int]:
    """Join n spaces to runs: always the neighbors whose run has the lowest rank, of equals the leftmost."""
    runs = [1] * n
    while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(runs)) if a + b in ranks]:
        _, i = min(pairs)
        runs[i : i + 2] = [runs[i] + runs[i + 1]]
    return runs


def _merges(model: _Model) -> list[list[str]]:
    """Return every way to make a piece of two others, the piece with the highest score first."""
    normal = {piece.name for piece in model.pieces if piece.kind == _NORMAL}
    best_first = sorted((p for p in model.pieces if p.kind == _NORMAL), key=lambda piece: -piece.score)
    return [
        [piece.name[:cut], piece.name[cut:]]
        for piece in best_first
        for cut in range(1, len(piece.name))
        if piece.name[:cut] in normal and piece.name[cut:] in normal
    ]


def _normalizers(model: _Model) -> list[dict[str, Any]]:
    spaces = [(rf"\A +|[ {_SPACE}]+\z", ""), (r" {2,}", " ")] if model.removes_spaces else []
    steps = [{"type": "Replace", "pattern": {"Regex": old}, "content": new} for old, new in spaces]
    if model.adds_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]


def _decoders(model: _Model) -> list[dict[str, Any]]:
    space = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    steps = [space, {"type": "ByteFallback"}, {"type": "Fuse"}]
    n_dropped = 1 << 30 if model.removes_spaces else int(model.adds_prefix)  # spaces at the beginning
    return [*steps, {"type": "Strip", "content": " ", "start": n_dropped, "stop": 0}] if n_dropped else steps


def _parse(content: bytes) -> _Model:
    sections: dict[int, list[Any]] = {}
    for number, value in _fields(content):
        sections.setdefault(number, []).append(value)
    trainer, normalizer = (dict(_fields(b"".join(sections.get(number, [])))) for number in (2, 3))
    return _Model(
        pieces=[_read_piece(piece) for piece in sections.get(1, [])],
        algorithm=trainer.get(3, 1),
        byte_fallback=bool(trainer.get(35, False)),
        space_after_word=bool(trainer.get(24, False)),
        adds_prefix=bool(normalizer.get(3, True)),
        removes_spaces=bool(normalizer.get(4, True)),
        marks_spaces=bool(normalizer.get(5, True)),
        changes_characters=bool(normalizer.get(2, b"")),
    )


def _read_piece(content: bytes) -> _Piece:
    values = dict(_fields(content))
    (score,) = struct.unpack("<f", values.get(2, bytes(4)))
    return _Piece(values.get(1, b"").decode("utf-8"), score, values.get(3, _NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of a protocol buffer's fields: numbers as they are, everything else as bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(message, position)
        else:
            size = {1: 8, 5: 4}.get(kind)
            if size is None:
                size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        yield key >> 3, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
