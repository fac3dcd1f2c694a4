"""Fine-tuning: examples with answers, from a file to a model that has learned them."""

from llama_minimal.finetuning.examples import Chat, Example, Labeled, Pair, read_examples

__all__ = ["Chat", "Example", "Labeled", "Pair", "read_examples"]
