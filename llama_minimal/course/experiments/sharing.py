"""Chapter 17: what does each form of sharing cost in loss, at equal compute and at equal parameters?"""

from typing import Any

from llama_minimal.config import LlamaConfig
from llama_minimal.cost import flops_per_token
from llama_minimal.course.lab import BATCH_SIZE, SEQ_LEN, small_config, small_text
from llama_minimal.model import Llama, build
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

WHAT = "Validation loss of a small LLaMA by what its parts share, with the unique parameters and the operations."
BUDGET = (
    "300 steps of 8 × 64 tokens, no story twice, four layers (but for the shallow forms), width 32 or wider, "
    "vocabulary 300; Muon, the best of the learning rates that were tried with one seed; three seeds."
)
# With the least arithmetic, at the lowest rate: other processors' losses are close.
CHECK = {"form": "one layer", "lr": 1e-2, "seed": 0}
TOLERANCE = 0.04

STEPS = 300
# What each form changes in a model of four layers that shares nothing.
EQUAL_COMPUTE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "tied": {"tie_embeddings": True},
    "1 kv head": {"n_kv_heads": 1},
    "aabb": {"share_layers": 2},
    "aaaa": {"share_layers": 4},
    "attention": {},
    "feed-forward": {},
}
# As many parameters as the one that shares nothing, to half a percent: what sharing saves is spent on width. Where
# layers stay apart, the feed-forward gets it (as in Shazeer 2019); where they are shared, all of the model.
EQUAL_PARAMETERS: dict[str, dict[str, Any]] = {
    "tied, wide": {"tie_embeddings": True, "hidden_dim": 113},
    "1 kv head, wide": {"n_kv_heads": 1, "hidden_dim": 104},
    "aaaa, wide": {"share_layers": 4, "dim": 56, "hidden_dim": 139},
}
# As many parameters as those that share layers, and less arithmetic.
SHALLOW: dict[str, dict[str, Any]] = {
    "two layers": {"n_layers": 2},
    "one layer": {"n_layers": 1},
    "one layer, wide": {"n_layers": 1, "dim": 56, "hidden_dim": 139},
}

FORMS = EQUAL_COMPUTE | EQUAL_PARAMETERS | SHALLOW
# What the config has no word for: this part of every block is one.
PARTS = {"attention": "attention", "feed-forward": "feed_forward"}

POINTS = [
    {"form": form, "lr": lr, "seed": seed}
    for form, best, others in (
        ("nothing", 2e-2, [1e-2, 4e-2]),
        ("aaaa", 2e-2, [1e-2, 4e-2]),
        ("one layer", 4e-2, [1e-2, 2e-2]),
        ("aabb", 2e-2, [1e-2, 4e-2]),
        ("tied", 2e-2, [1e-2, 4e-2]),
        ("1 kv head", 2e-2, [1e-2, 4e-2]),
        ("aaaa, wide", 2e-2, [1e-2, 4e-2]),
        ("one layer, wide", 2e-2, [1e-2, 4e-2]),
        ("feed-forward", 2e-2, [1e-2, 4e-2]),
        ("attention", 2e-2, [1e-2, 4e-2]),
    )
    for lr, seed in [(best, 0), (best, 1), (best, 2)] + [(lr, 0) for lr in others]
]


def form_config(form: str) -> LlamaConfig:
    """Return the config of one form."""
    return small_config(**{"dim": 32, "hidden_dim": 88, "n_layers": 4, "n_kv_heads": 4} | FORMS[form])


def build_form(form: str, *, seed: int) -> Llama:
    """Build a model that shares in one of the ways of ``FORMS``."""
    model = build(form_config(form), seed=seed)
    if form in PARTS:
        blocks = list(model.layers.values())
        for block in blocks:
            setattr(block, PARTS[form], getattr(blocks[0], PARTS[form]))
    return model


def run(*, form: str, lr: float, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Train one form, and return its unique parameters, its operations per token, and its validation loss in nats."""
    model = build_form(form, seed=seed)
    flops = sum(flops_per_token(model.config, context=(SEQ_LEN + 1) / 2).values())
    size = sum(parameter.numel() for parameter in model.parameters())
    text = small_text()
    recipe = TrainConfig(
        steps=steps,
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        optimizer="muon",
        lr=lr,
        embedding_lr_ratio=2.0,
        warmup_steps=min(20, steps),
        seed=seed,
        validate_every=steps,
    )
    trainer = Trainer(model, text.train, recipe, validation=text.validation[:10_000])
    for _ in trainer.run():
        pass
    return {"parameters": size, "flops": flops, "loss": trainer.validation_loss}
