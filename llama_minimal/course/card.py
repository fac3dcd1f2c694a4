"""The card of the course model: how it was made, and what it can do, measured on stories that it has not seen."""

import hashlib
import json
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import llama_minimal
from llama_minimal.checkpoint import COURSE
from llama_minimal.config import read_json
from llama_minimal.data import TokenFile, documents, read_corpus_info
from llama_minimal.data.valley import Story, ValleySettings, stories
from llama_minimal.data.valley.checker import check_many
from llama_minimal.evaluation import Evaluation, sum_loss, wilson_interval
from llama_minimal.files import replace_file
from llama_minimal.generation import generate
from llama_minimal.memorization import match_lengths, novel_share
from llama_minimal.model import Llama
from llama_minimal.ngrams import NGram
from llama_minimal.settings import Sampling
from llama_minimal.tokenizer import TextCodec

CARD = "card.json"
HELD_OUT_SEED = 1000  # the model was trained on seed 0
ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3, "5-gram": 5}
TEMPERATURE = 0.8
# A story ends where a task about it begins.
_TASK = re.compile(r"\n\n(Question|Sentiment|Summary|Chinese|English|User|Fields|Record|Ledger|Ruling)\b.*", re.DOTALL)

Say = Callable[[str], None]


def read_card(folder: Path = COURSE) -> dict[str, Any]:
    """Return the card of the course model."""
    return read_json(folder / CARD)


