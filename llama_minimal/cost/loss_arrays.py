"""What the output layer and the loss hold: hidden states, logits, and gradients that are computed with them."""

# N tokens of a micro-batch, n of a chunk, D model width, V vocabulary (of this process)

from llama_minimal.cost.kept import is_by_hand, stream_size
from llama_minimal.cost.part import Part

_FEW_LOGITS = 1 << 21


def chunk_rows(n_tokens: int, dim: int, vocab_size: int, size: int = 4) -> int:
    """Return how many tokens make a chunk, as ``chunked_loss.chunk_rows`` does, which needs PyTorch."""
    most = max(1, max(_FEW_LOGITS, n_tokens * dim, vocab_size * dim // (4 if size >= 4 else 1)) // vocab_size)
    n_chunks = max(1, -(-n_tokens // most))
    return max(1, -(-n_tokens // n_chunks))


def head_arrays(part: Part) -> dict[str, float]:
    """Return the bytes of each array at the fullest moment of the loss."""
    N, D, V = part.work.tokens, part.config.dim, part.vocab
    e, P, s = part.work.size, part.layout.tensor, stream_size(part.work, part.layout)
    normalized = 0 if is_by_hand(part.work, part.layout) else s * D / P
    arrays = {"last norm": N * (4 * D / P + normalized + s * D / P)}  # its input, and what it gives
    if P > 1:
        arrays["gathered"] = N * s * D
    if not part.work.chunked_loss:  # log softmax in float32, its exponential, and in 16 bits what goes back
        return arrays | {"logits": N * V * (8 + (e if e < 4 else 0))}
    n = chunk_rows(N, D, V, e)
    product = e * n * D + 4 * n * D  # d w, and weighed
    if part.work.new_logits and e == 4:
        product = max(product, 4 * n * V)
    return arrays | {
        "logits": n * V * (e + 4),
        "dx": N * s * D,
        "dw": 4 * V * D,
        "chunk": product,
        "cast": e * V * D if e < s else 0,  # w in 16 bits, unless it has come so
    }
