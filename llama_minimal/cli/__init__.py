"""The command line: ``llama-minimal train | finetune | generate | chat | evaluate | convert | corpus …``."""

import errno
import io
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Annotated, Any

import tyro

import llama_minimal
from llama_minimal.cli.applications import Examples
from llama_minimal.cli.chat import Chat
from llama_minimal.cli.console import ending_quietly, plain_warnings, print_anything
from llama_minimal.cli.convert import Convert
from llama_minimal.cli.corpus import Corpus
from llama_minimal.cli.finetune import Finetune, saved_finetune
from llama_minimal.cli.models import Evaluate, Info
from llama_minimal.cli.plan import PlanCommand
from llama_minimal.cli.processes import LOST, alone_speaking, is_one_of_several
from llama_minimal.cli.resume import compared, saved_command
from llama_minimal.cli.train import Train
from llama_minimal.cli.write import Generate

_COMMANDS = {
    "train": Train,
    "finetune": Finetune,
    "generate": Generate,
    "chat": Chat,
    "evaluate": Evaluate,
    "convert": Convert,
    "corpus": Corpus,
    "examples": Examples,
    "info": Info,
    "plan": PlanCommand,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; what a user can mend ends with a line on standard error and status 2."""
    print_anything()
    try:
        with ending_quietly(), plain_warnings():
            _run(list(sys.argv[1:] if args is None else args))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if not _is_expected(error):
            if not is_one_of_several():
                raise
            from llama_minimal.parallel import is_lost_connection

            _end(LOST if is_lost_connection(error) else traceback.format_exc(), 1)
        _end(f"error: {_explain(error)}", 2)
    except KeyboardInterrupt:
        _end("\nstopped", 130)


def _end(text: str, status: int) -> None:
    """Tell the user why the program ends, once for all processes, and end."""
    with alone_speaking() as mine:
        if mine:
            print(text.rstrip(), file=sys.stderr)
    sys.exit(status)


def _run(args: list[str]) -> None:
    if args == ["--version"]:
        print(f"llama-minimal {llama_minimal.__version__}")
    else:
        _parse(args).run()


def _parse(args: list[str]) -> object:
    # Flags left out take the values of the run that is resumed; those given are then compared with them.
    saved = saved_command(args) or saved_finetune(args)
    command = _cli(args, saved)
    return compared(command, saved) if isinstance(saved, Train) else command  # the other is compared when it runs


def _cli(args: list[str], saved: Train | Finetune | None) -> object:
    union = None
    for name, command in _COMMANDS.items():
        default = saved if isinstance(saved, command) else tyro.MISSING_NONPROP
        option = Annotated[command, tyro.conf.subcommand(name, prefix_name=False, default=default)]
        union = option if union is None else union | option
    return _tyro(union, args, prog="llama-minimal", description=__doc__)


def _tyro(kind: Any, args: list[str], **options: Any) -> object:
    """Parse arguments; tyro explains flags that it does not know, and we the values that a command refuses.

    Raises:
        ValueError: what the command itself said of its values.
        SystemExit: after tyro's explanation, or its help.
    """
    unread = io.StringIO()
    try:
        with redirect_stdout(unread), redirect_stderr(unread):
            return tyro.cli(kind, args=args, **options)
    except SystemExit as ending:
        if refused := _refused_by_us(ending):
            raise refused from None
        with alone_speaking() as mine:
            if not mine:
                raise
            return tyro.cli(kind, args=args, **options)  # once more, for all to read


def _refused_by_us(ending: SystemExit) -> ValueError | None:
    """Return the error that made tyro end, if it was raised in this package and not while tyro read a value."""
    error: BaseException | None = ending
    while error := error.__context__:
        frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if isinstance(error, ValueError) and any(name.startswith("llama_minimal.") for name in frames):
            return error
    return None


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"could not write: {error}; what was there before is untouched; make room, or choose another folder"
    if isinstance(error, OSError) and error.errno and error.filename:  # in the system's words, with a bare number
        return f"cannot use {error.filename}: {error.strerror}; give another path, or the right to read and write there"
    return str(error)


def _is_expected(error: Exception) -> bool:
    """Whether an error says what a user can mend; other errors of torch keep their traceback."""
    from llama_minimal.training import TrainingDivergedError

    return not isinstance(error, RuntimeError) or isinstance(error, TrainingDivergedError)
