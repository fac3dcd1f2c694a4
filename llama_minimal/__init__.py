"""LLaMA, rebuilt one component at a time.

The names below are loaded when they are first used, so that ``import llama_minimal`` is quick, and the NumPy
half (``llama_minimal.reference``) never imports torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "config": ("LlamaConfig", "PRESETS", "RopeScaling", "preset"),
    "model": ("Llama", "build"),
    "tokenizer": ("Tokenizer", "load_tokenizer"),
    "checkpoint": ("load", "load_adapter", "save", "save_adapter", "save_gguf"),
    "lora": ("LoRAConfig", "add_adapter"),
    "generation": ("Completion", "generate", "stream"),
    "beams": ("beam_search",),
    "settings": ("GREEDY", "Sampling", "TrainConfig"),
    "kv_cache": ("KVCache",),
    "long_context": ("Window",),
    "training": ("Trainer",),
    "data": ("documents", "encode_corpus", "TokenFile"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
