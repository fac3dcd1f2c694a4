"""What the commands print: progress bars, tables, and how they end."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def bytes_bar(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar in bytes; yields ``update(done, total)``."""
    with tqdm(desc=title, unit="B", unit_scale=True, unit_divisor=1000, disable=None, leave=False) as bar:

        def update(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def table(rows: list[tuple[str, str]], *, indent: str = "  ") -> str:
    """Align names on the left and values on the right."""
    left = max(len(name) for name, _ in rows)
    right = max(len(value) for _, value in rows)
    return "\n".join(f"{indent}{name:<{left}}  {value:>{right}}" for name, value in rows)


def human(value: float, unit: str = "") -> str:
    """Write a number with three significant digits and a decimal prefix: 6.74 G."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def warn(text: str) -> None:
    """Print a line to standard error, past any progress bar."""
    tqdm.write(text, file=sys.stderr)
