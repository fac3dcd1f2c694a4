"""Distillation: a small model learns from what a larger one thinks of each token, not only from the token that came.

``divergences`` are the formulas; ``objectives`` what ``Trainer(…, objective=…)`` makes smaller; ``cache`` keeps a
teacher's probabilities on disk; ``writing`` has the teacher, or the student, write the text to learn from.
"""

from llama_minimal.distillation.cache import CachedExamples, open_cache, rows_of_text, write_cache
from llama_minimal.distillation.config import DistillationConfig
from llama_minimal.distillation.divergences import (
    distillation_loss,
    forward_kl,
    forward_kl_top,
    hidden_loss,
    keep_top,
    reverse_kl,
    reverse_kl_top,
)
from llama_minimal.distillation.hidden import principal_projections
from llama_minimal.distillation.objectives import CachedDistillation, Distillation, check_teacher
from llama_minimal.distillation.writing import OnPolicyDistillation, teacher_writes

__all__ = [
    "CachedDistillation",
    "CachedExamples",
    "Distillation",
    "DistillationConfig",
    "OnPolicyDistillation",
    "check_teacher",
    "distillation_loss",
    "forward_kl",
    "forward_kl_top",
    "hidden_loss",
    "keep_top",
    "open_cache",
    "principal_projections",
    "reverse_kl",
    "reverse_kl_top",
    "rows_of_text",
    "teacher_writes",
    "write_cache",
]
