"""Among how many processes the heads and features of a layer can be shared out evenly."""

from llama_minimal.config.shape import LlamaConfig

_SHARED = ("n_kv_heads", "n_heads", "hidden_dim")


def uneven(config: LlamaConfig, n: int) -> str | None:
    """Return what n processes cannot share, such as ``n_heads=6``; None if they share all."""
    return next((f"{name}={getattr(config, name)}" for name in _SHARED if getattr(config, name) % n), None)


def divisors(config: LlamaConfig) -> list[int]:
    """Return among how many processes heads and features can be shared out evenly."""
    return [n for n in range(1, config.n_kv_heads + 1) if uneven(config, n) is None]


def check_even(config: LlamaConfig, tensor: int, *, sharers: str) -> None:
    """Refuse a number of processes, which the message calls so, that do not divide heads and features.

    Raises:
        ValueError: with the numbers that would do.
    """
    if left := uneven(config, tensor):
        raise ValueError(
            f"tensor={tensor} does not divide {left}; this model can be split among "
            f"{', '.join(map(str, divisors(config)))} {sharers}"
        )
