"""Training text: where it comes from, how it becomes a file of token ids, and how that becomes batches."""

from llama_minimal.data.batches import Batches, sequential_batches
from llama_minimal.data.corpora import CORPORA, documents
from llama_minimal.data.document import Document, LongDocument
from llama_minimal.data.download import cache_folder, download
from llama_minimal.data.duplicates import Duplicates, deduplicate
from llama_minimal.data.encoding import encode_corpus
from llama_minimal.data.mixture import MixedBatches
from llama_minimal.data.packing import EncodedExample, PackedBatches, PackedExamples
from llama_minimal.data.stages import StagedBatches, make_batches, validation_batches
from llama_minimal.data.token_file import CorpusInfo, SplitInfo, TokenFile, read_corpus_info

__all__ = [
    "CORPORA",
    "Batches",
    "CorpusInfo",
    "Document",
    "Duplicates",
    "EncodedExample",
    "LongDocument",
    "MixedBatches",
    "PackedBatches",
    "PackedExamples",
    "SplitInfo",
    "StagedBatches",
    "TokenFile",
    "cache_folder",
    "deduplicate",
    "documents",
    "download",
    "encode_corpus",
    "make_batches",
    "read_corpus_info",
    "sequential_batches",
    "validation_batches",
]
