"""Fine-tuning: examples with answers, from a file to a model that has learned them."""

from llama_minimal.data.packing import EncodedExample, PackedExamples
from llama_minimal.finetuning.encoding import encode_examples
from llama_minimal.finetuning.examples import Chat, Example, Labeled, Pair, read_examples
from llama_minimal.finetuning.methods import LORA, Method, classify, prepare, with_labels

__all__ = [
    "LORA",
    "Chat",
    "EncodedExample",
    "Example",
    "Labeled",
    "Method",
    "PackedExamples",
    "Pair",
    "classify",
    "encode_examples",
    "prepare",
    "read_examples",
    "with_labels",
]
