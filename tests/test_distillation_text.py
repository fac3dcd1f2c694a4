"""Distillation from what is kept on disk, and from what teacher or student write."""

import json
import sys
from dataclasses import replace

import distillation_worker
import launching
import numpy as np
import pytest
import torch
from distillation_worker import RECIPE, TOKENS, V
from tiny_models import draw_model

from llama_minimal.beams import beam_search
from llama_minimal.data import EncodedExample, PackedExamples
from llama_minimal.distillation import (
    CachedDistillation,
    Distillation,
    DistillationConfig,
    OnPolicyDistillation,
    keep_top,
    open_cache,
    rows_of_text,
    teacher_writes,
    write_cache,
)
from llama_minimal.generation import generate
from llama_minimal.loss import IGNORE
from llama_minimal.mixed_precision import autocast
from llama_minimal.parallel import Mesh
from llama_minimal.settings import GREEDY, Sampling
from llama_minimal.training import Trainer

WARM = Sampling(temperature=1.0)


@pytest.fixture
def student():
    return draw_model(seed=1)


@pytest.fixture
def teacher():
    return draw_model(seed=2, n_layers=3)


@pytest.fixture
def rows():
    return rows_of_text(TOKENS[:400], seq_len=8)


@pytest.fixture
def batch():
    tokens = torch.randint(V, (5, 13), generator=torch.Generator().manual_seed(3))
    return tokens[:, :-1], tokens[:, 1:]


# ---- a teacher's probabilities on disk


def test_rows_of_text_show_every_target_once_but_the_last(rows):
    assert rows.inputs.shape == (49, 8)
    np.testing.assert_array_equal(rows.inputs.ravel(), TOKENS[:392])
    np.testing.assert_array_equal(rows.targets.ravel(), TOKENS[1:393])
    with pytest.raises(ValueError, match="8 tokens, too few for a row of seq_len=8"):
        rows_of_text(TOKENS[:8], seq_len=8)


