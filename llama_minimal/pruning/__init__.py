"""Pruning: single weights set to zero, or whole heads, features and layers removed, and training after it.

From a matrix to a model: masks and scores (``magnitude_mask``, ``wanda_score``, ``n_of_m_mask``, ``sparsegpt``), a
whole model with zeros (``prune``, ``sparsity_report``, ``keep_zeros``), a smaller one without them (``remove_heads``,
``remove_features``, ``remove_layers``, and what says which).
"""

from llama_minimal.calibration import hessians, input_norms
from llama_minimal.pruning.importance import feature_scores, head_scores, layer_scores, lowest, lowest_heads
from llama_minimal.pruning.layers import find_layers
from llama_minimal.pruning.masks import is_n_of_m, keep_mask, magnitude_mask, n_of_m_mask, wanda_score
from llama_minimal.pruning.report import SparsityReport, sparsity_report
from llama_minimal.pruning.retraining import keep_zeros
from llama_minimal.pruning.second_order import sparsegpt
from llama_minimal.pruning.structure import remove_features, remove_heads, remove_layers
from llama_minimal.pruning.unstructured import prune

__all__ = [
    "SparsityReport",
    "feature_scores",
    "find_layers",
    "head_scores",
    "hessians",
    "input_norms",
    "is_n_of_m",
    "keep_mask",
    "keep_zeros",
    "layer_scores",
    "lowest",
    "lowest_heads",
    "magnitude_mask",
    "n_of_m_mask",
    "prune",
    "remove_features",
    "remove_heads",
    "remove_layers",
    "sparsegpt",
    "sparsity_report",
    "wanda_score",
]
