"""Real processes from a notebook: a function runs in n of them under torchrun, with a time limit, and none is left.

A notebook's kernel does not show what a process of its own prints; so it is caught, sorted by rank, and printed here.
"""

import contextlib
import inspect
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llama_minimal.config.checks import check_integer, check_number

__all__ = ["process_script", "run_processes"]

GRACE = 45.0  # seconds; torchrun itself kills what has not ended 30 s after it was told to
LINES = 6  # of a failing rank's error
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",  # what a killed process has printed is not lost
    # Else (torch 2.13) processes that are started again find addresses of those that have gone: pytorch issue 135712.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}

SCRIPT = """\
import gc, os, pickle, sys, time, traceback
from datetime import timedelta
from pathlib import Path

rank, size, folder = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Path(sys.argv[1])
(folder / f"pid-{{rank}}").write_text(str(os.getpid()))

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

{functions}

dist.init_process_group("gloo", timeout=timedelta(seconds={timeout}))
try:
    result = {name}(rank, size, **pickle.loads((folder / "arguments").read_bytes()))
    (folder / f"result-{{rank}}").write_bytes(pickle.dumps(result))
    dist.barrier()  # nobody leaves early, and takes the connections of the others along
except BaseException:
    when = f"{{int(os.environ['TORCHELASTIC_RESTART_COUNT']):03d}}-{{time.monotonic_ns():020d}}"
    (folder / f"error-{{when}}-{{rank}}").write_text(traceback.format_exc())
    raise
gc.collect()  # what still holds the group (DDP in a reference cycle) would abort at the very end
dist.destroy_process_group()
"""


def run_processes(
    worker: Callable[..., Any],
    n: int = 2,
    *,
    timeout: float = 300,
    max_restarts: int = 0,
    uses: Iterable[Callable[..., Any]] = (),
    **arguments: Any,
) -> list[Any]:
    """Run ``worker(rank, size, **arguments)`` in n processes that torchrun starts; print what they print, by rank.

    The processes get the *source* of the function and nothing else of the notebook: what it needs it must import, or
    name in ``uses``. ``os``, ``np``, ``torch``, ``nn`` and ``torch.distributed`` as ``dist`` are there, and the
    processes know each other (gloo). ``process_script`` shows the file that they run.

    Args:
        worker: a function written in a cell or in a file.
        n: processes, P.
        timeout: in seconds; processes that have not ended by then are killed.
        max_restarts: how often torchrun starts all processes again after one has failed.
        uses: other functions that the worker calls.
        arguments: numbers, text, arrays, tensors, and lists and dictionaries of them.

    Returns:
        What each rank returned, rank 0 first; of the same kinds as the arguments.

    Raises:
        RuntimeError: if a rank fails; with its rank and its last lines.
        TimeoutError: if they take longer.
        ValueError: if there is to be no process, or the function has no source.
    """
    check_integer("n", n)
    check_integer("max_restarts", max_restarts, at_least=0)
    check_number("timeout", timeout)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "worker.py").write_text(process_script(worker, uses=uses, timeout=timeout), encoding="utf-8")
        (folder / "arguments").write_bytes(pickle.dumps(arguments))
        code, errors = _launch(folder, n, timeout, max_restarts)
        if code:
            raise RuntimeError(_first_error(folder, errors))
        return [_result(folder / f"result-{rank}") for rank in range(n)]


def process_script(worker: Callable[..., Any], *, uses: Iterable[Callable[..., Any]] = (), timeout: float = 300) -> str:
    """Return the script that each process runs."""
    try:
        functions = [textwrap.dedent(inspect.getsource(one)).rstrip() for one in (*uses, worker)]
    except (OSError, TypeError) as error:
        raise ValueError("a process gets the source of a function; write it with def in a cell or a file") from error
    if worker.__name__ == "<lambda>":
        raise ValueError("a process needs a function with a name; write it with def")
    return SCRIPT.format(functions="\n\n\n".join(functions), name=worker.__name__, timeout=timeout)


def _launch(folder: Path, n: int, timeout: float, max_restarts: int) -> tuple[int, str]:
    """Start torchrun, wait, print by rank; whatever happens, no process is left."""
    flags = ["--standalone", f"--nproc-per-node={n}", f"--max-restarts={max_restarts}"]
    flags += ["--redirects=3", f"--log-dir={folder / 'logs'}"]
    agent = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *flags, str(folder / "worker.py"), str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
        start_new_session=True,
    )
    try:
        _, errors = agent.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(agent, folder)
        _print_by_rank(folder)
        raise TimeoutError(f"{n} processes had not ended after {timeout:g} seconds, and were killed") from None
    finally:
        _end(agent, folder)
    _print_by_rank(folder)
    return agent.returncode, errors


def _end(agent: subprocess.Popen, folder: Path) -> None:
    """Kill torchrun and its processes, if it still runs; each of them leads a session, so no one signal meets all."""
    if agent.poll() is not None:
        return
    agent.terminate()  # it starts no others then
    for path in folder.glob("pid-*"):
        _kill_group(path.read_text())
    try:
        agent.communicate(timeout=GRACE)
    except subprocess.TimeoutExpired:
        _kill_group(agent.pid)
        agent.communicate()


def _kill_group(leader: int | str) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):  # gone, or about to write its number
        os.killpg(int(leader), signal.SIGKILL)


def _print_by_rank(folder: Path) -> None:
    starts = sorted(folder.glob("logs/*/attempt_*"), key=_number)
    for start in starts:
        for rank in sorted(start.iterdir(), key=_number):
            which = f"start {_number(start) + 1}, " if len(starts) > 1 else ""
            for line in (rank / "stdout.log").read_text(encoding="utf-8", errors="replace").splitlines():
                print(f"{which}rank {rank.name}: {line}".rstrip())


def _number(path: Path) -> int:
    found = re.search(r"\d+$", path.name)
    return int(found[0]) if found else -1


def _first_error(folder: Path, errors: str) -> str:
    """Say which rank failed first in the last start, and how: the others then complain that it has gone."""
    failures = re.findall(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", errors)  # as torchrun found them
    if not failures:
        return "torchrun failed:\n" + _last_lines(errors)
    code, rank = failures[-1]
    last = max(folder.glob("logs/*/attempt_*"), key=_number)
    found = sorted(folder.glob(f"error-{_number(last):03d}-*"))
    if int(code) < 0 or not found:
        how = f"was killed (signal {-int(code)})" if int(code) < 0 else "failed"
        text = (last / rank / "stderr.log").read_text(encoding="utf-8", errors="replace")
        return f"rank {rank} {how}\n{_last_lines(text)}".strip()
    return f"rank {found[0].name.rsplit('-', 1)[1]} failed\n{_last_lines(found[0].read_text())}"


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LINES:])


def _result(path: Path) -> Any:
    try:
        return pickle.loads(path.read_bytes())
    except (AttributeError, ImportError) as error:
        raise ValueError("a rank returned what only it knows; return numbers, text, lists, arrays, tensors") from error
