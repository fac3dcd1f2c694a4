"""The masked objective: who sees whom, what is hidden, and what can be learned only from the right side."""

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from llama_minimal.checkpoint import save
from llama_minimal.config import LlamaConfig, preset
from llama_minimal.generation import generate
from llama_minimal.masked_language import MaskedLanguage, hide_tokens, see_both_sides
from llama_minimal.model import build
from llama_minimal.prompts import IGNORE
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

MASK = 511


def both_sided(**changes):
    model = build(preset("tiny", n_layers=2, **changes))
    see_both_sides(model)
    return model


def test_logits_are_those_of_transformers_with_nothing_masked(tmp_path):
    model, tokens = both_sided(), torch.arange(24).view(2, 12)
    save(model, tmp_path, format="huggingface")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=torch.zeros(2, 1, 12, 12)).logits
        torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-5)
        assert (build(model.config)(tokens) - expected).abs().max() > 1e-3  # one that sees one side


@pytest.mark.parametrize("seed", range(3))
def test_without_positions_a_text_is_a_set(seed):
    """Only the order of the rows changes with the order of the tokens; a causal model knows who came first."""
    model, tokens = both_sided(position="none"), torch.arange(1, 11)[None]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[:, order]), model(tokens)[:, order], rtol=1e-4, atol=1e-6)
        causal = build(model.config)
        assert not torch.allclose(causal(tokens[:, order]), causal(tokens)[:, order], atol=1e-4)


def test_what_is_hidden_is_15_percent_and_8_of_10_of_it_a_mask():
    tokens = torch.full((100, 1000), 7)
    inputs, targets = hide_tokens(tokens, MASK, vocab_size=500, generator=torch.Generator().manual_seed(0))
    chosen = targets != IGNORE
    assert (targets[chosen] == 7).all()
    assert (inputs[~chosen] == 7).all()
    shares = [chosen.float().mean(), *((inputs[chosen] == what).float().mean() for what in (MASK, 7))]
    for share, expected, n in zip(shares, (0.15, 0.8, 0.1 + 0.1 / 500), (1e5, 1.5e4, 1.5e4), strict=True):
        assert abs(share - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


def test_the_same_batch_hides_the_same_and_another_seed_others():
    model, batch = both_sided(), (torch.arange(256).view(4, 64), torch.zeros(4, 64, dtype=torch.long))
    losses = [MaskedLanguage(MASK, seed=seed)(model, batch)[0].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    _, count = MaskedLanguage(MASK)(model, batch)
    assert 15 < count < 70  # 38 of 256 on average


def test_it_learns_what_stands_to_the_right():
    """Of each pair the first is random and the second says which it was: from the left no model can tell the first."""
    rng = np.random.default_rng(0)
    text = (np.repeat(rng.integers(0, 8, 4000), 2) + np.tile([0, 8], 4000)).astype(np.uint16)
    config = LlamaConfig(dim=32, n_layers=2, n_heads=2, vocab_size=17, max_seq_len=32)
    model = build(config)
    see_both_sides(model)
    recipe = TrainConfig(steps=250, batch_size=16, seq_len=32, lr=1e-2, warmup_steps=10)
    losses = [m["loss"] for m in Trainer(model, text, recipe, objective=MaskedLanguage(16)).run()]
    assert np.mean(losses[-20:]) < 0.5 * np.log(8)  # from the left alone, half of them cost log 8


def test_errors_say_what_to_do():
    model, batch = both_sided(), (torch.zeros(1, 8, dtype=torch.long),) * 2
    with pytest.raises(ValueError, match="cannot write"):
        generate(model, None, [[1, 2, 3]], max_new_tokens=2)
    with pytest.raises(ValueError, match=r"call see_both_sides\(model\)"):
        MaskedLanguage(MASK)(build(preset("tiny")), batch)
    with pytest.raises(ValueError, match="packed documents"):
        MaskedLanguage(MASK)(model, (*batch, batch[0]))
    with pytest.raises(ValueError, match=r"share=1.5 must be between 0 and 1"):
        MaskedLanguage(MASK, share=1.5)
