"""The command line: ``llama-minimal train | generate | chat | evaluate | convert | corpus | info``."""

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from llama_minimal.cli.corpus import Corpus
from llama_minimal.cli.models import Convert, Evaluate, Info
from llama_minimal.cli.resume import compared, saved_command
from llama_minimal.cli.train import Train
from llama_minimal.cli.write import Chat, Generate

_COMMANDS = {
    "train": Train,
    "generate": Generate,
    "chat": Chat,
    "evaluate": Evaluate,
    "convert": Convert,
    "corpus": Corpus,
    "info": Info,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; what a user can mend ends with a line on standard error and status 2."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        _parse(args).run()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if not _is_expected(error):
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


def _parse(args: list[str]) -> object:
    # Flags left out take the values of the run that is resumed; those given are then compared with them.
    saved = saved_command(args)
    command = _cli(args, saved)
    return command if saved is None else compared(command, saved)


def _cli(args: list[str], saved: Train | None) -> object:
    union = None
    for name, command in _COMMANDS.items():
        default = saved if saved is not None and command is Train else tyro.MISSING_NONPROP
        option = Annotated[command, tyro.conf.subcommand(name, prefix_name=False, default=default)]
        union = option if union is None else union | option
    return tyro.cli(union, args=args, prog="llama-minimal", description=__doc__)


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"could not write: {error}; what was there before is untouched; make room, or choose another folder"
    return str(error)


def _is_expected(error: Exception) -> bool:
    """Whether an error says what a user can mend; other errors of torch keep their traceback."""
    from llama_minimal.training import TrainingDivergedError

    return not isinstance(error, RuntimeError) or isinstance(error, TrainingDivergedError)
