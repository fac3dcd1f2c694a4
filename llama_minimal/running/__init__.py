"""Run Python that nobody has read, such as what a model wrote: in a process of its own, under limits."""

import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import IO

MIB = 1 << 20
_CHILD = Path(__file__).with_name("child.py")
_CHUNK = 1 << 14  # bytes read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a program ended, and what it wrote."""

    returncode: int
    """0 if all went well; 1 after an exception; −n if signal n ended it."""
    stdout: str
    stderr: str
    timed_out: bool = False
    """It was ended because its time was up."""
    cut: bool = False
    """It was ended because it had written too much; stdout and stderr hold the beginning."""


def run_python(
    source: str,
    *,
    timeout: float = 2.0,
    memory: int = 256 * MIB,
    max_file_size: int = MIB,
    max_output: int = MIB // 16,
    stdin: str = "",
) -> Run:
    """Run a Python program in a process of its own, in an empty folder that is removed afterwards.

    The program has the standard library, no environment variables, no installed packages, and these limits, kept by
    the operating system: computing time, memory of a process, size of a file, 32 open files, no core dump, and no
    further process or thread (for everybody but root). When it ends, or its time is up, its whole process group is
    killed. On Linux, where the system lets a user without rights have namespaces, it has no network at all, and what
    it started ends with it in any case. Everywhere, an audit hook inside the program's own Python refuses sockets,
    processes, and changes to files outside its folder.

    **What this protects from**: mistakes. A loop without end, a list that eats the memory, a flood of output, a file
    written or deleted in the wrong place, a request to some server. **What it does not protect from**: a program that
    means harm. An audit hook runs inside the program that it watches; Python's documentation of ``sys.addaudithook``
    calls it unsuitable for a sandbox. The program reads every file that you can read. It may write many files of the
    allowed size. The operating system's kernel is the same as yours. Whoever runs programs of strangers needs a
    virtual machine, or a container with its own user.

    On macOS the memory is not limited, and there are no namespaces. Windows has none of these limits; there, nothing
    is run.

    Args:
        source: the program.
        timeout: seconds of computing, rounded up to a whole number. On the clock it may take five times as long and
            half a minute more: on a busy machine it waits, which is not its fault.
        memory: bytes that the process may address, Python's own 20 MB included.
        max_file_size: bytes of a file that it writes.
        max_output: bytes of its standard output, and of its standard error, that are read before it is ended.
        stdin: what it reads from its standard input.

    Raises:
        ValueError: if a limit is not above 0.
        OSError: if the system has no such limits.

    Sources: Python's documentation of ``resource`` and ``sys.addaudithook``; Linux manual pages unshare(2) and
    pid_namespaces(7).
    """
    limits = {"timeout": timeout, "memory": memory, "max_file_size": max_file_size, "max_output": max_output}
    for name, value in limits.items():
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
    if importlib.util.find_spec("resource") is None:
        raise OSError("this system cannot limit what a program uses, so nothing is run; use Linux or macOS")
    seconds = ceil(timeout)
    asked = json.dumps({"seconds": seconds, "memory": memory, "file_size": max_file_size})
    with tempfile.TemporaryDirectory(prefix="llama-minimal-", ignore_cleanup_errors=True) as folder:
        program, work = Path(folder, "program.py"), Path(folder, "work")
        program.write_bytes(source.encode(errors="surrogatepass"))
        work.mkdir()
        # -I: no variables, no user's packages; -S: no installed packages; -B: writes no bytecode.
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_CHILD), str(program), asked]
        return bounded(command, work, stdin=stdin, seconds=5 * seconds + 30, max_output=max_output)


def bounded(command: list[str], folder: Path, *, stdin: str, seconds: float, max_output: int) -> Run:
    """Run a command in a new process group with an empty environment, read what it writes, and kill the group.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        seconds: on the clock, until it is ended.
        max_output: bytes of stdout, and of stderr, until it is ended.
    """
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryFile() as given:  # a file, not a pipe: nobody waits for a program that does not read
        given.write(stdin.encode(errors="surrogatepass"))
        given.seek(0)
        process = subprocess.Popen(
            command, cwd=folder, env={}, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
        )
    try:
        written = _read(process, deadline, max_output)
        cut = any(len(text) > max_output for text in written)
        late = not cut and not _ended(process, deadline)
    finally:
        with suppress(ProcessLookupError, PermissionError):  # macOS: a group whose last process is ending
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            stream.close()
    out, err = (text[:max_output].decode(errors="replace") for text in written)
    timed_out = late or process.returncode == -signal.SIGXCPU
    return Run(returncode=process.returncode, stdout=out, stderr=err, timed_out=timed_out, cut=cut)


def _read(process: subprocess.Popen, deadline: float, most: int) -> list[bytearray]:
    """Return what stdout and stderr give until both end, one has more than ``most`` bytes, or the time is up."""
    written: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in written:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and (rest := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(rest):
                chunk = os.read(key.fd, _CHUNK)
                written[key.fileobj] += chunk
                if not chunk:
                    selector.unregister(key.fileobj)
            if any(len(text) > most for text in written.values()):
                break
    return list(written.values())


def _ended(process: subprocess.Popen, deadline: float) -> bool:
    """Wait for a process that has closed its output; one whose output outlives it has not ended in time either."""
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return time.monotonic() < deadline
