"""The larger model of Part III: its text, its training, and what is said where it is missing. All tiny here."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from llama_minimal.checkpoint import COURSE
from llama_minimal.config import preset
from llama_minimal.course import larger
from llama_minimal.course.card import token_stream
from llama_minimal.course.valley_tokens import held_out_tokens, valley_tokens
from llama_minimal.data.valley import ValleySettings, mixed
from llama_minimal.tokenizer import load_tokenizer

TINY = preset("tiny", dim=16, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=16, vocab_size=2048, max_seq_len=64)
QUICK = replace(larger.RECIPE, batch_size=4, seq_len=32, short_seq_len=16, snapshot_every=2, validate_every=4)


@pytest.fixture
def tiny(monkeypatch):
    """Train the same way, but a tiny model in tiny steps."""
    monkeypatch.setattr(larger, "RECIPE", QUICK)
    monkeypatch.setattr(larger, "shape", lambda: TINY)
    monkeypatch.setattr(larger, "valley_tokens", lambda path, n: valley_tokens(path, n, texts=30, processes=1))
    monkeypatch.setattr(larger, "held_out_tokens", lambda n, tokenizer: held_out_tokens(3, tokenizer))


def test_the_text_is_the_same_from_one_process_and_from_two(tmp_path):
    alone = valley_tokens(tmp_path / "a" / "text.npy", 3, texts=5, processes=1)
    shared = valley_tokens(tmp_path / "b" / "text.npy", 3, texts=5, processes=2)
    texts = [one.text for seed in range(3) for one in mixed(5, ValleySettings(seed=seed))]
    np.testing.assert_array_equal(alone, token_stream(load_tokenizer(COURSE), texts))
    np.testing.assert_array_equal(alone, shared)
    (tmp_path / "b" / "text.npy").unlink()
    np.save(tmp_path / "b" / "text.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"text\.npy holds no tokens; delete it"):
        valley_tokens(tmp_path / "b" / "text.npy", 3)


def test_training_goes_on_where_it_was_stopped_and_ends_with_a_model_and_its_card(tiny, tmp_path, monkeypatch):
    whole = larger.train(tmp_path / "whole", device="cpu", steps=6, n_parts=2)

    from llama_minimal.course import long_run
    from llama_minimal.training import Trainer

    def broken_off(self):
        for metrics in Trainer.run(self):
            yield metrics
            if metrics["step"] == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(long_run, "Trainer", type("Broken", (Trainer,), {"run": broken_off}))
    with pytest.raises(KeyboardInterrupt):
        larger.train(tmp_path / "broken", device="cpu", steps=6, n_parts=2)
    with pytest.raises(ValueError, match=r"larger model is not finished in .*broken; train it by: python -m llama_min"):
        larger.load(tmp_path / "broken")
    monkeypatch.setattr(long_run, "Trainer", Trainer)
    larger.train(tmp_path / "broken", device="cpu", steps=6, n_parts=2)
    (one, tokenizer), (other, _) = (larger.load(tmp_path / name) for name in ("whole", "broken"))
    assert tokenizer.fingerprint == load_tokenizer(COURSE).fingerprint
    assert next(one.parameters()).dtype == torch.bfloat16
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    card = json.loads((whole / "card.json").read_text())
    assert [step for step, _ in card["training"]["curve"]] == [4, 6]
    assert card["training"]["tokens_seen"] == 6 * 4 * 32
    assert card["seconds_for_the_text"] >= 0
    before = (whole / "model.safetensors").read_bytes()
    assert larger.train(whole, device="cpu", steps=6, n_parts=2) == whole  # finished: nothing is done
    assert (whole / "model.safetensors").read_bytes() == before


def test_the_shape_is_stories_15m_with_the_vocabulary_and_context_of_the_course_model():
    shape, stories, course = larger.shape(), preset("stories-15m"), preset("course")
    assert (shape.dim, shape.n_layers, shape.n_heads, shape.hidden_dim) == (288, 6, 6, 768)
    assert shape == stories.replace(vocab_size=course.vocab_size, max_seq_len=course.max_seq_len)
    assert (shape.vocab_size, shape.max_seq_len, shape.tie_embeddings) == (2048, 512, True)


def test_a_missing_model_is_explained(tmp_path):
    with pytest.raises(ValueError, match=r"is not there in .*train it by: python -m .*larger train \(about two minut"):
        larger.load(tmp_path)


def test_the_command_refuses_in_a_sentence_and_needs_no_command_line_library(tmp_path):
    code = (
        "import sys\nsys.modules['tyro'] = None\nfrom llama_minimal.course import larger\n"
        f"larger.main(['train', '--device', 'abacus', '--out', {str(tmp_path / 'out')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("error: device 'abacus' is unknown"), done.stderr
    assert not (tmp_path / "out").exists()
