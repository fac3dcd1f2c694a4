"""Packed examples: the losses of examples one by one, from fewer rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SIZES, SWITCHES

from llama_minimal import reference
from llama_minimal.attention import document_mask, document_positions
from llama_minimal.config import LlamaConfig
from llama_minimal.data import EncodedExample, MixedBatches, PackedBatches, PackedExamples, validation_batches
from llama_minimal.data.packing import best_fit
from llama_minimal.loss import IGNORE, next_token_loss
from llama_minimal.model import build
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

BASE = LlamaConfig(**SIZES)


def draw_examples(n, *, longest=12, vocab_size=30, seed=0):
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        length = int(rng.integers(2, longest + 1))
        learn = rng.random(length) < 0.5
        learn[-1] = True
        examples.append(EncodedExample(rng.integers(vocab_size, size=length).tolist(), learn.tolist()))
    return examples


def loss_alone(model, example):
    inputs, targets = (torch.tensor([row]) for row in example.rows())
    return next_token_loss(model(inputs), targets)


def losses_by_example(model, packed):
    """Return Σ loss of each example of each row, by (row, document)."""
    inputs, targets, documents = map(torch.from_numpy, packed.rows(slice(None)))
    logits = model(inputs, documents=documents)
    return {
        (row, number): next_token_loss(logits[row], torch.where(documents[row] == number, targets[row], IGNORE))[0]
        for row in range(len(inputs))
        for number in range(1, int(documents[row].max()) + 1)
    }


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_packed_losses_and_gradients_are_those_of_the_examples_one_by_one(changes):
    model = build(BASE.replace(**changes), dtype=torch.float64)
    examples = draw_examples(9)
    packed = PackedExamples.pack(examples, seq_len=16)
    assert len(packed.inputs) < len(examples)
    inputs, targets, documents = map(torch.from_numpy, packed.rows(slice(None)))
    total, count = next_token_loss(model(inputs, documents=documents), targets)
    (total / count).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    alone = [loss_alone(model, example) for example in examples]
    expected = sum(one for one, _ in alone)
    (expected / sum(n for _, n in alone)).backward()
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    assert count == sum(n for _, n in alone) == packed.n_targets
    for found, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-12)


def test_changing_one_example_changes_no_others_loss():
    model = build(BASE)
    packed = PackedExamples.pack(draw_examples(12), seq_len=24)
    before = losses_by_example(model, packed)
    changed = packed.documents == 2
    changed[1:] = False
    packed.inputs[changed] = (packed.inputs[changed] + 7) % 30
    after = losses_by_example(model, packed)
    assert {key for key in before if not torch.equal(before[key], after[key])} == {(0, 2)}


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=6), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_mask_and_positions_by_brute_force_and_by_the_twin(rows):
    T = max(map(sum, rows))
    documents = np.zeros((len(rows), T), np.int64)
    for row, lengths in zip(documents, rows, strict=True):
        filled = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        row[: len(filled)] = filled
    mask = [[[i >= j and row[i] == row[j] for j in range(T)] for i in range(T)] for row in documents]
    positions = [[sum(row[:i] == row[i]) for i in range(T)] for row in documents]
    assert document_mask(torch.from_numpy(documents))[:, 0].tolist() == mask
    assert document_positions(torch.from_numpy(documents)).tolist() == positions
    assert reference.document_mask(documents)[:, 0].tolist() == mask
    assert reference.document_positions(documents).tolist() == positions


def test_two_neighbors_of_the_same_number_are_one_document_and_two_apart_are_not():
    documents = torch.tensor([[1, 1, 2, 1]])
    assert document_positions(documents).tolist() == [[0, 1, 0, 0]]
    assert document_mask(documents)[0, 0, 3].tolist() == [False, False, False, True]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_best_fit_loses_nothing_overfills_nothing_and_opens_few_bins(lengths):
    bins = best_fit(lengths, 20)
    assert sorted(item for members in bins for item in members) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in members) for members in bins]
    assert max(loads) <= 20
    assert sum(load <= 10 for load in loads) <= 1  # two such would have gone into one


def test_the_end_is_learned_where_rows_are_filled_up_with_the_same_token():
    """A collator of transformers 5.23.0 learns no end then, and the prompt too: findings/collator_makes_labels.sh."""
    end = 7
    packed = PackedExamples.pack([EncodedExample([1, 2, end], [False, True, True])], seq_len=4, pad_id=end)
    assert packed.inputs.tolist() == [[1, 2, end, end]]
    assert packed.targets.tolist() == [[2, end, IGNORE, IGNORE]]


def test_every_epoch_reads_every_row_once_and_ranks_share_it():
    packed = PackedExamples.pack(draw_examples(40), seq_len=16)
    n = len(packed.inputs)
    options = {"batch_size": 2, "seq_len": 16, "seed": 3}
    batches = PackedBatches(packed, **options)
    rows = [tuple(row) for step in range(n) for row in batches.batch(step)[0]]  # two epochs
    everything = sorted(map(tuple, packed.inputs))
    assert sorted(rows[:n]) == sorted(rows[n : 2 * n]) == everything
    assert rows[:n] != rows[n : 2 * n]
    halves = [PackedBatches(packed, **options, rank=rank, world_size=2).batch(5) for rank in (0, 1)]
    for whole, *parts in zip(batches.batch(5), *halves, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_a_mixture_of_text_and_examples_gives_text_as_one_document():
    packed = PackedExamples.pack(draw_examples(20), seq_len=16)
    sources = {"examples": packed, "text": np.arange(400) % 30}
    inputs, targets, documents = MixedBatches(sources, weights=(1, 1), batch_size=4, seq_len=16).batch(0)
    is_text = ~documents.any(axis=1)
    assert is_text.sum() == 2
    np.testing.assert_array_equal(targets[is_text], (inputs[is_text] + 1) % 30)


def test_training_divides_by_what_is_learned_alone():
    """One step of plain descent on packed rows, in micro-batches, against autograd on the examples one by one."""
    examples = draw_examples(8)
    packed = PackedExamples.pack(examples, seq_len=16)
    n = len(packed.inputs)
    config = TrainConfig(steps=1, batch_size=n, micro_batch_size=1, seq_len=16, warmup_steps=0, clip_norm=1e9)
    model = build(BASE, dtype=torch.float64)
    trainer = Trainer(model, packed, config, validation=packed)
    alone = [loss_alone(model, example) for example in examples]
    expected = sum(one for one, _ in alone) / sum(count for _, count in alone)
    norm = sum(g.pow(2).sum() for g in torch.autograd.grad(expected, list(model.parameters()))).sqrt()
    assert trainer.validate() == pytest.approx(expected.item(), rel=1e-12)
    metrics = trainer.train_step()
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-12)
    assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-9)


def test_an_objective_of_ones_own_is_what_training_makes_smaller():
    def twice(model, batch):
        total, count = next_token_loss(model(batch[0]), batch[1])
        return 2 * total + 3 * count, count

    tokens = np.arange(400) % 30
    config = TrainConfig(steps=2, batch_size=2, seq_len=8, warmup_steps=0)
    plain, own = (
        [m["loss"] for m in Trainer(build(BASE), tokens, config, objective=objective).run()]
        for objective in (None, twice)
    )
    assert own[0] == pytest.approx(2 * plain[0] + 3)


def test_validation_batches_hold_every_target_once():
    tokens = np.arange(50)
    found = [
        t for _, targets in validation_batches(tokens, batch_size=2, seq_len=8) for t in targets[targets != IGNORE]
    ]
    assert found == list(range(1, 50))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no example to pack"),
        ([EncodedExample([1] * 18, [True] * 18)], "17 tokens, more than seq_len=16"),
        ([EncodedExample([1, 2, 3], [True, False, False])], "no token to learn"),
    ],
)
def test_what_cannot_be_packed_is_refused(examples, message):
    with pytest.raises(ValueError, match=message):
        PackedExamples.pack(examples, seq_len=16)


def test_what_a_trainer_cannot_do_with_examples_is_refused():
    packed = PackedExamples.pack(draw_examples(20), seq_len=16)
    options = {"steps": 1, "batch_size": 2, "warmup_steps": 0}
    with pytest.raises(ValueError, match="rows of 16 tokens, but seq_len=8"):
        Trainer(build(BASE), packed, TrainConfig(seq_len=8, **options))
    with pytest.raises(ValueError, match="short_seq_len is for plain text"):
        Trainer(build(BASE), packed, TrainConfig(seq_len=16, short_seq_len=8, **options))
    packed.inputs[0, 0] = 99
    with pytest.raises(ValueError, match="holds token id 99"):
        Trainer(build(BASE), packed, TrainConfig(seq_len=16, **options))
    with pytest.raises(ValueError, match="leave out positions and cache"):
        build(BASE)(torch.tensor([[1]]), documents=torch.tensor([[1]]), positions=torch.tensor([[0]]))
