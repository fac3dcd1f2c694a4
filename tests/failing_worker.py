"""The command line, and something that happens in a step; started by tests/test_parallel_cli.py.

    torchrun --nproc-per-node N failing_worker.py FOLDER WHAT RANK STEP ARGUMENTS…

The process of that rank does it when it begins that step, unless torchrun has started the processes once more.
In FOLDER each process notes the status it ends with, and one that fails when that was.
"""

import os
import signal
import sys
import time
from pathlib import Path

from llama_minimal.cli import main
from llama_minimal.training import Trainer

FOLDER, WHAT, RANK, STEP, *ARGUMENTS = sys.argv[1:]
mine, attempt, torchrun = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], os.getppid()
train_step = Trainer.train_step


def happen(trainer):
    (Path(FOLDER) / "happened").write_text(str(time.time()))
    if WHAT.startswith("raise"):
        raise RuntimeError("broken on purpose")
    if WHAT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if WHAT == "interrupt":
        os.killpg(os.getpgid(torchrun), signal.SIGINT)
    if WHAT == "terminate":
        os.kill(torchrun, signal.SIGTERM)
    while not trainer.stop_requested:  # until torchrun has passed it on
        time.sleep(0.01)


def step(trainer):
    if (mine, attempt, trainer.step + 1) == (RANK, "0", int(STEP)):
        happen(trainer)
    elif trainer.step + 1 == int(STEP) and WHAT.endswith("a deaf one"):
        while True:  # as in a collective operation: what a signal asks for is not looked at
            time.sleep(1)
    return train_step(trainer)


Trainer.train_step = step
status = 0
try:
    main(ARGUMENTS)
except SystemExit as ending:
    status = ending.code
    raise
finally:
    (Path(FOLDER) / f"status-{attempt}-{mine}").write_text(str(status))
