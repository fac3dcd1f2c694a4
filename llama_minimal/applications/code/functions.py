"""From a docstring to a function, scored by running it on inputs that nobody has shown.

Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (HumanEval: functions from docstrings,
right if they pass their tests).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any
from zlib import crc32

from llama_minimal.applications.base import Example, check_request
from llama_minimal.applications.code.grammar import FAMILIES, Family, Part
from llama_minimal.running import run_python

KIND = "function"
_HARNESS = """

import json
results = []
for argument in json.loads({inputs!r}):
    try:
        results.append(repr(f(argument)))
    except Exception as error:
        results.append(None)
print()
print(json.dumps(results))
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A function that is to be written: what to keep, what to make of it, and what to return."""

    family: Family
    reduce: Part
    map: Part
    keep: Part

    @property
    def name(self) -> str:
        return f"{self.family.argument}: {self.reduce.code} {self.map.code} {self.keep.code}"

    def split(self) -> str:
        """Return the split of this composition; the parts that it has are all seen in training."""
        return {0: "test", 1: "test", 2: "validation"}.get(crc32(self.name.encode()) % 10, "train")

    def example(self, dice: Random) -> Example:
        """Draw the constants and the words."""
        k, m = self.keep.draw(dice), self.map.draw(dice)
        what = f"{dice.choice(self.map.phrases)}{dice.choice(self.keep.phrases)}".format(k=k, m=m)
        say = f"Return {dice.choice(self.reduce.phrases).format(what=what)} in {self.family.argument}."
        condition = f" if {self.keep.code.format(k=k)}" if self.keep.code else ""
        loop = f"for {self.family.variables} in {self.family.source}{condition}"
        body = self.reduce.code.format(item=self.map.code.format(m=m), loop=loop)
        inputs = self.family.inputs(dice, k)
        expected = [repr(self.value(argument, k, m)) for argument in inputs]
        prompt = f'def f({self.family.argument}):\n    """{say}"""\n'
        extra = {"inputs": inputs, "expected": expected, "question": say}
        return Example(prompt, f"    return {body}", KIND, extra=extra)

    def value(self, argument: Any, k: Any, m: Any) -> Any:
        """Return what the function is to return, computed without its text."""
        kept = [item for item in self.family.items(argument) if self.keep.value(item, k)]
        return self.reduce.value([self.map.value(item, m) for item in kept])


def tasks() -> Iterator[Task]:
    """Yield every composition of every family whose parts fit: nothing adds words up."""
    for family in FAMILIES:
        for parts in product(family.reduces, family.maps, family.keeps):
            reduce, map_, _ = parts
            if reduce.takes in ("", map_.gives) and not (reduce.alone and map_ is not family.maps[0]):
                yield Task(family, *parts)


def examples(n: int, *, split: str = "train", seed: int = 0) -> list[Example]:
    """Return n docstrings, no two the same; the completion is the function's body.

    Compositions of test and validation never occur in training. ``extra`` has ``inputs`` and the ``expected`` values,
    which are for the score alone.

    Raises:
        ValueError: if n or split cannot be, or if there are not so many.
    """
    check_request(n, split)
    return draw(n, [task.example for task in tasks() if task.split() == split], f"{seed} {split} {KIND}")


def draw(n: int, makers: Sequence[Callable[[Random], Example | None]], seed: str) -> list[Example]:
    """Return n examples with different prompts, from makers chosen by chance; a maker may fail now and then.

    Raises:
        ValueError: if new ones no longer come.
    """
    found: dict[str, Example] = {}
    dice, missed = Random(seed), 0
    while len(found) < n:
        example = dice.choice(makers)(dice)
        new = example is not None and example.prompt not in found
        missed = 0 if new else missed + 1
        if new:
            found[example.prompt] = example
        elif missed > 500:
            raise ValueError(f"there are hardly more than {len(found)} different examples, not n={n}; ask for fewer")
    return list(found.values())


def passes(prediction: str, example: Example, *, timeout: float = 1.0) -> bool:
    """Run a predicted body on the hidden inputs, in a process of its own, and compare with the expected values.

    The program gets the inputs and not what is expected. One body at a time: none can spoil another's run. What comes
    after the body, from the first line that is not indented, is not part of it.
    """
    body, *rest = prediction.strip().split("\n")
    for line in rest:
        if line.strip() and not line.startswith((" ", "\t")):
            break
        body += f"\n{line}"
    source = f"{example.prompt}    {body}"
    try:
        compile(source, "prediction", "exec")  # compiled only; what does not compile needs no process
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    done = run_python(source + _HARNESS.format(inputs=json.dumps(example.extra["inputs"])), timeout=timeout)
    try:
        return json.loads(done.stdout.rstrip("\n").rpartition("\n")[2]) == example.extra["expected"]
    except ValueError:
        return False
