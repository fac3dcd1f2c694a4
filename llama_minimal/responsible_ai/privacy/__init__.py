"""Privacy: what a model gives away of its text, what to take out before, and training that hides each example.

``canaries`` measures, ``redaction`` takes out, ``training`` hides, ``accounting`` says how well.
"""

from llama_minimal.responsible_ai.privacy.accounting import (
    epsilon,
    group_privacy,
    library_epsilon,
    noise_for,
    rdp_of_step,
)
from llama_minimal.responsible_ai.privacy.canaries import (
    Canary,
    candidate_scores,
    estimated_exposure,
    exposure,
    rank,
)
from llama_minimal.responsible_ai.privacy.gradients import clip_factors, clipped_sum, example_gradients, gradient_norms
from llama_minimal.responsible_ai.privacy.planting import planted_texts
from llama_minimal.responsible_ai.privacy.redaction import (
    KINDS,
    Detail,
    RedactedPrompt,
    RedactingFilter,
    find_details,
    redact,
    redact_document,
    redaction_score,
)
from llama_minimal.responsible_ai.privacy.training import (
    PoissonBatches,
    PrivacyConfig,
    PrivateObjective,
    one_per_row,
    private_trainer,
    spent,
)

__all__ = [
    "KINDS",
    "Canary",
    "Detail",
    "PoissonBatches",
    "PrivacyConfig",
    "PrivateObjective",
    "RedactedPrompt",
    "RedactingFilter",
    "candidate_scores",
    "clip_factors",
    "clipped_sum",
    "epsilon",
    "estimated_exposure",
    "example_gradients",
    "exposure",
    "find_details",
    "gradient_norms",
    "group_privacy",
    "library_epsilon",
    "noise_for",
    "one_per_row",
    "planted_texts",
    "private_trainer",
    "rank",
    "rdp_of_step",
    "redact",
    "redact_document",
    "redaction_score",
    "spent",
]
