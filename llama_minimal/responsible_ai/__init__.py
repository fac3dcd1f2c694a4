"""What a model should not do: bias measured and reduced, an output filter, and secrets kept.

``bias`` and ``remedies`` measure it and make it less, ``classifier`` and ``filter`` keep what a model writes from being
shown, ``privacy`` keeps what it read from being told.
"""

from llama_minimal.responsible_ai.bias import (
    Accuracy,
    accuracy_by,
    amplification,
    association,
    group_shares,
    next_shares,
)
from llama_minimal.responsible_ai.classifier import (
    HiddenStateJudge,
    Logistic,
    WordList,
    fit_logistic,
    precision_recall,
    text_states,
    threshold_for,
)
from llama_minimal.responsible_ai.filter import SentenceFilter, StringFilter, filtered
from llama_minimal.responsible_ai.remedies import (
    balance,
    mirrored,
    partners,
    remove_directions,
    swap_words,
    without_directions,
)

__all__ = [
    "Accuracy",
    "HiddenStateJudge",
    "Logistic",
    "SentenceFilter",
    "StringFilter",
    "WordList",
    "accuracy_by",
    "amplification",
    "association",
    "balance",
    "filtered",
    "fit_logistic",
    "group_shares",
    "mirrored",
    "next_shares",
    "partners",
    "precision_recall",
    "remove_directions",
    "swap_words",
    "text_states",
    "threshold_for",
    "without_directions",
]
