"""What the commands print: progress bars, tables, and how they end."""

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


def print_anything() -> None:
    """Let standard output and error write what their encoding lacks as ``\\u6709``, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        # A test's or a notebook's stream may be no file; a handler other than these was chosen by the user.
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Write warnings as a line for the user, without the place in the program that they come from."""
    usual = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> str:
        return f"warning: {message}\n" if category is UserWarning else usual(message, category, *args, **kwargs)

    warnings.formatwarning = plain
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # of PyTorch to those who write models
            if os.environ.get("RANK", "0") != "0":  # the first of several processes warns for all
                warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        warnings.formatwarning = usual


@contextmanager
def ending_quietly() -> Iterator[None]:
    """End as other tools do, without a word, when nobody reads the output any more: ``llama-minimal info | head``."""
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # here, where it can be caught, and not when Python ends
    except OSError as error:
        _write_to_nowhere()
        # Windows has no broken pipes; there the argument is invalid.
        if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL):
            sys.exit(128 + getattr(signal, "SIGPIPE", 13))  # what a shell reports of a program that SIGPIPE ended
        raise


def _write_to_nowhere() -> None:
    """Point what can no longer be written to away, so that Python's own last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


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


def print_plugins() -> None:
    """Print what installed packages bring, and warn of what cannot be used."""
    from llama_minimal import plugins

    if not any(map(plugins.names, plugins.GROUPS)):
        return
    from llama_minimal.applications import APPLICATIONS
    from llama_minimal.cli.train import NEXT_TOKEN
    from llama_minimal.data import CORPORA

    print("\nfrom installed packages")
    for group, built_in in zip(plugins.GROUPS, (CORPORA, APPLICATIONS, (NEXT_TOKEN,)), strict=True):
        for name in plugins.find(group, built_in=built_in):
            print(f"  {group.removeprefix('llama_minimal.')}: {name} ({plugins.packages(group, name)})")


def check_counts(command: object, *names: str, least: int = 1) -> None:
    """Refuse a flag that is below ``least``; None stands for one that was left out.

    Raises:
        ValueError: naming the flag.
    """
    for name in names:
        value = getattr(command, name)
        if value is not None and not value >= least:  # so that NaN is refused
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {least}")


def warn(text: str) -> None:
    """Print a line to standard error, past any progress bar."""
    tqdm.write(text, file=sys.stderr)
