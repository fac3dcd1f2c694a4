"""Chapter 17: what does each form of sharing cost in loss, at equal compute and at equal parameters?"""

from typing import Any

from llama_minimal.config import LlamaConfig
from llama_minimal.cost import flops_per_token
from llama_minimal.course.lab import SEQ_LEN, small_config, trained
from llama_minimal.model import Llama, build

WHAT = "Validation loss of a small LLaMA by what its parts share, with the unique parameters and the operations."
BUDGET = (
    "500 steps of 8 × 64 tokens, no story twice, four layers (but for the shallow forms), width 32 or wider, "
    "vocabulary 300; 0.1, 0.2 and 0.4 divided by the width as learning rates, half of them where layers are shared; "
    "three seeds."
)
# At the lowest rate, and with the least arithmetic: other processors' losses are close.
CHECK = {"form": "one layer", "lr": 0.1 / 32, "seed": 0}

STEPS = 500
# What each form changes in a model of four layers that shares nothing.
EQUAL_COMPUTE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "tied": {"tie_embeddings": True},
    "2 kv heads": {"n_kv_heads": 2},
    "1 kv head": {"n_kv_heads": 1},
    "aabb": {"share_layers": 2},
    "abab": {},
    "aaaa": {"share_layers": 4},
    "attention": {},
    "feed-forward": {},
    "all of it": {"tie_embeddings": True, "n_kv_heads": 1, "share_layers": 4},
}
# As many parameters as the one that shares nothing, to half a percent: what sharing saves is spent on width. Where
# layers stay apart, the feed-forward gets it (as in Shazeer 2019); where they are shared, all of the model.
EQUAL_PARAMETERS: dict[str, dict[str, Any]] = {
    "tied, wide": {"tie_embeddings": True, "hidden_dim": 113},
    "1 kv head, wide": {"n_kv_heads": 1, "hidden_dim": 104},
    "aabb, wide": {"share_layers": 2, "dim": 40, "hidden_dim": 136},
    "aaaa, wide": {"share_layers": 4, "dim": 56, "hidden_dim": 139},
}
# As many parameters as those that share layers, and less arithmetic.
SHALLOW: dict[str, dict[str, Any]] = {"two layers": {"n_layers": 2}, "one layer": {"n_layers": 1}}

FORMS = EQUAL_COMPUTE | EQUAL_PARAMETERS | SHALLOW
# What the config has no word for: which block stands where.
ORDERS = {"abab": (0, 1, 0, 1)}
PARTS = {"attention": "attention", "feed-forward": "feed_forward"}


def form_config(form: str) -> LlamaConfig:
    """Return the config of one form."""
    return small_config(**{"dim": 32, "hidden_dim": 88, "n_layers": 4, "n_kv_heads": 4} | FORMS[form])


def rates(form: str) -> list[float]:
    """Return the learning rates that a form may choose from.

    Wider models need lower ones, and so do shared layers: each of their steps moves the stream in several places.
    """
    config = form_config(form)
    shared = config.share_layers > 1 or form in ORDERS or form in PARTS
    return [factor / config.dim / (2 if shared else 1) for factor in (0.1, 0.2, 0.4)]


def build_form(form: str, *, seed: int) -> Llama:
    """Build a model that shares in one of the ways of ``FORMS``."""
    model = build(form_config(form), seed=seed)
    blocks = list(model.layers.values())
    for i, place in enumerate(ORDERS.get(form, ())):
        model.layers[str(i)] = blocks[place]
    if form in PARTS:
        for block in blocks:
            setattr(block, PARTS[form], getattr(blocks[0], PARTS[form]))
    return model


POINTS = [{"form": form, "lr": lr, "seed": seed} for form in FORMS for lr in rates(form) for seed in (0, 1, 2)]


def run(*, form: str, lr: float, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Train one form, and return its unique parameters, its operations per token, and its validation loss in nats."""
    model = build_form(form, seed=seed)
    flops = sum(flops_per_token(model.config, context=(SEQ_LEN + 1) / 2).values())
    size = sum(parameter.numel() for parameter in model.parameters())
    loss = trained(model, seed=seed, steps=steps, lr=lr).loss
    return {"parameters": size, "flops": flops, "loss": loss}
