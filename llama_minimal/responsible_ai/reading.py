"""What a tokenizer makes of a text that follows another."""

from llama_minimal.generation import encode_prompt
from llama_minimal.tokenizer import TextCodec


def split_tokens(tokenizer: TextCodec, before: str, text: str) -> tuple[list[int], list[int]]:
    """Return the ids of both texts together, cut where the second begins.

    A tokenizer may join the end of the one with the beginning of the other; such a token belongs to the second.
    """
    alone, whole = encode_prompt(tokenizer, before), encode_prompt(tokenizer, before + text)
    n = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), min(len(alone), len(whole)))
    return whole[:n], whole[n:]
