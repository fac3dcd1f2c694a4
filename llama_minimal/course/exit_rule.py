"""When the early-exit row of Part III's table may leave: calibrated once, and kept beside the model."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from llama_minimal.adaptive_computation import ExitRule, calibrate
from llama_minimal.config import read_json
from llama_minimal.course.card import held_out, token_stream
from llama_minimal.files import replace_file
from llama_minimal.model import Llama
from llama_minimal.tokenizer import TextCodec

NAME = "exit_rule.json"
SHARE = 0.05
"""Of the tokens that may differ from those of the whole model."""
ROWS, LENGTH, SEED = 96, 192, 2000
"""Held-out texts to calibrate on, their tokens, and the seed of their valley, which no other measure uses."""


def exit_rule(folder: Path, model: Llama, tokenizer: TextCodec, *, exits: Sequence[int] | None = None) -> ExitRule:
    """Return the rule in a folder; if there is none, calibrate one for a model and write it there.

    Args:
        exits: the layers after which a token may leave; None means all.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        tokens = token_stream(tokenizer, [story.text() for story in held_out(ROWS, seed=SEED)])
        rows = torch.from_numpy(tokens[: len(tokens) // LENGTH * LENGTH].astype("int64")).view(-1, LENGTH)[:ROWS]
        rule = calibrate(model, rows, share=SHARE, exits=exits).rule
        if math.isinf(rule.threshold):  # nothing may leave; JSON has no infinity
            rule = ExitRule(measure=rule.measure, threshold=2.0)
        replace_file(path, json.dumps(asdict(rule)).encode("utf-8"))
    try:
        return ExitRule(**read_json(path))
    except TypeError:
        raise ValueError(f"{path} is no rule; delete it, and it is made anew") from None