def test_a_cache_holds_what_the_teacher_thinks_and_stays_on_disk(teacher, rows, tmp_path):
    write_cache(teacher, rows, tmp_path / "cache", k=5, temperature=2.0, batch_size=16)
    cache = open_cache(tmp_path / "cache", rows, teacher=teacher, k=5)
    assert isinstance(cache.ids, np.memmap)
    assert cache.ids.dtype == np.uint16
    with torch.no_grad():
        ids, log_probs = keep_top(teacher(torch.from_numpy(rows.inputs)), 5, 2.0)
    np.testing.assert_array_equal(cache.ids, ids)
    np.testing.assert_allclose(cache.log_probs, log_probs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(cache.log_probs).sum(-1), 1, rtol=1e-5)
    size = sum(file.stat().st_size for file in (tmp_path / "cache").iterdir())
    assert size < 49 * 8 * (4 * 6 + 2 * 5) + 1000


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_training_on_all_tokens_kept_is_training_beside_the_teacher(teacher, tmp_path, divergence):
    examples = [EncodedExample(TOKENS[i : i + 6].tolist(), [j >= 2 for j in range(6)]) for i in range(0, 600, 7)]
    packed = PackedExamples.pack(examples, seq_len=16)
    cache = write_cache(teacher, packed, tmp_path / "cache", k=V, temperature=1.5)
    config = DistillationConfig(temperature=1.5, divergence=divergence)
    recipe = replace(RECIPE, seq_len=16, micro_batch_size=1)
    students = [draw_model(seed=1) for _ in range(2)]
    objectives = [Distillation(teacher, students[0], config), CachedDistillation(students[1], cache, config)]
    losses = [
        [m["loss"] for m in Trainer(model, text, recipe, objective=objective).run()]
        for model, text, objective in zip(students, (packed, cache), objectives, strict=True)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    trainer = Trainer(students[1], cache, recipe, validation=cache, objective=objectives[1])
    assert trainer.validate() == Trainer(students[1], packed, recipe, validation=packed).validate()


def test_a_few_tokens_come_near_to_all(student, teacher, rows, tmp_path):
    def total(k):
        cache = write_cache(teacher, rows, tmp_path / str(k), k=k)
        objective = CachedDistillation(student, cache, DistillationConfig(weight=1.0))
        return objective(student, tuple(map(torch.from_numpy, cache.rows(slice(10)))))[0].item()

    losses = [total(k) for k in (1, 8, 30, V)]
    assert losses == sorted(losses)
    assert losses[2] > 0.9 * losses[3]


def test_a_cache_of_something_else_is_refused(student, teacher, rows, tmp_path):
    folder = tmp_path / "cache"
    cache = write_cache(teacher, rows, folder, k=3, temperature=2.0)
    other = rows_of_text(TOKENS[1:401], seq_len=8)
    for wrong, message in (
        ({"examples": other}, "of other examples"),
        ({"examples": rows_of_text(TOKENS[:400], seq_len=16)}, "or examples in other rows"),
        ({"teacher": draw_model(seed=3, n_layers=3)}, "of another teacher, or of this one with other weights"),
        ({"k": 4}, "of k=3, not k=4; make another with write_cache"),
    ):
        with pytest.raises(ValueError, match=message):
            open_cache(folder, **({"examples": rows} | wrong))
    with pytest.raises(FileNotFoundError, match="holds no cache of a teacher"):
        open_cache(tmp_path, rows)
    with pytest.raises(ValueError, match="is there already; open it with open_cache"):
        write_cache(teacher, rows, folder)
    with pytest.raises(ValueError, match=r"temperature=1\.0, but the cache was made at 2\.0"):
        CachedDistillation(student, cache, DistillationConfig())
    with pytest.raises(ValueError, match="a teacher with 61 outputs, but the student has 60"):
        CachedDistillation(draw_model(vocab_size=60), cache)
    with pytest.raises(ValueError, match="a cache has no hidden states"):
        CachedDistillation(student, cache, DistillationConfig(temperature=2.0, layers=((0, 0),), hidden_weight=1.0))
    with pytest.raises(ValueError, match="k=62 is more than the teacher's 61 outputs"):
        write_cache(teacher, rows, tmp_path / "new", k=62)
    with pytest.raises(ValueError, match="the batch brings no teacher's probabilities"):
        CachedDistillation(student, cache)(student, tuple(map(torch.from_numpy, rows.rows([0]))))


def test_caches_are_mixed_with_each_other_alone(student, teacher, rows, tmp_path):
    other = rows_of_text(TOKENS[400:800], seq_len=8)
    first, second, wider = (
        write_cache(teacher, part, tmp_path / name, k=k)
        for name, part, k in (("a", rows, 3), ("b", other, 3), ("c", other, 4))
    )
    recipe = replace(RECIPE, weights=(0.5, 0.5))
    trainer = Trainer(student, {"a": first, "b": second}, recipe, objective=CachedDistillation(student, first))
    assert np.isfinite([m["loss"] for m in trainer.run()]).all()
    for wrong in (other, TOKENS[400:800], wider):
        for sources in ({"a": first, "b": wrong}, {"b": wrong, "a": first}):
            with pytest.raises(ValueError, match=r"cannot be mixed: .*; give both a cache of the same k, or neither"):
                Trainer(student, sources, recipe)


def test_a_damaged_cache_is_refused(teacher, rows, tmp_path):
    write_cache(teacher, rows, tmp_path / "cache", k=3)
    about = json.loads((tmp_path / "cache" / "cache.json").read_text())
    (tmp_path / "cache" / "cache.json").write_text(json.dumps(about | {"k": 4}))
    with pytest.raises(ValueError, match="is damaged"):
        open_cache(tmp_path / "cache", rows)
    (tmp_path / "cache" / "cache.json").write_text(json.dumps(about))
    whole = (tmp_path / "cache" / "ids.npy").read_bytes()
    (tmp_path / "cache" / "ids.npy").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"is damaged .*; make another with write_cache"):
        open_cache(tmp_path / "cache", rows)


