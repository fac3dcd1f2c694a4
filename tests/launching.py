"""Start torchrun for a test, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

TESTS = Path(__file__).parent
LIMIT = 300  # seconds


@contextmanager
def torchrun(*command, n=2, restarts=0):
    """Start n processes, in sessions of their own as torchrun does it; yield torchrun and a way to list all of them."""
    tag = f"LLAMA_MINIMAL_TEST={uuid.uuid4().hex}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= dict([tag.split("=")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    process = subprocess.Popen(
        [*launcher, f"--max-restarts={restarts}", *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process, lambda: tagged(tag)
    finally:
        while left := tagged(tag):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        process.communicate()


def tagged(tag):
    """Return the processes that have a variable in their environment, and are no zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if tag.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def run(*command, timeout=LIMIT, stdin=None, **options):
    """Run torchrun to its end; return its status, standard output and error, and the processes that it left behind."""
    with torchrun(*command, **options) as (process, left):
        stdout, stderr = process.communicate(stdin, timeout=timeout)
        return process.returncode, stdout, stderr, left()
