"""The recipes for several machines, run as they stand: two agents of torchrun, two processes each, on this machine.

A cluster is played by its variables and by two commands of its own, ``srun`` and ``scontrol``.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from launching import tagged

from llama_minimal.cli import main
from llama_minimal.metrics import read_metrics
from llama_minimal.training import Trainer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are listed by /proc")

RECIPES = Path(__file__).parents[1] / "recipes"
LIMIT = 240  # seconds
STEPS = "4"
FLAGS = (
    "--corpus python-docs --vocab-size 300 --dim 32 --n-layers 2 --n-heads 4 --n-kv-heads 2 --seq-len 32 "
    "--batch-size 8 --warmup-steps 2 --validate-every 4 --snapshot-every 2 --samples 1 --device cpu --steps"
).split()
SRUN = """#!/usr/bin/env bash
# starts a command once for each machine, and fails if one of them does
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node SLURM_PROCID=$node "$@" & jobs[$node]=$!; done
status=0; for job in "${jobs[@]}"; do wait "$job" || status=$?; done; exit $status
"""
SCONTROL = """#!/usr/bin/env bash
# more names than a pipe holds, so that whoever reads only the first of them is found out
[ "$*" = "show hostnames node-[0-1]" ] && echo localhost && seq -f node-%.0f 1 20000
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@contextmanager
def environment(folder, **variables):
    """Yield an environment in which ``torchrun`` is this Python's; end whatever was started in it."""
    tag = uuid.uuid4().hex
    tools = {
        "torchrun": f'#!/usr/bin/env bash\nexec {sys.executable} -m torch.distributed.run --local-addr localhost "$@"\n'
    }
    for name, text in (tools | {"srun": SRUN, "scontrol": SCONTROL}).items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    own = {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "LLAMA_MINIMAL_TEST": tag}
    try:
        yield os.environ | own | {"PORT": str(free_port())} | variables
    finally:
        while left := tagged(f"LLAMA_MINIMAL_TEST={tag}"):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def start(name, *arguments, environment):
    command = ["bash", str(RECIPES / name), *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process."""
    folder = tmp_path_factory.mktemp("one")
    main(["train", "--out", str(folder), *FLAGS, STEPS])
    return [m["loss"] for m in read_metrics(folder / "metrics.jsonl")]


def losses(folder):
    return [m["loss"] for m in read_metrics(folder / "metrics.jsonl")]


def stop_after_two(train_step):
    def step(trainer):
        trainer.stop_requested |= trainer.step >= 1  # as when Slurm says that the time is over
        return train_step(trainer)

    return step


def test_two_agents_by_hand_train_as_one_process_does(tmp_path, alone):
    out = tmp_path / "run"
    with environment(tmp_path, HEAD="localhost", NODES="2", PROCESSES="2") as variables:
        agents = [start("torchrun.sh", "--out", out, *FLAGS, STEPS, environment=variables) for _ in range(2)]
        said = [agent.communicate(timeout=LIMIT) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    together = "".join(stdout for stdout, _ in said)
    assert together.count("on cpu, 4 process(es)") == 1
    np.testing.assert_allclose(losses(out), alone, rtol=1e-5)


def test_a_job_of_a_cluster_trains_as_one_process_does_from_where_it_was_stopped(tmp_path, alone, monkeypatch):
    out = tmp_path / "run"
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_NODELIST": "node-[0-1]"}
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "train_step", stop_after_two(Trainer.train_step))
        main(["train", "--out", str(out), *FLAGS, STEPS])
    assert losses(out) == alone[:2]
    with environment(tmp_path, **job) as variables:
        again = start("slurm.sbatch", "--out", out, *FLAGS, STEPS, environment=variables)
        stdout, stderr = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, stderr
    assert "resumed at step" in stdout
    np.testing.assert_allclose(losses(out), alone, rtol=1e-5)


def test_what_is_missing_is_said(tmp_path):
    with environment(tmp_path) as variables:
        for name, arguments, message in (
            ("torchrun.sh", (), "HEAD=node-0"),
            ("slurm.sbatch", (), "give the flags of llama-minimal train"),
            ("slurm.sbatch", ("--corpus", "valley"), "give --out FOLDER first"),
        ):
            script = start(name, *arguments, environment=variables)
            assert message in script.communicate(timeout=LIMIT)[1]
            assert script.returncode


def test_a_job_asks_for_one_task_on_each_machine_and_for_time_to_save():
    text = (RECIPES / "slurm.sbatch").read_text(encoding="utf-8")
    asked = dict(line.split("=") for line in re.findall(r"^#SBATCH --(\S+=\S+)", text, flags=re.MULTILINE))
    assert asked["ntasks-per-node"] == "1"
    assert asked["signal"] == "TERM@180"
    assert text.index("#SBATCH") < text.index("set -euo")  # Slurm reads no further than the first command
