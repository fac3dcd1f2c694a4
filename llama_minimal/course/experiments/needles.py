"""Chapter 19: recall of a fact over up to four trained lengths, by remedy, before and after a short tuning."""

from llama_minimal.course.needles import CONTEXT, lab_model, needles, recall, rows, stretched, tuned
from llama_minimal.long_context import Window

WHAT = "Share of facts recalled by small models trained on 64 tokens, over 16 to 248 tokens, each remedy alone."
BUDGET = (
    "Two layers of width 64, 400 steps of 32 × 64 tokens by AdamW at the rate 3e-3; three seeds. Tuning: 25 more steps "
    "of 8 × 256 tokens at 1e-3, another text for each seed; as a control on 32 × 64 tokens. 100 questions at each "
    "distance, 40 where the text is read token by token."
)
CHECK = {"remedy": "linear", "steps": 0, "seed": 0}
TOLERANCE = 0.25  # small models at the border of what they know; where they know it, shares are near 1

LONG, STEPS = 4 * CONTEXT, 25
DISTANCES = (16, 56, 88, 120, 184, 248)
WINDOWS = {
    "window": Window(size=CONTEXT, n_sinks=0),
    "sinks": Window(size=CONTEXT, n_sinks=4),
    "memory": Window(size=CONTEXT, n_sinks=4, n_recalled=8),
}
REMEDIES = ("none", "linear", "ntk", "dynamic", "yarn")
POINTS = [
    *({"remedy": remedy, "steps": 0, "seed": seed} for seed in (0, 1, 2) for remedy in (*REMEDIES, *WINDOWS)),
    *(
        {"remedy": remedy, "steps": STEPS, "seed": seed}
        for seed in (0, 1, 2)
        for remedy in ("none", "as short", "linear", "yarn")
    ),
    *({"remedy": remedy, "steps": STEPS, "seed": 0} for remedy in ("ntk", "dynamic")),
]


def run(*, remedy: str, steps: int, seed: int) -> dict[str, float]:
    """Return the recall at each distance; through a window also ``near``: over 40 tokens, after 150 others.

    Args:
        remedy: a kind of ``RopeScaling``, a name of ``WINDOWS``, "none", or "as short": none, tuned at the old length.
        steps: of tuning.
    """
    model = lab_model(seed)
    if remedy in WINDOWS:
        window = WINDOWS[remedy]
        near = recall(model, needles(40, 40, seed=seed, before=150), window)
        return {"near": near} | {str(d): recall(model, needles(40, d, seed=seed), window) for d in DISTANCES[1::2]}
    longer = stretched(model, LONG, None if remedy in ("none", "as short") else remedy)
    if steps:
        length = CONTEXT if remedy == "as short" else LONG
        size = 8 * LONG // length
        data = rows(size * steps, length, seed=500 + seed)
        longer = tuned(longer.train(), data, steps=steps, batch_size=size, lr=1e-3, seed=seed)
    return {str(d): recall(longer, needles(100, d, seed=seed)) for d in DISTANCES}
