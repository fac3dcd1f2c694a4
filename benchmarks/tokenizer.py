"""Our byte-level BPE beside the ``tokenizers`` library: ``python benchmarks/tokenizer.py``.

Both learn a vocabulary from the same documents, cut by the same regular expression and spelled in the same alphabet of
bytes, and both encode them with the same vocabulary, in turn. The library may use all cores, ours uses one. A ratio is
the median over the repeats of *the library's seconds / ours*, so above 1 ours is faster; its range is the smallest and
the largest. That both did the same is checked, not timed: the ids are equal, and so are the merges, if our trainer is
given the bytes in the library's order (of equally frequent pairs each takes the one of the smallest ids).
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from llama_minimal.data import documents
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.tokenizer.bpe import learn_merges
from llama_minimal.tokenizer.json_format import BYTE_ALPHABET
from llama_minimal.tokenizer.patterns import LLAMA
from llama_minimal.tokenizer.pieces import count_pieces

VOCAB_SIZE = 8000
SPECIAL = 3


def first_bytes(corpus: str, n_bytes: int) -> Iterator[str]:
    """Yield documents until there are enough bytes."""
    done = 0
    for document in documents(corpus):
        if done >= n_bytes:
            return
        text = "".join(document.chunks())
        done += len(text.encode())
        yield text


def train_library(texts: list[str]) -> tokenizers.Tokenizer:
    """Learn as ``Tokenizer.train`` does."""
    library = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - SPECIAL, min_frequency=2, initial_alphabet=BYTE_ALPHABET, show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    return library


def check_merges(texts: list[str], library: tokenizers.Tokenizer) -> None:
    """Fail unless our trainer learns the library's merges from bytes in the library's order."""
    theirs = [tuple(merge) for merge in json.loads(library.to_str())["model"]["merges"]]
    names = sorted(BYTE_ALPHABET)
    renumbered = bytes(map(names.index, BYTE_ALPHABET))
    counts = {piece.translate(renumbered): count for piece, count in count_pieces(texts).items()}
    ours = []
    for left, right in learn_merges(counts, VOCAB_SIZE - SPECIAL - len(names)):
        ours.append((names[left], names[right]))
        names.append(names[left] + names[right])
    if ours != theirs:
        raise SystemExit("the library learned other merges")


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def print_row(task: str, name: str, n_bytes: int, ours: list[float], theirs: list[float]) -> None:
    """Print speeds and ratio as Markdown."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    speeds = " | ".join(f"{n_bytes / statistics.median(taken) / 1e6:.1f} MB/s" for taken in (ours, theirs))
    row = f"| {task} | {name} | {speeds} | **{statistics.median(ratios):.2f}×** | {ratios[0]:.2f}–{ratios[-1]:.2f} |"
    print(row, flush=True)


def compare_training(texts: list[str], repeats: int) -> tuple[list[float], list[float]]:
    """Time both at learning a vocabulary."""
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(seconds(lambda: Tokenizer.train(texts, vocab_size=VOCAB_SIZE)))
        theirs.append(seconds(lambda: train_library(texts)))
    return ours, theirs


def compare_encoding(texts: list[str], trained: Tokenizer, repeats: int, *, batch: bool) -> tuple[list[float], ...]:
    """Time our way to encode beside the library's ``encode_batch``; caches are empty each time."""
    ours, theirs = [], []
    for _ in range(repeats):
        codec, library = Tokenizer(trained.merges), tokenizers.Tokenizer.from_str(trained.to_json())
        library.encode_special_tokens = True
        encode = codec.encode_batch if batch else partial(map, codec.encode)
        ours.append(seconds(partial(_all, encode, texts)))
        theirs.append(seconds(partial(library.encode_batch, texts, add_special_tokens=False)))
    some = texts[:: len(texts) // 500 + 1]
    assert codec.encode_batch(some) == [e.ids for e in library.encode_batch(some, add_special_tokens=False)]
    return ours, theirs


def _all(encode: Callable[[list[str]], Iterable[list[int]]], texts: list[str]) -> list[list[int]]:
    return list(encode(texts))


def compare(corpus: str, args: argparse.Namespace) -> None:
    """Measure one corpus."""
    texts = list(first_bytes(corpus, args.megabytes * 1_000_000))
    n_bytes = sum(len(text.encode()) for text in texts)
    name = f"{Path(corpus).name}, {n_bytes / 1e6:.0f} MB"
    if "train" in args.only:
        print_row("train", name, n_bytes, *compare_training(texts, args.repeats))
    if "check" in args.only:
        check_merges(texts, train_library(texts))
    trained = Tokenizer.train(texts, vocab_size=VOCAB_SIZE) if {"batch", "single"} & set(args.only) else None
    for task, way in (("batch", "encode_batch"), ("single", "encode, one by one")):
        if task in args.only:
            taken = compare_encoding(texts, trained, args.repeats, batch=task == "batch")
            print_row(way, name, n_bytes, *taken)


def main() -> None:
    """Measure every corpus that was asked for."""
    tasks = ("train", "check", "batch", "single")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=["valley:70000", "python-source"])
    parser.add_argument("--megabytes", type=int, default=50, help="of each corpus; all of it if it has less")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=tasks, default=list(tasks))
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, tokenizers {tokenizers.__version__}, vocabulary {VOCAB_SIZE:,}\n")
    print("| task | text | llama_minimal | tokenizers | ratio | its range |\n|---|---|---|---|---|---|", flush=True)
    for corpus in args.corpora:
        compare(corpus, args)


if __name__ == "__main__":
    main()
