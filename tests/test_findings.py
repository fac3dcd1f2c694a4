"""The form of ``findings/``: each script runs alone, pins what it installs, cleans up, and stands in the table."""

import os
import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
PINNED = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*==\d[\w.]*")

each_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


def read(path):
    return path.read_text(encoding="utf-8")


def header(text):
    """Return the comment between the first line and the first command."""
    return re.match(r"#!/usr/bin/env bash\n((?:#.*\n)+)", text)[1]


def installed(text):
    """Return what pip is told to install, without pip's own options."""
    commands = [line for line in text.replace("\\\n", " ").splitlines() if "pip install" in line]
    return [word for line in commands for word in shlex.split(line.split("pip install")[1]) if word[0] != "-"]


def program(text):
    """Return the Python program that the script writes and runs."""
    return re.search(r"<<'PY'\n(.*?)\nPY\n", text, flags=re.DOTALL)[1]


@each_script
def test_each_script_is_executable_bash(path):
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], timeout=60).returncode == 0


@each_script
def test_the_header_says_what_was_seen_and_what_was_expected(path):
    fields = re.findall(r"^# (Versions|Behavior|Seen|Expected)\b", header(read(path)), flags=re.MULTILINE)
    assert fields == ["Versions", "Behavior", "Seen", "Expected"]


@each_script
def test_every_package_is_pinned_and_named_in_the_header(path):
    text = read(path)
    packages = installed(text)
    assert packages
    versions = re.search(r"# Versions: (.*?)\n# Behavior", header(text), flags=re.DOTALL)[1]
    for package in packages:
        assert PINNED.fullmatch(package), package
    named = re.findall(r"[\w-]+ \d[\w.]*", versions.split("(Python")[0])
    assert named
    assert set(named) <= {package.replace("==", " ") for package in packages}


@each_script
def test_each_script_cleans_up_and_has_a_time_limit(path):
    text = read(path)
    assert "set -euo pipefail\nunset PYTHONPATH\nwork=$(mktemp -d)\ntrap 'rm -rf \"$work\"' EXIT\n" in text
    assert re.search(r"^timeout \d+ venv/bin/python see\.py", text, flags=re.MULTILINE)


@each_script
def test_the_program_stands_without_this_package_and_fails_on_a_change(path):
    source = program(read(path))
    compile(source, path.name, "exec")
    assert "llama_minimal" not in read(path)
    assert re.search(r"^ *sys\.exit\(\"changed: ", textwrap.dedent(source), flags=re.MULTILINE)


def test_the_table_names_every_script_with_its_versions():
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.sh\) \| ([^|]+) \| ([^|]+) \| ([^|]*) \|$", README, flags=re.MULTILINE)
    assert sorted(name for name, *_ in rows) == [path.stem for path in SCRIPTS]
    for name, link, versions, surprise, _ in rows:
        assert name == link
        assert surprise.strip()
        packages = {package.replace("==", " ") for package in installed(read(FOLDER / f"{name}.sh"))}
        assert set(re.findall(r"[\w-]+ \d[\w.]*", versions)) <= packages


def test_the_files_that_the_table_names_exist():
    package = FOLDER.parent / "llama_minimal"
    named = re.findall(r"\(`([\w/]+\.py)`\)", README)
    assert named
    for name in named:
        assert (package / name).exists(), name