def write_card(card: dict[str, Any], folder: Path = COURSE) -> None:
    """Write the card of the course model."""
    replace_file(folder / CARD, (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def checksums(folder: Path = COURSE) -> dict[str, str]:
    """Return the SHA-256 of the files that make the model."""
    names = ("config.json", "model.safetensors", "tokenizer.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def versions() -> dict[str, str]:
    """Return the versions that measurements depend on."""
    return {
        "llama_minimal": llama_minimal.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
    }


def held_out(n: int, *, seed: int = HELD_OUT_SEED) -> list[Story]:
    """Return stories that cannot have been trained on: another seed, and the split for tests."""
    return list(stories(n, ValleySettings(seed=seed), split="test"))


def training_tokens(
    tokenizer: TextCodec, corpus: str, *, data: Path | None = None, say: Say = lambda _: None
) -> np.ndarray:
    """Return the tokens that the model was trained on: those of its run if there are any, or generated anew.

    Args:
        corpus: the source, such as "valley:500".
        data: folder of the encoded corpus.

    Raises:
        ValueError: if the encoded corpus was written with another tokenizer.
    """
    if data is not None:
        if read_corpus_info(data).tokenizer_sha256 != tokenizer.fingerprint:
            raise ValueError(f"{data} was encoded with another tokenizer than the model's; leave it out")
        return TokenFile.open(data, "train").tokens
    say("generating the training text")
    texts = [document.text for document in documents(corpus)]
    say("encoding it")
    return token_stream(tokenizer, texts)


def token_stream(tokenizer: TextCodec, texts: Sequence[str]) -> np.ndarray:
    """Encode texts into one stream, each between its bos and eos, (n,)."""
    return np.concatenate([np.array(ids, np.uint16) for ids in tokenizer.encode_batch(texts, bos=True, eos=True)])


def measure(
    model: Llama,
    tokenizer: TextCodec,
    train: np.ndarray,
    *,
    n_stories: int = 1000,
    n_samples: int = 1000,
    n_ngram_samples: int = 200,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Return what the card says about the model and the n-gram models beside it.

    Args:
        train: token ids that the n-gram models count, and in which copies are looked for.
        n_stories: held-out stories for perplexity and bits per byte.
        n_samples: stories that the model writes for the checker; ``n_ngram_samples``: each of the others.
        say: called with what is being done.
    """
    tales = held_out(max(n_stories, n_samples))
    texts = [story.text() for story in tales[:n_stories]]
    ids = tokenizer.encode_batch(texts, bos=True, eos=True)
    starts = [story.tell()[0].text for story in tales[:n_samples]]
    n_bytes = _n_bytes(texts)
    say("reading held-out stories")
    result: dict[str, Any] = {"course": story_loss(model, tokenizer, texts)}
    say("writing stories")
    result["course"] |= _sample_row(_model_samples(model, tokenizer, starts), starts, tokenizer, train)
    few = starts[:n_ngram_samples]
    for name, order in ORDERS.items():
        say(f"{name}: counting")
        ngram = NGram.train(train, order=order, vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id)
        nats = -sum(float(ngram.log_probs(np.array(row)).sum()) for row in ids)
        result[name] = _loss_row(nats, sum(len(row) - 1 for row in ids), n_bytes)
        say(f"{name}: writing stories")
        result[name] |= _sample_row(_ngram_samples(ngram, tokenizer, few), few, tokenizer, train)
    say("held-out stories, for comparison")
    result["held-out text"] = _sample_row([story.text() for story in tales[: len(few)]], few, tokenizer, train)
    return result


def story_loss(model: Llama, tokenizer: TextCodec, texts: Sequence[str]) -> dict[str, float]:
    """Return loss (nats per token), perplexity and bits per byte of texts, each read on its own."""
    ids = tokenizer.encode_batch(list(texts), bos=True, eos=True)
    return _loss_row(*sum_loss(model, _padded(ids)), _n_bytes(texts))


def _n_bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode("utf-8")) for text in texts)


def _loss_row(nats: float, n_tokens: float, n_bytes: int) -> dict[str, float]:
    result = Evaluation(total=nats, n_tokens=n_tokens, n_bytes=n_bytes)
    figures = {"loss": result.loss, "perplexity": result.perplexity, "bits_per_byte": result.bits_per_byte}
    return {name: round(float(value), 4) for name, value in figures.items()}


def _sample_row(texts: list[str], starts: list[str], tokenizer: TextCodec, train: np.ndarray) -> dict[str, Any]:
    """Return what the world's checker and the search for copies say about stories."""
    written = [tokenizer.encode(text.removeprefix(start)) for text, start in zip(texts, starts, strict=True)]
    lengths = match_lengths(written, train)  # one search serves all three figures
    spans = [row.max(initial=0) for row in lengths]
    shares = check_many(texts)
    return {
        "stories": len(texts),
        "checker": {name: round(share, 3) for name, share in shares.items()},
        "grammatical_95": [round(bound, 3) for bound in interval(shares["grammatical"], len(texts))],
        "longest_copied_span": int(max(spans)),
        "median_copied_span": int(np.median(spans)),
        "novel_8_grams": round(novel_share(lengths), 4),
    }


def interval(share: float, n: int) -> tuple[float, float]:
    """Return the bounds between which the true share lies with 95 % confidence, when it was seen among n.

    Source: Wilson 1927 (the score interval).
    """
    return wilson_interval(share, n, z=1.96)


def only_story(text: str) -> str:
    """Cut a text where the story in it ends."""
    return _TASK.sub("", text).strip()


def _model_samples(model: Llama, tokenizer: TextCodec, starts: list[str]) -> list[str]:
    """Return stories that the model writes after given first sentences."""
    sampling, texts = Sampling(temperature=TEMPERATURE), []
    for begin in range(0, len(starts), 25):
        batch = starts[begin : begin + 25]
        prompts = [tokenizer.encode(start, bos=True) for start in batch]
        done = generate(model, tokenizer, prompts, max_new_tokens=400, sampling=sampling, seed=begin)
        texts += [only_story(start + one.text) for start, one in zip(batch, done, strict=True)]
    return texts


def _ngram_samples(ngram: NGram, tokenizer: TextCodec, starts: list[str]) -> list[str]:
    rng = np.random.default_rng(0)
    texts = []
    for start in starts:
        prompt = tokenizer.encode(start, bos=True)
        ids = ngram.sample(prompt, 400, rng=rng, temperature=TEMPERATURE, stop_id=tokenizer.eos_id)
        texts.append(only_story(start + tokenizer.decode(ids)))
    return texts


def _padded(ids: Sequence[Sequence[int]], batch_size: int = 16) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield inputs, targets and weights, (B, T): one story per row, filled up on the right with weight 0."""
    for begin in range(0, len(ids), batch_size):
        rows = ids[begin : begin + batch_size]
        longest = max(map(len, rows)) - 1
        inputs = np.zeros((len(rows), longest), np.int64)
        targets, weights = inputs.copy(), np.zeros(inputs.shape, np.float32)
        for i, row in enumerate(rows):
            inputs[i, : len(row) - 1], targets[i, : len(row) - 1] = row[:-1], row[1:]
            weights[i, : len(row) - 1] = 1
        yield inputs, targets, weights
