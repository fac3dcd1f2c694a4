"""What tokens must be before a model reads them."""

import numpy as np
import pytest

from llama_minimal.config import LlamaConfig
from llama_minimal.model import build
from llama_minimal.prompts import check_prompts, check_tokens
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

CONFIG = LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=256, max_seq_len=8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "<u4", "int64"])
def test_tokens_that_the_model_knows_pass(dtype, tmp_path):
    tokens = np.arange(256).astype(dtype)
    tokens.tofile(tmp_path / "tokens.bin")
    check_tokens(CONFIG, tokens)
    check_tokens(CONFIG, np.memmap(tmp_path / "tokens.bin", dtype=dtype, mode="r"))
    check_tokens(CONFIG, tokens[:0])


@pytest.mark.parametrize(("wrong", "dtype"), [(256, "uint16"), (65_535, "uint16"), (-1, "int64"), (10**6, "uint32")])
@pytest.mark.parametrize("where", [0, 57, 99])
def test_a_token_that_it_does_not_know_is_named(wrong, dtype, where):
    tokens = np.full(100, 255, dtype=dtype)
    tokens[where] = wrong
    with pytest.raises(ValueError, match=f"the story holds token id {wrong}, .*ids are 0 to 255"):
        check_tokens(CONFIG, tokens, what="story")


@pytest.mark.parametrize("which", ["training", "validation"])
def test_a_trainer_refuses_a_text_of_another_tokenizer_before_the_first_step(which):
    good, bad = np.arange(100) % 256, np.full(100, 300)
    texts = {"tokens": good, "validation": good} | {"tokens" if which == "training" else "validation": bad}
    with pytest.raises(ValueError, match=f"the {which} text holds token id 300"):
        Trainer(build(CONFIG), texts.pop("tokens"), TrainConfig(steps=1, seq_len=4, warmup_steps=0), **texts)


@pytest.mark.parametrize(
    ("prompts", "n", "says"),
    [
        ([], 1, "no prompt"),
        ([[1], []], 1, "empty"),
        ([[1]], 0, "max_new_tokens=0"),
        ([[1], [2, 256]], 1, "token id 256 is not among the model's ids 0 to 255"),
        ([[1], [-3, 2]], 1, "token id -3"),
        ([[1] * 8], 1, "8 tokens.*shorten it to 7"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(prompts, n, says):
    with pytest.raises(ValueError, match=says):
        check_prompts(CONFIG, prompts, n)
    check_prompts(CONFIG, [[0, 255], [1] * 7], 1)
