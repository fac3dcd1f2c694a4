"""Text to token ids and back: our own byte-level BPE, and the formats of published models.

``patterns`` and ``bpe`` are the algorithm, ``byte_level`` the tokenizer made of it. ``huggingface``, ``sentencepiece``
and ``tiktoken`` read what others trained. All are a ``TextCodec``.
"""

from pathlib import Path

from llama_minimal.config import read_json
from llama_minimal.files import refuse_pointer
from llama_minimal.tokenizer.byte_level import SPECIAL_TOKENS, Tokenizer
from llama_minimal.tokenizer.codec import TextCodec
from llama_minimal.tokenizer.companions import Companions
from llama_minimal.tokenizer.huggingface import HuggingFaceTokenizer
from llama_minimal.tokenizer.json_format import is_ours
from llama_minimal.tokenizer.patterns import PatternName
from llama_minimal.tokenizer.sentencepiece import SentencePieceTokenizer
from llama_minimal.tokenizer.tiktoken import TiktokenTokenizer, is_tiktoken

__all__ = [
    "SPECIAL_TOKENS",
    "HuggingFaceTokenizer",
    "PatternName",
    "SentencePieceTokenizer",
    "TextCodec",
    "TiktokenTokenizer",
    "Tokenizer",
    "load_tokenizer",
]


def load_tokenizer(path: str | Path) -> TextCodec:
    """Open the tokenizer in a file or folder, in whichever of the four formats it is.

    Args:
        path: a ``tokenizer.json`` or ``tokenizer.model``, or a folder; there ``tokenizer.json`` comes first.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the format needs a library that is not installed.
        ValueError: if the file is damaged or of another format.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"the folder {path} holds neither tokenizer.json nor tokenizer.model")
        path = found[0]
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer at {path}")
    refuse_pointer(path)
    if path.suffix == ".model":
        return (TiktokenTokenizer if is_tiktoken(path.read_bytes()[:1000]) else SentencePieceTokenizer)(path)
    if path.suffix != ".json":
        raise ValueError(f"{path} is neither a .json nor a .model file, so it is not a tokenizer")
    content = read_json(path)
    if not is_ours(content):
        return HuggingFaceTokenizer(path)
    tokenizer = Tokenizer.from_json(content, name=str(path))
    tokenizer.companions = Companions.read(path.parent)
    return tokenizer
