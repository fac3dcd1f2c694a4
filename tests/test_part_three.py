"""Part III's table: its rows are what they say, and its measures are those of the chapters. Tiny trainings only."""

import json
from dataclasses import replace

import pytest
import torch

import llama_minimal as lm
from llama_minimal.adaptive_computation import EarlyExit, ExitRule, ModelDraft, PromptLookup
from llama_minimal.applications import application
from llama_minimal.course import part_three
from llama_minimal.course import part_three_figures as figures
from llama_minimal.course.card import held_out, story_loss
from llama_minimal.course.exit_rule import NAME, exit_rule
from llama_minimal.course.experiments import early_exit
from llama_minimal.course.experiments import part_three as experiment
from llama_minimal.course.part_three import ROWS, TRAINED, Candidate
from llama_minimal.course.valley_tokens import held_out_tokens, valley_tokens
from llama_minimal.pruning import is_n_of_m

QUICK = {"steps": 2, "batch_size": 2, "seq_len": 32, "precision": "fp32", "warmup_steps": 1, "validate_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All rows, trained for two steps each."""
    patch = pytest.MonkeyPatch()
    patch.setattr(part_three, "RECIPE", replace(part_three.RECIPE, **QUICK))
    patch.setattr(part_three, "valley_tokens", lambda path, n: valley_tokens(path, n, texts=10, processes=1))
    patch.setattr(part_three, "held_out_tokens", lambda n, tokenizer: held_out_tokens(1, tokenizer))
    where = tmp_path_factory.mktemp("part_three")
    for row in TRAINED:
        part_three.train(row, where, device="cpu", n_parts=1)
    part_three.train("2:4", where, device="cpu", n_parts=1)  # finished: nothing is done
    patch.undo()
    (where / "early-exit").mkdir()
    (where / "early-exit" / NAME).write_text(json.dumps({"measure": "margin", "threshold": 0.5}))
    return where


@pytest.fixture(scope="module")
def course():
    return lm.load("course", dtype=torch.float32)[0]


def test_the_rows_are_what_they_say(folder, course, monkeypatch):
    monkeypatch.setattr(early_exit, "N_ROWS", 8)  # of text, for the matrices of the exits
    rows = {row: part_three.load(row, folder) for row in ROWS}
    full = sum(parameter.numel() for parameter in course.parameters())
    sizes = {row: candidate.weight_bytes for row, candidate in rows.items()}
    for row in ("fp32", "trained on", "2:4", "look-up"):  # zeros are numbers, too
        assert sizes[row] == 4 * full, row
    assert sizes["early exit"] == 4 * (full + 3 * course.config.dim**2)
    assert sizes["bf16"] == 2 * full
    assert sizes["int8"] <= 0.28 * 4 * full
    assert sizes["int4"] <= 0.17 * 4 * full
    dim, config = course.config.dim, course.config
    per_head, block = 4 * dim * config.head_dim, 4 * dim * dim + 3 * dim * config.hidden_dim + 2 * dim
    assert sizes["half the heads"] == 4 * (full - config.n_layers * config.n_heads // 2 * per_head)
    assert sizes["grouped heads"] == 4 * (full - config.n_layers * config.n_heads // 2 * per_head // 2)
    assert sizes["shared layers"] == 4 * (full - config.n_layers // 2 * block)
    assert sizes["speculative"] == sizes["fp32"] + sizes["distilled"]
    assert rows["distilled"].model.config.n_layers == 2
    assert sizes["distilled"] == sizes["shared layers"]
    assert rows["half the heads"].model.config.n_heads == config.n_heads // 2
    assert rows["grouped heads"].model.config.n_kv_heads == config.n_heads // 2
    assert rows["shared layers"].model.config.share_layers == 2
    matrices = [p for name, p in rows["2:4"].model.named_parameters() if p.ndim == 2 and name.startswith("layers.")]
    assert all(is_n_of_m(matrix, 2, 4) for matrix in matrices)
    assert isinstance(rows["early exit"].model, EarlyExit)
    assert rows["early exit"].model.rule == ExitRule(threshold=0.5)
    assert isinstance(rows["speculative"].draft, ModelDraft)
    assert isinstance(rows["look-up"].draft, PromptLookup)
    for candidate in rows.values():
        assert candidate.model.eos_ids == course.eos_ids
        assert not candidate.model.training


def test_training_begins_at_the_course_model_and_moves_away_from_it(folder, course):
    trained = dict(part_three.load("trained on", folder).model.named_parameters())
    assert any(not torch.equal(p, trained[name]) for name, p in course.named_parameters())
    assert all(torch.allclose(p, trained[name], atol=0.05) for name, p in course.named_parameters())


def test_unknown_and_missing_rows_are_explained(tmp_path):
    with pytest.raises(ValueError, match="there is no row 'int2'; there are fp32, bf16"):
        part_three.load("int2", tmp_path)
    with pytest.raises(ValueError, match=r"'2:4' has not been trained in .*; run: python -m .*part_three train '2:4'"):
        part_three.load("2:4", tmp_path)
    with pytest.raises(ValueError, match="no row 'int8' is trained; those that are: trained on, 2:4"):
        part_three.train("int8", tmp_path)
    with pytest.raises(SystemExit, match="error: device 'abacus' is unknown"):
        part_three.main(["train", "2:4", "--device", "abacus", "--folder", str(tmp_path / "new")])
    with pytest.raises(SystemExit, match="error: no row '2:5' is trained"):
        part_three.main(["train", "2:4", "2:5", "--folder", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_perplexity_with_exits_that_nobody_takes_is_that_of_the_whole_model(course):
    tokenizer = lm.load_tokenizer(lm.checkpoint.COURSE)
    texts = [story.text()[:200] for story in held_out(3)]
    ids = tokenizer.encode_batch(texts, bos=True, eos=True)
    whole = story_loss(course, tokenizer, texts)["perplexity"]
    never = experiment.exit_perplexity(EarlyExit(course, ExitRule(threshold=2.0)), ids, batch_size=2)
    assert never["perplexity"] == pytest.approx(whole, abs=2e-4)
    assert never["layers"] == 4
    always = experiment.exit_perplexity(EarlyExit(course, ExitRule(threshold=0.0), exits=[2]), ids, batch_size=2)
    firsts = len(ids)  # the first token of a text is its prompt, and uses all layers
    n = sum(len(row) - 1 for row in ids)
    assert always["layers"] == pytest.approx((2 * (n - firsts) + 4 * firsts) / n)
    assert always["perplexity"] > never["perplexity"]


def test_perplexity_of_early_exits_by_hand(course):
    """One text, read with no cache: the logits of every exit, and the first that is sure enough."""
    rule = ExitRule(threshold=0.6)
    tokenizer = lm.load_tokenizer(lm.checkpoint.COURSE)
    (row,) = tokenizer.encode_batch([held_out(1)[0].text()[:120]], bos=True, eos=True)
    found = experiment.exit_perplexity(EarlyExit(course, rule, exits=[3]), [row])
    assert 3 < found["layers"] < 4
    losses = []
    for depth in (3, 4):  # between what it is at either exit alone
        part = EarlyExit(course, ExitRule(threshold=0.0 if depth == 3 else 2.0), exits=[3])
        losses.append(experiment.exit_perplexity(part, [row])["perplexity"])
    assert min(losses) * 0.99 < found["perplexity"] < max(losses) * 1.01


def test_speed_counts_tokens_and_passes(monkeypatch, course):
    monkeypatch.setattr(experiment, "LENGTH", 12)
    monkeypatch.setattr(experiment, "REPEATS", 1)
    monkeypatch.setattr(experiment, "PROMPTS", 1)
    before = torch.get_num_threads()
    tokenizer = lm.load_tokenizer(lm.checkpoint.COURSE)
    plain = experiment.speed(Candidate(model=course, tokenizer=tokenizer))
    assert plain["tokens_per_pass"] == 1
    assert all(figure.endswith("_per_second") or figure == "tokens_per_pass" for figure in plain)
    drafted = experiment.speed(Candidate(model=course, tokenizer=tokenizer, draft=ModelDraft(model=course, n=3)))
    assert drafted["tokens_per_pass"] == 12 / 4  # one, then four each: its own draft is always right; the last is cut
    assert torch.get_num_threads() == before


def test_a_draft_changes_no_answer(course):
    """In float32 and greedily; and the scores are those of chapter 13."""
    tokenizer, task = lm.load_tokenizer(lm.checkpoint.COURSE), application("question_answering")
    tests = task.examples(4, split="test")
    plain = task.predict(course, tokenizer, tests)
    assert task.predict(course, tokenizer, tests, draft=PromptLookup()) == plain
    right = sum(text in one.answers for text, one in zip(plain, tests, strict=True))
    candidate = Candidate(model=course, tokenizer=tokenizer, draft=PromptLookup())
    assert experiment.score("question_answering", candidate, 4) == 100 * right / 4


def test_the_exit_rule_is_calibrated_once(tmp_path, monkeypatch, course):
    from llama_minimal.course import exit_rule as module

    monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(module, "LENGTH", 8)
    tokenizer = lm.load_tokenizer(lm.checkpoint.COURSE)
    assert exit_rule(tmp_path, course, tokenizer).threshold == 2.0  # four texts show nothing
    (tmp_path / NAME).write_text('{"threshold": 0.25}')
    assert exit_rule(tmp_path, course, tokenizer) == ExitRule(threshold=0.25)
    (tmp_path / NAME).write_text('{"limit": 0.25}')
    with pytest.raises(ValueError, match=r"exit_rule\.json is no rule; delete it"):
        exit_rule(tmp_path, course, tokenizer)


def test_every_row_that_is_measured_has_bytes_and_speed():
    points, measures = experiment.POINTS, experiment.MEASURES
    rows = {measure: [point["row"] for point in points if point["measure"] == measure] for measure in measures}
    assert rows["perplexity"] == list(ROWS)
    assert rows["speed"] == rows["perplexity"]
    assert all(set(rows[measure]) <= set(rows["speed"]) for measure in measures)
    assert experiment.CHECK in points


def test_the_table_and_its_picture_have_every_row():
    points = [{"measure": "perplexity", "row": row, "bytes": 40 + i, "perplexity": 2.0} for i, row in enumerate(ROWS)]
    points += [{"measure": "stories", "row": row, "consistent": 70.0} for row in ROWS]
    points += [{"measure": "questions", "row": row, "exact_match": 62.5} for row in ROWS]
    speeds = {"fp32_tokens_per_second": 80.0, "tokens_per_pass": 1.0}
    points += [{"measure": "speed", "row": row, "tokens_per_second": 100.0 + i} | speeds for i, row in enumerate(ROWS)]
    rows = figures.by_row(points)
    assert list(rows) == list(ROWS)
    assert rows["bf16"]["memory"] == 41 / 40
    assert rows["bf16"]["speed"] == 101 / 80
    printed = figures.table(rows).split("\n")
    assert [line[:15].strip() for line in printed[1:]] == list(ROWS)
    assert printed[2].split() == ["bf16", "0.00", "101", "1.26x", "2.000", "70.0", "62.5"]
    figure = figures.draw(rows)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(ROWS)
    assert [len(ax.lines) for ax in figure.axes] == [2, 2, 2, 4]
