"""``llama-minimal corpus``: write stories and tasks from the Llama Valley."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import tyro
from tqdm import tqdm

from llama_minimal.cli.console import check_counts
from llama_minimal.files import replace_files

STDOUT = Path("-")
BETWEEN_TEXTS = "\n\n* * *\n\n"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Write a corpus from the Llama Valley: JSON lines, or plain text if --out ends in .txt."""

    name: tyro.conf.Positional[Literal["valley"]]
    """valley: short stories from a small simulated world, with an answer key."""
    out: Path
    """File to write: .jsonl (prompt, answer, text and where they come from) or .txt (texts alone); - writes JSON lines
    to standard output."""
    stories: int = 1000
    """How many stories to tell."""
    seed: int = 0
    """The same seed tells the same stories."""
    task: Literal["story", "qa", "sentiment", "translate", "dialogue", "report", "summary", "speech", "mix"] = "story"
    """What to make of each story; speech: what is said in it, labeled kind or unkind; mix: the mixture that the course
    model was trained on."""
    split: Literal["train", "test", "combinations"] = "train"
    """Stories to train on, to test on, or to test on with meetings of characters, things and places never seen."""
    language: Literal["english", "chinese"] = "english"
    """Language of the stories, for --task story."""
    record: bool = False
    """Add each story's record, the answer key, to its JSON lines."""
    gender_bias: dict[str, float] | None = None
    """Share of "she" among the workers of a job, such as: --gender-bias baker 0.9 smith 0.1"""
    unkind: float = 0.3
    """Share of quarrels with an unkind word."""
    canaries: dict[str, int] | None = None
    """Sentences to plant, and in how many stories; left out: none, or for --task mix the standard ones."""
    overwrite: bool = False
    """Replace --out if it is there."""

    def __post_init__(self) -> None:
        check_counts(self, "stories")

    def run(self) -> None:
        if self.out != STDOUT and self.out.suffix.lower() not in (".jsonl", ".txt"):
            raise ValueError(f"--out {self.out} must end in .jsonl or .txt, or be - for standard output")
        if self.out != STDOUT and self.out.is_dir():
            raise ValueError(f"{self.out} is a folder; give the name of a file")
        if self.out != STDOUT and self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists; give another --out, or --overwrite")
        if self.language == "chinese" and self.task != "story":
            raise ValueError(f"--language chinese goes with --task story; --task {self.task} is in English")
        if self.out == STDOUT:
            n_texts = self._write(sys.stdout.buffer)
            sys.stdout.flush()
            print(f"{n_texts:,} texts", file=sys.stderr)
            return
        with replace_files(self.out.resolve()) as (file,):
            n_texts = self._write(file)
        print(f"{n_texts:,} texts in {self.out}")
        if not self._is_text:
            print(f"train on them with: llama-minimal train --corpus {self.out}")

    def _write(self, file: BinaryIO) -> int:
        """Write the texts; return how many they were."""
        n_texts = 0
        for example in self._examples():
            between = BETWEEN_TEXTS if n_texts and self._is_text else ""
            file.write((between + self._line(example)).encode("utf-8"))
            n_texts += 1
        return n_texts

    @property
    def _is_text(self) -> bool:
        return self.out.suffix.lower() == ".txt"

    def _examples(self) -> Iterator[Any]:
        """Yield the examples, with a progress bar that counts stories."""
        from llama_minimal.data.valley import ValleySettings, examples, mixed, stories
        from llama_minimal.data.valley.corpus import standard_canaries

        bias = {} if self.gender_bias is None else {"gender_bias": self.gender_bias}
        standard = standard_canaries(self.stories) if self.task == "mix" else {}
        canaries = standard if self.canaries is None else self.canaries
        settings = ValleySettings(seed=self.seed, unkind=self.unkind, canaries=canaries, **bias)
        if self.task == "mix":
            yield from tqdm(mixed(self.stories, settings, split=self.split), **self._bar())
            return
        for story in tqdm(stories(self.stories, settings, split=self.split), **self._bar()):
            yield from examples(story, self.task, language=self.language)

    def _bar(self) -> dict[str, Any]:
        return {"total": self.stories, "unit": "story", "disable": None, "leave": False}

    def _line(self, example: Any) -> str:
        if self._is_text:
            return example.text
        values = {**example.as_dict(), "text": example.text}
        if self.record:
            values["record"] = example.story.record()
        return json.dumps(values, ensure_ascii=False) + "\n"
