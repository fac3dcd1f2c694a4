"""Programs that nobody has read: each limit is met by a harmless program that needs more than it may have."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_minimal import running
from llama_minimal.running import MIB, bounded, run_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
CHILD = Path(running.__file__).with_name("child.py")


def test_a_program_runs_in_an_empty_folder_without_an_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    done = run_python(
        "import os, sys\nprint(os.getcwd(), os.listdir(), dict(os.environ), __name__, sys.argv)\nprint(input())",
        stdin="größer\n",
    )
    folder, rest = done.stdout.split(" ", 1)
    assert rest == "[] {} __main__ ['program.py']\ngrößer\n"
    assert (done.returncode, done.stderr, done.timed_out, done.cut) == (0, "", False, False)
    assert not Path(folder).parent.exists()


def test_an_exception_is_told_without_our_own_lines():
    done = run_python("def f():\n    return 1 / 0\nf()")
    expected = subprocess.run([sys.executable, "-c", "1 / 0"], capture_output=True, text=True, timeout=60).stderr
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == expected.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "child.py" not in done.stderr
    assert run_python("import sys; sys.exit(3)").returncode == 3
    assert run_python("return").returncode == 1
    assert run_python("'\ud800'").returncode == 1


def test_a_loop_without_end_ends():
    done = run_python("print(1, flush=True)\nwhile True: pass", timeout=0.5)
    assert (done.timed_out, done.stdout) == (True, "1\n")
    assert done.returncode < 0


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit the memory")
def test_a_big_allocation_fails():
    assert "MemoryError" in run_python("x = bytearray(1 << 30)").stderr
    assert run_python("x = bytearray(50 << 20)").returncode == 0
    assert "MemoryError" in run_python("x = bytearray(50 << 20)", memory=64 * MIB).stderr


def test_a_large_file_is_cut():
    text = "import os\nf = open('a', 'wb', buffering=0)\ntry:\n    for _ in range(9): f.write(bytes(1000))\n"
    done = run_python(text + "except OSError: print('full', os.path.getsize('a'))", max_file_size=4096)
    assert done.stdout == "full 4096\n"


def test_a_flood_of_output_is_bounded():
    done = run_python("while True: print('x' * 1000)", max_output=5000)
    assert (done.cut, len(done.stdout)) == (True, 5000)
    done = run_python("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", max_output=5000)
    assert (done.cut, len(done.stderr)) == (True, 5000)
    assert not run_python("print('x' * 4999)", max_output=5000).cut


def test_bytes_that_are_no_text_are_marked():
    assert run_python(r"import sys; sys.stdout.buffer.write(b'a\xff')").stdout == "a\ufffd"


REFUSED = [
    "import os; os.fork()",
    "import subprocess, sys; subprocess.run([sys.executable, '-V'])",
    "import os; os.system('true')",
    "import socket; socket.socket()",
    "import os; os.kill(os.getppid(), 0)",
    "open('../beside', 'w')",
    "open(PATH, 'a')",
    "import os; os.open(PATH, os.O_RDWR)",
    "import os; os.remove(PATH)",
    "import os; os.rename('mine', PATH)",
    "import os; os.rename(PATH, 'mine')",
    "import os; os.symlink(PATH, 'link')",
    "import pathlib; pathlib.Path(PATH).write_text('')",
    "import shutil; shutil.rmtree(FOLDER)",
    "import os; os.remove('file', dir_fd=os.open(FOLDER, os.O_RDONLY))",
    "import os; os.rename('mine', 'file', dst_dir_fd=os.open(FOLDER, os.O_RDONLY))",
]


@pytest.mark.parametrize("source", REFUSED)
def test_what_reaches_outside_is_refused(source, tmp_path):
    file = tmp_path / "file"
    file.write_text("whole")
    names = f"PATH, FOLDER = {str(file)!r}, {str(tmp_path)!r}\n"
    done = run_python(f"{names}open('mine', 'w').close()\n{source}")
    assert "PermissionError: a program under test may " in done.stderr
    assert file.read_text() == "whole"


def test_what_stays_inside_is_allowed():
    source = (
        "import os, pathlib, shutil, tempfile\nos.makedirs('a/b')\npathlib.Path('a/b/c').write_text('1')\n"
        "os.rename('a/b/c', 'd')\nos.mkdir('e', dir_fd=os.open('a', os.O_RDONLY))\n"
        "print(open('d').read(), file=open(os.devnull, 'w'))\nos.chmod('d', 0)\n"
        "shutil.rmtree('a')\nprint(os.listdir())"
    )
    done = run_python(source)
    assert (done.stdout, done.stderr) == ("['d']\n", "")


def test_a_listening_socket_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        done = run_python(f"import socket; socket.create_connection({address!r}, timeout=5)")
        assert done.returncode == 1
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_system_itself_keeps_the_network_away():
    """The namespace without the audit hook; where the system gives none, the hook is all there is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = (
            f"import importlib.util, socket\nspec = importlib.util.spec_from_file_location('child', {str(CHILD)!r})\n"
            "child = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(child)\n"
            f"if child.separate(): socket.create_connection({server.getsockname()!r}, timeout=5)\n"
            "else: print('none')"
        )
        done = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, text=True, timeout=60)
        if done.stdout == "none\n":
            pytest.skip("this system gives users without rights no namespaces")
        assert "OSError" in done.stderr
        assert "unreachable" in done.stderr


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform != "linux":
        return True
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state not in "ZX"  # ended, and nobody has asked how


@pytest.mark.parametrize("streams", ["", ", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"])
def test_a_process_that_a_command_leaves_behind_is_killed(streams, tmp_path):
    sleeper = f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']{streams})"
    command = [sys.executable, "-c", f"import subprocess, sys; print({sleeper}.pid, flush=True)"]
    for seconds in (2, 20, 200):  # enough for Python to start, however busy the machine is
        done = bounded(command, tmp_path, stdin="", seconds=seconds, max_output=MIB)
        if done.stdout:
            break
    assert done.timed_out == (not streams)  # one that holds the output counts as the program itself
    for _ in range(100):  # killed; the system takes a moment
        if not alive(int(done.stdout)):
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


def test_one_that_only_waits_ends_too(tmp_path):
    command = [sys.executable, "-c", "import os, time; os.close(1); os.close(2); time.sleep(60)"]
    assert bounded(command, tmp_path, stdin="", seconds=1, max_output=MIB).timed_out


def test_limits_must_be_above_zero_and_the_system_must_have_them(monkeypatch):
    for wrong in ({"timeout": 0}, {"memory": -1}, {"max_output": 0}, {"max_file_size": float("nan")}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* must be above 0"):
            run_python("1", **wrong)
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(OSError, match="nothing is run"):
        run_python("1")
