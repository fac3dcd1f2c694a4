"""Chapter 22: what the planner says that a training step holds, and what it holds."""

from llama_minimal.course.memory_runs import CASES, measured, planned

WHAT = "Live tensor bytes of a training step at its fullest moment, planned and counted, for fourteen ways to train."
BUDGET = (
    "Two steps of a model with four layers of width 256, 8 sequences of 128 tokens; the second is counted. The fullest "
    "process counts. Resident memory is what the system gave it at most, the libraries' own included."
)
CHECK = {"case": "checkpointing"}  # in other cases a processor's own kernels hold a few arrays more or less
TOLERANCE = 0.05

POINTS = [{"case": name} for name in CASES]


def run(*, case: str) -> dict[str, float]:
    """Return bytes: planned, counted as live tensors, and resident.

    Args:
        case: a name of ``memory_runs.CASES``.
    """
    _, alive = planned(case)
    processes = measured(case)
    fullest = max(processes, key=lambda one: one["live"])
    return {"planned": sum(alive.values()), "live": fullest["live"], "resident": fullest["resident"]}
