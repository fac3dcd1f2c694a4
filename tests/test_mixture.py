"""Several sources: their shares after any number of rows, resuming and ranks, the files they share, their losses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.config import LlamaConfig
from llama_minimal.data import (
    Batches,
    Document,
    MixedBatches,
    TokenFile,
    encode_corpus,
    make_batches,
    sequential_batches,
)
from llama_minimal.data.mixture import PARTS, order, parts
from llama_minimal.evaluation import sum_loss
from llama_minimal.metrics import read_metrics
from llama_minimal.model import build
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

patient = settings(deadline=None, max_examples=60)
shares = st.lists(st.integers(1, 40), min_size=1, max_size=9)


def texts(*sizes):
    """Sources whose tokens say where they come from: source 2 counts up from 2,000,000."""
    return {f"s{number}": np.arange(size) + number * 1_000_000 for number, size in enumerate(sizes)}


@patient
@given(shares)
def test_after_any_number_of_rows_each_source_has_its_share_to_within_one(parts):
    chosen = order(parts)
    counts = np.cumsum(chosen[:, None] == np.arange(len(parts)), axis=0)  # (rows, sources)
    rows = np.arange(1, len(chosen) + 1)[:, None]
    assert (abs(counts * sum(parts) - rows * np.array(parts)) < sum(parts)).all()
    assert (counts[-1] == parts).all()  # and exactly, after each period


@patient
@given(shares, st.integers(1, 7), st.integers(0, 10**9))
def test_the_shares_hold_in_every_step_however_far(weights, batch_size, step):
    batches = MixedBatches(texts(*[50] * len(weights)), weights=weights, batch_size=batch_size, seq_len=8)
    rows = batches.rows(step)
    assert sum(rows.values()) == step * batch_size
    total, whole = sum(weights), parts(texts(*[50] * len(weights)), weights)
    for n, weight, part in zip(rows.values(), weights, whole, strict=True):
        assert abs(part / sum(whole) - weight / total) <= 1 / PARTS
        assert abs(n - step * batch_size * part / sum(whole)) < 1 + 1e-6
    seen = batches.batch(step)[0][:, 0] // 1_000_000
    after = batches.rows(step + 1)
    assert [after[name] - rows[name] for name in rows] == np.bincount(seen, minlength=len(weights)).tolist()


def test_each_source_is_read_epoch_by_epoch_as_if_it_were_alone():
    sources = texts(100, 260)
    mixed = MixedBatches(sources, weights=(3, 1), batch_size=4, seq_len=8, seed=5)
    rows = [row for step in range(60) for row in mixed.batch(step)[0]]
    for number, name in enumerate(sources):
        alone = Batches(sources[name], batch_size=1, seq_len=8, seed=5)
        mine = [row for row in rows if row[0] // 1_000_000 == number]
        np.testing.assert_array_equal(mine, [alone.batch(n)[0][0] for n in range(len(mine))])
        assert mixed.epochs(60)[name] == len(mine) / alone.windows_per_epoch
    assert mixed.rows(60) == {"s0": 180, "s1": 60}
    inputs, targets = mixed.batch(7)
    np.testing.assert_array_equal(targets, inputs + 1)


def test_without_weights_all_sources_are_read_equally_often():
    batches = MixedBatches(texts(3000, 1000, 500), batch_size=9, seq_len=8)
    assert list(batches.rows(1000).values()) == [6000, 2000, 1000]
    assert list(batches.epochs(1000).values()) == pytest.approx([16.1, 16.1, 16.1], rel=0.02)


@patient
@given(shares, st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_ranks_together_have_the_batch_of_one_process(weights, rows, world_size, step):
    options = {"weights": weights, "batch_size": rows * world_size, "seq_len": 5, "seed": 3}
    sources = texts(*[60] * len(weights))
    whole = MixedBatches(sources, **options).batch(step)
    for rank in range(world_size):
        mine = MixedBatches(sources, **options, rank=rank, world_size=world_size).batch(step)
        for a, b in zip(mine, whole, strict=True):
            np.testing.assert_array_equal(a, b[rank::world_size])


def test_a_resumed_run_sees_the_same():
    options = {"weights": (0.7, 0.2, 0.1), "batch_size": 6, "seq_len": 8}
    unbroken = MixedBatches(texts(90, 80, 200), **options)
    expected = [unbroken.batch(step)[0] for step in range(40)]
    for step in (39, 7, 23, 0):
        np.testing.assert_array_equal(MixedBatches(texts(90, 80, 200), **options).batch(step)[0], expected[step])


def test_short_sequences_first_from_several_sources():
    config = TrainConfig(
        steps=10, batch_size=4, seq_len=16, short_seq_len=8, short_share=0.5, warmup_steps=1, weights=(0.75, 0.25)
    )
    batches = make_batches(texts(200, 200), config)
    for step in range(10):
        inputs = batches.batch(step)[0]
        assert inputs.shape == ((8, 8) if step < 5 else (4, 16))
        assert (inputs[:, 0] // 1_000_000).sum() == len(inputs) / 4
    alone = [MixedBatches(texts(200, 200), weights=(3, 1), batch_size=b, seq_len=t) for b, t in ((8, 8), (4, 16))]
    for name, epochs in batches.epochs(10).items():
        assert epochs == pytest.approx(alone[0].epochs(5)[name] + alone[1].epochs(10)[name] - alone[1].epochs(5)[name])
    single = make_batches(
        np.arange(400), TrainConfig(steps=10, batch_size=4, seq_len=16, short_seq_len=8, warmup_steps=1)
    )
    assert single.epochs(7) == pytest.approx(7 * 8 / 49)  # all of them in the first stage
    assert single.epochs(9) == pytest.approx(7 * 8 / 49 + 2 * 4 / 24)


def test_documents_are_aligned_in_every_source():
    sources = {"a": np.tile([0, 1, 2, 3], 30), "b": np.tile([0, 5, 6, 7, 8, 9], 30)}
    config = TrainConfig(steps=5, batch_size=4, seq_len=6, align_documents=True, warmup_steps=1, weights=(1, 1))
    inputs = np.concatenate([make_batches(sources, config).batch(step)[0] for step in range(20)])
    assert (inputs[:, 0] == 0).all()
    assert set(inputs[:, 1]) == {1, 5}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((1,), "1 weights for 2 sources, s0, s1"),
        ((1, 2, 3), "3 weights for 2 sources"),
        ((1, 0), "must be positive numbers"),
        ((1, -1), "must be positive numbers"),
        ((1, float("nan")), "must be positive numbers"),
    ],
)
def test_weights_that_cannot_be(weights, words):
    with pytest.raises(ValueError, match=words):
        MixedBatches(texts(50, 50), weights=weights, batch_size=2, seq_len=4)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ValueError, match="source s1: the text has 3 tokens, but 9 are needed"):
        MixedBatches(texts(50, 3), batch_size=2, seq_len=8)
    with pytest.raises(ValueError, match="not divisible by world_size=2"):
        MixedBatches(texts(50, 50), batch_size=3, seq_len=8, world_size=2)
    with pytest.raises(ValueError, match="step=-1"):
        MixedBatches(texts(50, 50), batch_size=2, seq_len=8).batch(-1)
    with pytest.raises(ValueError, match="are for several sources"):
        make_batches(np.arange(99), TrainConfig(weights=(0.5, 0.5), seq_len=8))
    for weights in ((), "12", (1, 0), (1, "2"), 3):
        with pytest.raises(ValueError, match="weights="):
            TrainConfig(weights=weights)
    assert TrainConfig(weights=[7, 3]).weights == (7.0, 3.0)


def test_weights_are_whole_parts_of_ten_thousand():
    assert parts(texts(9, 9), (0.7, 0.3)) == [7, 3]
    assert parts(texts(9, 9, 9), (2, 2, 2)) == [1, 1, 1]
    assert parts(texts(1000, 333)) == [3751, 1249]
    assert parts(texts(9, 9), (1e9, 1)) == [10_000, 1]  # a source that is asked for is read


# --- files ---


def corpus(word, n):
    return [Document(f"{word}{i}", f"{word} {i} " * (3 + i % 5)) for i in range(n)]


def test_sources_share_a_file_and_are_found_again_in_it(tmp_path):
    tokenizer = Tokenizer()
    found = {"a": corpus("alpha", 30), "b": corpus("beta", 20), "c": corpus("gamma", 2)}
    encode_corpus({name: iter(docs) for name, docs in found.items()}, tokenizer, tmp_path / "all")
    for split in ("train", "validation"):
        whole = TokenFile.open(tmp_path / "all", split)
        assert list(whole.sources) == list(whole.texts) == ["a", "b", "c"]
        for name, docs in found.items():
            encode_corpus(docs, tokenizer, tmp_path / name)
            alone, part = TokenFile.open(tmp_path / name, split), whole.sources[name]
            np.testing.assert_array_equal(part.tokens, alone.tokens)  # split as it would be alone
            assert (part.n_documents, part.n_bytes) == (alone.n_documents, alone.n_bytes)
            assert alone.texts is alone.tokens
            assert "sources" not in (tmp_path / name / "corpus.json").read_text()  # as before there were several
        joined = np.concatenate(list(whole.texts.values()))
        np.testing.assert_array_equal(whole.tokens, joined)
        assert whole.n_bytes == sum(part.n_bytes for part in whole.sources.values())
    with pytest.raises(ValueError, match="no documents"):
        encode_corpus({"a": corpus("alpha", 3), "b": []}, tokenizer, tmp_path / "all")
    assert len(TokenFile.open(tmp_path / "all").sources) == 3  # the former corpus is still there


# --- training ---


def trainer(tmp_path, sources, validation, **changes):
    model = build(LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=20), seed=1)
    options = {"steps": 6, "batch_size": 4, "seq_len": 8, "warmup_steps": 1, "validate_every": 3, "weights": (3, 1)}
    config = TrainConfig(**{**options, "snapshot_every": 2, **changes})
    return Trainer(model, sources, config, out=tmp_path, validation=validation)


def cycles(seed):
    dice = np.random.default_rng(seed)
    return {name: dice.integers(0, 20, n) for name, n in (("a", 200), ("b", 120))}


def test_each_source_has_its_loss_and_the_whole_counts_each_token_once(tmp_path):
    validation = cycles(1)
    run = trainer(tmp_path, cycles(0), validation)
    list(run.run())
    sums = {
        name: sum_loss(run.model, sequential_batches(part, batch_size=4, seq_len=8))
        for name, part in validation.items()
    }
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    for name, (total, count) in sums.items():
        assert last[f"validation_loss/{name}"] == pytest.approx(total / count, rel=1e-6)
    total, count = map(sum, zip(*sums.values(), strict=True))
    assert last["validation_loss"] == run.validation_loss == pytest.approx(total / count, rel=1e-6)
    assert run.source_losses.keys() == {"a", "b"}


def test_a_mixture_goes_on_bit_by_bit_and_only_with_the_same_weights(tmp_path):
    def weights_of(run):
        return [p.detach().clone() for p in run.model.parameters()]

    whole = trainer(tmp_path / "whole", cycles(0), cycles(1))
    list(whole.run())
    first = trainer(tmp_path / "cut", cycles(0), cycles(1))
    for metrics in first.run():
        if metrics["step"] == 3:
            first.stop_requested = True
    second = trainer(tmp_path / "cut", cycles(0), cycles(1))
    assert second.resume()
    list(second.run())
    assert all((a == b).all() for a, b in zip(weights_of(whole), weights_of(second), strict=True))
    with pytest.raises(ValueError, match=r"weights was \[3.0, 1.0\], is \[1.0, 3.0\]"):
        trainer(tmp_path / "cut", cycles(0), cycles(1), weights=(1, 3)).resume()
    with pytest.raises(ValueError, match="sources was"):
        trainer(tmp_path / "cut", dict(reversed(cycles(0).items())), cycles(1)).resume()


def test_ids_outside_the_vocabulary_are_found_in_any_source(tmp_path):
    with pytest.raises(ValueError, match="training text of b holds token id 20"):
        trainer(tmp_path, cycles(0) | {"b": np.full(50, 20)}, cycles(1))
    with pytest.raises(ValueError, match="without a source"):
        trainer(tmp_path, {}, cycles(1))
