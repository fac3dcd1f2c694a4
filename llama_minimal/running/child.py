"""What runs a program that nobody has read: ``python -I -S child.py PROGRAM LIMITS``, in the folder that it may fill.

A script of its own that imports nothing but the standard library: it starts in milliseconds, and the program finds
nothing of ours in memory. ``llama_minimal.running`` starts it and says what it protects from.
"""

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# <linux/sched.h> and <linux/prctl.h>
_NEW_USER, _NEW_NETWORK, _NEW_PIDS, _NEW_IPC = 0x10000000, 0x40000000, 0x20000000, 0x08000000
_PARENT_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38
# Python's audit events, https://docs.python.org/3/library/audit_events.html
_REFUSED = ("socket.", "subprocess.", "pty.", "ctypes.dlopen", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")
_REFUSED += ("os.system", "os.startfile", "os.kill", "os.link", "os.symlink", "signal.pthread_kill")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.truncate", "shutil.rmtree"}
_CHANGES_IN = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.chown",
    "os.utime",
}  # dir_fd comes last


def separate() -> bool:
    """Give this process a network without any neighbor and its future children a process table of their own.

    Returns:
        Whether the system does that for a user without rights; Linux often does.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    libc = ctypes.CDLL(None)
    return libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_PIDS | _NEW_IPC) == 0


def die_with_parent() -> None:
    """End this process when its parent ends, and let no program that it starts have more rights than it has."""
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def limit(*, seconds: int, memory: int, file_size: int) -> None:
    """Set the system's limits for this process, as low as asked or lower."""
    wanted = {
        resource.RLIMIT_CPU: seconds,  # soft and hard alike: the end comes by SIGKILL, which nobody can ignore
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,  # for everybody but root, who is above it
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":  # macOS knows the name and not the limit
        wanted[resource.RLIMIT_AS] = memory
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def watch(folder: Path) -> None:
    """Refuse, from now on, what Python reports before doing it: sockets, processes, changes outside the folder."""
    root = os.path.realpath(folder)

    def inside(path: object, folder: int = -1) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a file that is open already
        base = Path() if folder == -1 else Path(f"/proc/self/fd/{folder}").readlink()
        real = os.path.realpath(base / os.fsdecode(path))
        return real == os.devnull or real.startswith(root + os.sep)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"a program under test may not use {event}")
        if event == "open":
            fine = not arguments[2] & _WRITES or inside(arguments[0])
        elif event == "os.rename":
            fine = inside(arguments[0], arguments[2]) and inside(arguments[1], arguments[3])
        elif event in _CHANGES_IN:
            fine = inside(arguments[0], arguments[-1])
        else:
            fine = event not in _CHANGES or inside(arguments[0])
        if not fine:
            raise PermissionError(f"a program under test may change its own folder only: {event} {arguments[0]!r}")

    sys.addaudithook(hook)


def wait_for(child: int, seconds: int) -> int:
    """Wait for a process and end as it ended: by its exit code or its signal, SIGXCPU if it used up its time."""
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL and usage.ru_utime + usage.ru_stime > seconds - 0.1:
        code = -signal.SIGXCPU
    if code < 0:
        with suppress(OSError, ValueError):  # SIGKILL needs no default, and has none
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def run(program: str) -> None:
    """Execute a file as Python executes its main program."""
    source = Path(program).read_bytes()
    name = Path(program).name
    os.environ.clear()  # Python itself adds the language that it chose
    sys.argv = [name]
    watch(Path.cwd())
    try:
        exec(compile(source, name, "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    except Exception as error:
        error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)  # without the line above
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


def main(program: str, limits: str) -> None:
    """Run a program under limits in a process of its own, and end as it ends."""
    wanted = json.loads(limits)
    die_with_parent()
    separate()
    child = os.fork()  # the first process of its table: when it ends, the system ends all others there
    if child:
        os._exit(wait_for(child, wanted["seconds"]))
    die_with_parent()
    limit(**wanted)
    run(program)


if __name__ == "__main__":
    main(*sys.argv[1:])
