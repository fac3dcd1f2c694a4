"""What changes for a command that several processes run together: one speaks for all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

LOST = (
    "error: another process of this run has ended, so the others end too; what it has saved is whole, and a training "
    "run goes on from there with --resume"
)


def is_one_of_several() -> bool:
    """Return whether torchrun, or another launcher, started several processes."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def is_launched() -> bool:
    """Return whether torchrun started this process: it passes signals on, and ends all processes when one fails."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def alone_speaking() -> Iterator[bool]:
    """Yield whether this process is the one to tell the user what all have found; the others wait until it has."""
    if not is_one_of_several():
        yield True
        return
    from llama_minimal.parallel import speaking

    with speaking() as mine:
        yield mine
