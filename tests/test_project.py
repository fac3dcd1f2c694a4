"""The project as a whole: what it promises about itself."""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement

import llama_minimal

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llama_minimal"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Imports point downwards only: a module may import those of a lower level, and its own package.
LEVELS = {
    "config": 0,
    "devices": 0,
    "products": 0,
    "packed_weights": 0,
    "large_pages": -1,
    "native": -1,
    "compiling": 0,
    "observing": 0,
    "calibration": 1,
    "locks": -1,
    "files": 0,
    "plugins": 0,
    "running": 0,
    "tokenizer": 1,
    "settings": 1,
    "prompts": 1,
    "reference": 1,
    "positions": 1,
    "normalization": 1,
    "linear": 1,
    "lora": 1,
    "feedforward": 2,
    "mixed_precision": 2,
    "kv_cache": 1,
    "loss": 2,
    "chunked_loss": 3,
    "masked_language": 3,
    "muon": 1,
    "optim": 2,
    "cost": 1.5,  # of what reference imports
    "run_folder": 1,
    "metrics": 2,
    "ngrams": 1,
    "scores": 1,
    "retrieval": 1,
    "chat": 2,
    "memorization": 1,
    "attention": 2,
    "block": 2.5,
    "sampling": 2,
    "streaming": 2,
    "data": 2,
    "model": 3,
    "vocabulary": 2,
    "inputs": 3.5,
    "quantization": 3,
    "checkpoint": 4,
    "sharing": 4,
    "offloading": 4,
    "completion": 4,
    "adaptive_computation": 4,
    "generation": 5,
    "evaluation": 3,
    "long_context": 3.5,  # of what adaptive_computation imports
    "pruning": 4,
    "beams": 5,
    "distillation": 6,
    "parallel": 5,
    "snapshot": 6,
    "training_checks": 7,
    "training": 8,
    "finetuning": 9,
    "multimodal": 9,
    "responsible_ai": 10,
    "applications": 10,
    "integrations": 10.5,
    "course": 11,
    "cli": 12,
    "__main__": 13,
}


def requirements(lines):
    return {Requirement(line).name: str(Requirement(line).specifier) for line in lines}


def all_requirements():
    extras = PYPROJECT["optional-dependencies"].values()
    return requirements(PYPROJECT["dependencies"] + [line for extra in extras for line in extra])


def test_environment_yml_agrees_with_pyproject():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = requirements(line for line in dependencies if isinstance(line, str) and line != "pip")
    conda["torch"] = conda.pop("pytorch")  # conda's name for it
    assert conda.pop("python") == PYPROJECT["requires-python"]
    assert conda == all_requirements()


def test_constraints_pin_every_requirement_within_its_range():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}
    assert pins["torch"] == "2.13.0"
    for name, specifier in all_requirements().items():
        pin = pins[re.sub(r"[-_.]+", "-", name).lower()]
        assert Requirement(f"{name}{specifier}").specifier.contains(pin), name


def test_the_version_is_written_once():
    assert PYPROJECT["version"] == llama_minimal.__version__


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "llama_minimal":
                yield from (home_of(alias.name) for alias in node.names)


def home_of(name):
    """Return the module that a name of the package comes from, or that it is."""
    found = getattr(llama_minimal, name, None)
    return getattr(found, "__module__", f"llama_minimal.{name}")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name == "__init__":
        return
    for module in imported_modules(ast.parse(path.read_text())):
        parts = module.split(".")
        if parts[0] == "llama_minimal" and len(parts) > 1 and parts[1] != name:
            assert LEVELS[parts[1]] < LEVELS[name], f"{name} imports {parts[1]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_a_few_modules_know_of_other_processes(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name not in {"parallel", "snapshot", "optim", "training"}:
        assert not any(m.startswith("torch.distributed") for m in imported_modules(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_fit_a_reader(path):
    tree = ast.parse(path.read_text())
    # A list of names, one a line, is looked up and not read.
    lists = sum(node.end_lineno - node.lineno for node in tree.body if ast.unparse(node).startswith("__all__ ="))
    assert len(path.read_text().splitlines()) - lists <= 250
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            code = node.end_lineno - node.lineno + 1
            docstring = ast.get_docstring(node, clean=False)
            code -= len(docstring.splitlines()) if docstring else 0
            assert code <= 40, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_are_documented_and_typed(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "module"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert node.returns is not None, node.name
            assert all(argument.annotation for argument in arguments), node.name


@pytest.mark.parametrize(
    "module", ["llama_minimal", "llama_minimal.reference", "llama_minimal.data", "llama_minimal.cli"]
)
def test_importing_does_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


def test_importing_touches_no_global_state():
    """No random numbers drawn, no default changed, nothing printed."""
    code = (
        "import torch, importlib\n"
        "before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()\n"
        "import llama_minimal\n"
        "for name in llama_minimal.__all__: getattr(llama_minimal, name)\n"
        "after = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()\n"
        "assert torch.equal(before[0], after[0]) and before[1:] == after[1:]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_is_there():
    for name in llama_minimal.__all__:
        assert getattr(llama_minimal, name).__doc__ or name.isupper(), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = llama_minimal.nonsense


def test_no_public_name_is_that_of_a_module():
    """Python gives an imported module to its package as an attribute, and would put it in the place of the function."""
    modules = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}
    assert not modules & set(llama_minimal.__all__)


MODULES = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "llama_minimal.") if "__main__" not in m.name]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    names = {key: getattr(llama_minimal, key) for key in llama_minimal.__all__}
    with torch.random.fork_rng():
        result = doctest.testmod(
            importlib.import_module(name), extraglobs=names | {"torch": torch, "np": importlib.import_module("numpy")}
        )
    assert result.failed == 0


def test_no_file_names_a_place_on_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"/(home|Users|root|work|tmp)/\w+/")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".ipynb", ".txt", ""} and path.name != "test_project.py":
            assert not pattern.search(path.read_text(encoding="utf-8", errors="replace")), name


def test_the_readme_names_only_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert named
    assert named <= targets
