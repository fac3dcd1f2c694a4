"""The published sizes, and small ones for lessons."""

from typing import Any

from llama_minimal.config.rope_scaling import RopeScaling
from llama_minimal.config.shape import LlamaConfig


def preset(name: str, **changes: Any) -> LlamaConfig:
    """Return a known configuration by name, with some fields changed if asked.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.

    Example:
        >>> preset("llama-7b").n_layers
        32
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name].replace(**changes) if changes else PRESETS[name]


def _llama(dim: int, n_layers: int, n_heads: int, **values: Any) -> LlamaConfig:
    return LlamaConfig(dim=dim, n_layers=n_layers, n_heads=n_heads, **{"vocab_size": 32_000, **values})


_LLAMA2 = {"max_seq_len": 4096}
_LLAMA3 = {"vocab_size": 128_256, "n_kv_heads": 8, "rope_theta": 500_000.0, "max_seq_len": 8192}
_LLAMA31 = _LLAMA3 | {"max_seq_len": 131_072, "rope_scaling": RopeScaling(kind="llama3", factor=8.0)}
_LLAMA32 = _LLAMA31 | {"rope_scaling": RopeScaling(kind="llama3", factor=32.0), "tie_embeddings": True}

# LLaMA: Touvron et al. 2023, table 2 (sizes). The others: the config files released with each model.
PRESETS: dict[str, LlamaConfig] = {
    "llama-7b": _llama(4096, 32, 32, norm_eps=1e-6),
    "llama-13b": _llama(5120, 40, 40, norm_eps=1e-6),
    "llama-30b": _llama(6656, 60, 52, norm_eps=1e-6),
    "llama-65b": _llama(8192, 80, 64, norm_eps=1e-5),
    "llama2-7b": _llama(4096, 32, 32, **_LLAMA2),
    "llama2-13b": _llama(5120, 40, 40, **_LLAMA2),
    "llama2-70b": _llama(8192, 80, 64, n_kv_heads=8, hidden_dim=28_672, **_LLAMA2),
    "llama3-8b": _llama(4096, 32, 32, hidden_dim=14_336, **_LLAMA3),
    "llama3-70b": _llama(8192, 80, 64, hidden_dim=28_672, **_LLAMA3),
    "llama3.1-8b": _llama(4096, 32, 32, hidden_dim=14_336, **_LLAMA31),
    "llama3.1-70b": _llama(8192, 80, 64, hidden_dim=28_672, **_LLAMA31),
    "llama3.2-1b": _llama(2048, 16, 32, hidden_dim=8192, **_LLAMA32),
    "llama3.2-3b": _llama(3072, 28, 24, hidden_dim=8192, **_LLAMA32),
    # Small ones for lessons; "course" is shipped trained. The stories-* shapes are those of llama2.c (Karpathy 2023).
    "stories-15m": _llama(288, 6, 6, hidden_dim=768, max_seq_len=256, tie_embeddings=True),
    "stories-42m": _llama(512, 8, 8, hidden_dim=1376, max_seq_len=1024, tie_embeddings=True),
    "stories-110m": _llama(768, 12, 12, hidden_dim=2048, max_seq_len=1024, tie_embeddings=True),
    "tiny": _llama(64, 4, 4, n_kv_heads=2, vocab_size=512, hidden_dim=176, max_seq_len=256),
    "small": _llama(128, 4, 4, n_kv_heads=2, vocab_size=1024, hidden_dim=352, max_seq_len=256),
    "course": _llama(256, 4, 4, vocab_size=2048, hidden_dim=688, max_seq_len=512, tie_embeddings=True),
}
