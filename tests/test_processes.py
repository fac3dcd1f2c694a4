"""A function in real processes: what they print and return, how they fail, and that none is left."""

import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import torch

from llama_minimal.course.processes import process_script, run_processes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo is tested on Linux and macOS")


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    """Everything temporary lies in a folder of the test, which must be empty in the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.glob("tmp*")) == []


def is_alive(pid):
    """Whether a process runs; one that has ended, and that nobody has asked for yet, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def all_gone(pids):
    """Whether they end within a minute; a killed process takes a moment."""
    end = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


def double(x):
    return 2 * x


def exchange(rank, size, *, start, scale):
    time = __import__("time")
    time.sleep(0.3 * (size - rank))  # the last speaks first
    print(f"I am {rank} of {size}")
    print("two lines")
    total = torch.tensor([start + rank])
    dist.all_reduce(total)  # noqa: F821
    return {"sum": double(total), "scaled": [scale * rank, ("a", None, rank)]}


def test_what_ranks_print_is_sorted_and_what_they_return_comes_back(capsys):
    found = run_processes(exchange, 3, start=5, scale=np.ones((2, 2)), uses=[double])
    printed = capsys.readouterr().out
    assert printed == "".join(f"rank {rank}: I am {rank} of 3\nrank {rank}: two lines\n" for rank in range(3))
    assert [one["sum"].tolist() for one in found] == [[36]] * 3  # 2 · (5 + 6 + 7)
    for rank, one in enumerate(found):
        np.testing.assert_array_equal(one["scaled"][0], np.full((2, 2), rank))
        assert one["scaled"][1] == ("a", None, rank)


def fail_on_one(rank, size):
    if rank == 1:
        raise KeyError("the spoon")
    dist.barrier()  # noqa: F821


def test_the_rank_that_failed_first_is_named_with_its_last_lines():
    with pytest.raises(RuntimeError, match=r"rank 1 failed(.|\n)*KeyError: 'the spoon'"):
        run_processes(fail_on_one, 2)


def be_killed_once(rank, size, *, folder):
    here = os.path.join(folder, "was-here")  # noqa: PTH118
    if rank == 1 and not os.path.exists(here):  # noqa: PTH110
        open(here, "w").close()  # noqa: PTH123
        os.kill(os.getpid(), 9)
    print("done")


def test_a_killed_rank_is_named_or_all_start_again(tmp_path, capsys):
    with pytest.raises(RuntimeError, match=r"rank 1 was killed \(signal 9\)"):
        run_processes(be_killed_once, 2, folder=str(tmp_path))
    (tmp_path / "was-here").unlink()
    capsys.readouterr()
    run_processes(be_killed_once, 2, folder=str(tmp_path), max_restarts=1)
    assert "start 2, rank 0: done\nstart 2, rank 1: done\n" in capsys.readouterr().out


def refuse_to_end(rank, size, *, folder):
    import signal
    import subprocess
    import time

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    print("here")
    with open(f"{folder}/{rank}.txt", "w") as file:  # noqa: PTH123
        file.write(f"{os.getpid()} {child.pid}")
    time.sleep(600)


@pytest.mark.parametrize("how", ["the time limit", "the stop button"])
def test_nothing_is_left_of_processes_that_refuse_to_end(how, tmp_path, monkeypatch, capsys):
    """When both have begun, time is up, or the notebook's stop button interrupts the cell."""
    communicate = subprocess.Popen.communicate

    def interrupted(self, *args, **kwargs):
        if kwargs.get("timeout") != 600:
            return communicate(self, *args, **kwargs)
        while len(list(tmp_path.glob("*.txt"))) < 2 and self.poll() is None:
            time.sleep(0.05)
        raise subprocess.TimeoutExpired("torchrun", 600) if how == "the time limit" else KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises((TimeoutError, KeyboardInterrupt), match=r"2 processes had not ended after 600 seconds|^$"):
        run_processes(refuse_to_end, 2, timeout=600, folder=str(tmp_path))
    pids = [int(word) for path in tmp_path.glob("*.txt") for word in path.read_text().split()]
    assert len(pids) == 4  # two ranks, and a child of each
    assert all_gone(pids)
    if how == "the time limit":
        assert capsys.readouterr().out == "rank 0: here\nrank 1: here\n"


def test_a_time_limit_that_ends_before_they_have_begun():
    with pytest.raises(TimeoutError, match=r"3 processes had not ended after 0\.2 seconds"):
        run_processes(exchange, 3, timeout=0.2, start=0, scale=1)


def test_a_worker_is_a_function_with_a_name_and_a_source():
    with pytest.raises(ValueError, match=r"write it with def"):
        process_script(lambda rank, size: 0)
    with pytest.raises(ValueError, match="source of a function"):
        process_script(print)


def test_the_script_is_one_that_a_reader_could_save_and_run(tmp_path):
    text = process_script(exchange, uses=[double])
    compile(text, "worker.py", "exec")
    assert text.index("def double") < text.index("def exchange") < text.index("init_process_group")
