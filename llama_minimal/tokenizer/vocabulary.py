"""What merges and names must satisfy to be a byte-level vocabulary."""

from collections.abc import Sequence

from llama_minimal.tokenizer.bpe import N_BYTES, Pair


def token_table(merges: Sequence[Pair]) -> list[bytes]:
    """Return the bytes of every ordinary token, by id.

    Raises:
        ValueError: if a merge uses an id that is not below its own, or two make the same bytes.
    """
    tokens = [bytes([byte]) for byte in range(N_BYTES)]
    for left, right in merges:
        if not (0 <= left < len(tokens) and 0 <= right < len(tokens)):
            raise ValueError(f"merge {len(tokens) - N_BYTES} uses ids {left} and {right}, not below {len(tokens)}")
        tokens.append(tokens[left] + tokens[right])
    if len(set(tokens)) < len(tokens):
        raise ValueError("two merges make the same bytes")
    return tokens


def check_special(names: Sequence[str], tokens: Sequence[bytes]) -> None:
    """Refuse names of special tokens that could be mistaken for text, or for each other.

    Raises:
        ValueError: if there is such a name.
    """
    taken = set(tokens)
    for name in names:
        # Beyond ASCII, a name would be mistaken for bytes in GPT-2's alphabet.
        if not name or not all("!" <= character <= "~" for character in name):
            raise ValueError(f"special token {name!r} must be visible ASCII characters, such as '<|name|>'")
        if name.encode("ascii") in taken:
            raise ValueError(f"special token {name!r} occurs twice or is also an ordinary token; use '<|name|>'")
        taken.add(name.encode("ascii"))