def test_a_teacher_that_fails_leaves_nothing_half_written(teacher, rows, tmp_path):
    teacher.output.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_cache(teacher, rows, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


# ---- the teacher writes


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_what_the_teacher_writes_is_what_it_generates(teacher, sampling):
    prompts = [[3, 1, 4], [1, 5], [9, 2, 6, 5]]
    stops = [7, 8, 11]
    options = {"max_new_tokens": 20, "sampling": sampling, "stop_ids": stops}
    examples = teacher_writes(teacher, prompts, **options, seed=5, batch_size=2)
    for i, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
        (alone,) = generate(teacher, None, [prompt], **options, seed=5 + i)
        written = example.ids[len(prompt) :]
        assert example.ids[: len(prompt)] == prompt
        assert example.learn == [False] * len(prompt) + [True] * len(written)
        ended = alone.finish_reason == "stop"
        assert (written[:-1] if ended else written) == alone.tokens
        assert not ended or written[-1] in stops


def test_the_teacher_writes_the_likeliest_text_that_beams_find(teacher):
    (example,) = teacher_writes(teacher, [[3, 1, 4]], beam_size=3, max_new_tokens=5, stop_ids=[])
    assert example.ids[3:] == beam_search(teacher, [3, 1, 4], beam_size=3, max_new_tokens=5, stop_ids=[])[0].tokens
    with pytest.raises(ValueError, match="looks for the likeliest text, and does not sample"):
        teacher_writes(teacher, [[3]], beam_size=2, sampling=WARM)


def test_a_student_learns_what_the_teacher_wrote(student, teacher):
    prompts = [[i, i + 1] for i in range(0, 40, 2)]
    examples = teacher_writes(teacher, prompts, max_new_tokens=6)
    recipe = replace(RECIPE, steps=60, seq_len=8, lr=2e-2)
    for _ in Trainer(student, PackedExamples.pack(examples, seq_len=8), recipe).run():
        pass
    written = generate(student, None, prompts, max_new_tokens=6)
    same = sum(a == b for e, w in zip(examples, written, strict=True) for a, b in zip(e.ids[2:], w.tokens, strict=True))
    assert same > 0.8 * 120


# ---- the student writes


def test_the_student_continues_each_prompt_and_learns_up_to_an_end(student, teacher, batch):
    greedy = {"sampling": GREEDY, "prompt_tokens": 3}
    (unbroken,) = generate(student, None, [batch[0][0, :3].tolist()], max_new_tokens=10)
    stop = unbroken.tokens[4]
    objective = OnPolicyDistillation(Distillation(teacher, student), **greedy, stop_ids=[stop])
    (inputs, targets), weights = objective.rewrite(student, batch)
    assert inputs.shape == targets.shape == weights.shape == batch[0].shape
    assert (weights == 1).all()
    for row in range(5):
        prompt = batch[0][row, :3].tolist()
        (alone,) = generate(student, None, [prompt], max_new_tokens=10, stop_ids=[stop])
        written = alone.tokens + [stop] * (alone.finish_reason == "stop")
        n = len(written)
        assert inputs[row, : 2 + n].tolist() == [*prompt, *written][:-1]
        assert targets[row].tolist() == [IGNORE] * 2 + written + [IGNORE] * (12 - 2 - n)
    assert targets[0, 2:].tolist().index(stop) <= 4


def test_of_its_own_text_the_teacher_alone_counts(student, teacher, batch):
    config = DistillationConfig(weight=0.25, divergence="reverse", temperature=1.5)
    objective = OnPolicyDistillation(Distillation(teacher, student, config), prompt_tokens=2)
    total, count = objective(student, batch)
    rewritten, _ = objective.rewrite(student, batch)
    alone = Distillation(teacher, student, replace(config, weight=1.0))
    torch.testing.assert_close((total, count), alone(student, rewritten))
    assert count == (rewritten[1] != IGNORE).sum()


def test_a_share_of_nothing_is_plain_distillation(student, teacher, batch):
    distillation = Distillation(teacher, student)
    expected = distillation(student, batch)
    torch.testing.assert_close(OnPolicyDistillation(distillation, share=0)(student, batch), expected)


def test_the_texts_do_not_depend_on_how_the_batch_is_divided(student, teacher, batch):
    objective = OnPolicyDistillation(Distillation(teacher, student), prompt_tokens=2, share=0.5, seed=1)
    rewritten, weights = objective.rewrite(student, batch)
    n_old = int((weights[:, 0] == 0.5).sum())
    assert 0 < n_old < 5
    assert {tuple(row.tolist()) for row in rewritten[0][:n_old]} <= {tuple(row.tolist()) for row in batch[0]}
    parts = [objective(student, tuple(part[row : row + 1] for part in batch)) for row in range(5)]
    whole = objective(student, batch)
    torch.testing.assert_close(tuple(map(sum, zip(*parts, strict=True))), whole, rtol=1e-5, atol=1e-4)


def test_each_packed_example_is_continued_after_its_own_prompt(student, teacher):
    examples = [
        EncodedExample([3, 1, 4, 1, 5, 9], [False] * 3 + [True] * 3),
        EncodedExample([2, 7, 1, 8], [False, True, True, True]),
        EncodedExample([6, 6, 6, 6, 6, 6, 6], [False] * 6 + [True]),
    ]
    packed = tuple(map(torch.from_numpy, PackedExamples.pack(examples, seq_len=12).rows(slice(None))))
    objective = OnPolicyDistillation(Distillation(teacher, student), max_new_tokens=4, sampling=GREEDY)
    (inputs, targets, documents), _ = objective.rewrite(student, packed)
    assert len(inputs) == 3
    prompts = set()
    for row, written in zip(inputs, targets, strict=True):
        n = int((written != IGNORE).nonzero()[0]) + 1
        prompts.add(tuple(row[:n].tolist()))
        (alone,) = generate(student, None, [row[:n].tolist()], max_new_tokens=4)
        assert written[written != IGNORE].tolist() == alone.tokens
    assert prompts == {(3, 1, 4), (2,), (6, 6, 6, 6, 6, 6)}
    assert (documents == 1).all()
    total, count = objective(student, packed)
    assert count == 12
    assert total.isfinite()


def test_under_autocast_the_same_is_written_and_every_weight_has_its_gradient(student, teacher, batch):
    """Autocast keeps casts of weights; none made while the student writes, without gradients, may be in the way."""
    objective = OnPolicyDistillation(Distillation(teacher, student), prompt_tokens=2)
    expected = objective.rewrite(student, batch)
    with autocast("bf16", torch.device("cpu")):
        torch.testing.assert_close(objective.rewrite(student, batch), expected)
        total, _ = objective(student, batch)
    total.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in student.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_that_writes_resumes_to_the_bit_and_learns(teacher, tmp_path, precision):
    def trainer(out):
        student = draw_model(seed=1)
        objective = OnPolicyDistillation(Distillation(teacher, student), prompt_tokens=2)
        recipe = replace(RECIPE, micro_batch_size=2, precision=precision)
        return Trainer(student, TOKENS, recipe, out=out, objective=objective)

    whole, broken, resumed = trainer(tmp_path / "a"), trainer(tmp_path / "b"), trainer(tmp_path / "b")
    expected = [m["loss"] for m in whole.run()]
    for metrics in broken.run():
        if metrics["step"] == 3:
            break
    torch.rand(7)
    assert resumed.resume()
    assert [m["loss"] for m in resumed.run()] == expected[3:]
    assert expected[-1] < expected[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.5}, "share=1.5 must be from 0"),
        ({"prompt_tokens": 0}, "prompt_tokens=0 must be a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
        ({"prompt_tokens": 12}, "prompt_tokens=12 leave no room in rows of 12 tokens"),
    ],
)
def test_what_the_student_cannot_write_is_refused(student, teacher, batch, wrong, message):
    with pytest.raises(ValueError, match=message):
        OnPolicyDistillation(Distillation(teacher, student), **wrong)(student, batch)


def test_on_policy_asks_the_teacher_and_no_cache(teacher, rows, student, tmp_path):
    write_cache(teacher, rows, tmp_path / "cache")
    cached = CachedDistillation(student, open_cache(tmp_path / "cache", rows))
    with pytest.raises(
        ValueError, match="distillation is a CachedDistillation, and must be a Distillation: the teacher"
    ):
        OnPolicyDistillation(cached)


# ---- several processes


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over torchrun is tested on Linux and macOS")
def test_two_processes_distill_as_one_does(tmp_path):
    cache = tmp_path / "cache"
    write_cache(distillation_worker.draw_teacher(), distillation_worker.ROWS, cache, k=4)
    status, _, error, _ = launching.run(distillation_worker.__file__, tmp_path, cache)
    assert status == 0, error[-3000:]
    found = json.loads((tmp_path / "losses.json").read_text())
    for way in distillation_worker.WAYS:
        expected = distillation_worker.losses(Mesh(device=torch.device("cpu")), way, cache)
        assert [x is None for x in found[way]] == [x is None for x in expected]
        pairs = [(a, b) for a, b in zip(found[way], expected, strict=True) if b is not None]
        np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-4, err_msg=way)
    assert "weights are spread over processes cannot write; leave out shard" in found["refused"]
