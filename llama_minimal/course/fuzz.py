"""Try the checks with wrong answers: ``python -m llama_minimal.course.fuzz [NAME ...] [--count 1000]``

Mutants of each worked solution run in a process of their own, with limits on time and memory. No check may fail, and
none may let a mutant pass whose answer differs. The table says how many got a diagnosis of their own.
"""

import argparse
import ast
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from llama_minimal.course.exercises import CHAPTERS, exercises
from llama_minimal.course.fuzz_worker import Outcome, Task, Worker
from llama_minimal.course.mutants import Mutant, mutants

NOTEBOOKS = Path(__file__).parents[2] / "chapters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A worked solution: a function or an expression, and the imports that it needs."""

    imports: str
    source: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of the mutants of one exercise."""

    name: str
    counts: Counter = field(default_factory=Counter)  # kind of outcome -> how many
    examples: dict[str, list[tuple[Mutant, Outcome]]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Return how many of the mutants that gave a wrong answer got a specific diagnosis."""
        told = self.counts["mistake"] + self.counts["predicate"]
        return told / max(1, told + self.counts["located"] + self.counts["difference"])


def solutions(folder: Path = NOTEBOOKS) -> dict[str, Solution]:
    """Return the worked solution of every exercise, from the notebooks that check it.

    Raises:
        FileNotFoundError: if the notebooks are not there; an installed package is without them.
    """
    paths = [*sorted(folder.glob("[0-9]*.ipynb")), *sorted((folder / "solutions").glob("*.ipynb"))]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no chapters; run this in a checkout of the repository")
    found: dict[str, Solution] = {}
    for path in paths:
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        body = [statement for cell in cells for statement in _statements("".join(cell["source"]))]
        found |= _checked(body)
    return found


def fuzz(names: Iterable[str], count: int, seed: int = 0) -> list[Report]:
    """Try mutants of each exercise's solution, and return what became of them."""
    known = solutions()
    reports = []
    with Worker() as worker:
        for name in names:
            report = Report(name=name)
            for mutant in mutants(known[name].source, count, seed):
                task = Task(name=name, imports=known[name].imports, source=mutant.source)
                outcome = worker.judge(task)
                report.counts[outcome.kind] += 1
                report.examples.setdefault(outcome.kind, []).append((mutant, outcome))
            reports.append(report)
            if sys.stderr.isatty():
                print(f"\r{len(reports)} exercises", end="", file=sys.stderr)
    return reports


COLUMNS = {  # kind of outcome -> heading
    "crash": "crashed",
    "passed": "let through",
    "elsewhere": "differs elsewhere",
    "equal": "equal",
    "slow": "too slow",
    "raised": "raised",
    "mistake": "known mistake",
    "predicate": "predicate",
    "located": "argument only",
    "difference": "difference only",
}


def table(reports: list[Report]) -> str:
    """Write the counts of all exercises, and their sum."""
    lines = [f"{'exercise':38} {'mutants':>8} " + " ".join(f"{head:>17}" for head in COLUMNS.values()) + "    told"]
    for report in [*reports, total(reports)]:
        numbers = " ".join(f"{report.counts[kind]:17,}" for kind in COLUMNS)
        lines.append(f"{report.name:38} {report.counts.total():8,} {numbers} {report.share:7.0%}")
    return "\n".join(lines)


def total(reports: list[Report]) -> Report:
    """Add up what became of the mutants of all exercises."""
    return Report(name="all", counts=sum((report.counts for report in reports), Counter()))


def examples(reports: list[Report], kinds: Iterable[str], most: int) -> str:
    """Write some mutants of the given kinds of outcome, with what the check said."""
    lines = []
    for report in reports:
        for kind in kinds:
            for mutant, outcome in report.examples.get(kind, [])[:most]:
                lines.append(f"{report.name} ({COLUMNS[kind]}): {mutant.change}\n    {outcome.text}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Fuzz the checks; return 1 if one of them failed or let a wrong answer pass."""
    parser = argparse.ArgumentParser(prog="python -m llama_minimal.course.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="exercises or chapters; all by default")
    parser.add_argument("--count", type=int, default=1000, help="mutants of each exercise, at most (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--say", action="store_true", help="show what the predicates said, too")
    parser.add_argument("--show", type=int, default=3, help="examples of each of the worst exercises (default: 3)")
    asked = parser.parse_args(arguments)
    known = [f"{chapter}.{name}" for chapter in CHAPTERS for name in exercises(chapter)]
    chosen = [name for name in known if not asked.names or {name, name.split(".")[0]} & set(asked.names)]
    if not chosen:
        parser.error(f"there is no exercise {' or '.join(asked.names)}")
    reports = fuzz(chosen, asked.count, asked.seed)
    print(table(reports))
    print(examples(reports, ("crash", "passed", "elsewhere"), most=10))
    print(examples(sorted(reports, key=lambda report: report.share)[:8], ("located", "difference"), asked.show))
    if asked.say:
        print(examples(reports, ("predicate",), asked.show))
    return int(any(report.counts[kind] for report in reports for kind in ("crash", "passed")))


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # a cell with a shell command or a magic
        return []


def _checked(body: list[ast.stmt]) -> dict[str, Solution]:
    """Find what is handed to ``check``, and where it was defined; the last of several is the right one."""
    imports = [one for one in body if isinstance(one, ast.Import | ast.ImportFrom)]
    defined: dict[str, ast.AST] = {}
    found = {}
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            defined[statement.name] = statement
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            defined[statement.targets[0].id] = statement.value
        elif isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("check("):
            name, attempt = statement.value.args
            node = defined.get(attempt.id) if isinstance(attempt, ast.Name) else attempt
            if node is not None:
                found[name.value] = Solution(imports=_needed(imports, node), source=ast.unparse(node))
    return found


def _needed(imports: list[ast.stmt], node: ast.AST) -> str:
    used = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    lines = []
    for statement in imports:
        names = [alias for alias in statement.names if (alias.asname or alias.name.split(".")[0]) in used]
        if names:
            kept = ast.copy_location(type(statement)(**{**vars(statement), "names": names}), statement)
            lines.append(ast.unparse(kept))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
