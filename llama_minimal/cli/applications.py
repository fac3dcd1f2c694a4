"""``llama-minimal examples`` and ``evaluate --application``: examples with answers, and a model's score on them."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tqdm import tqdm

from llama_minimal.cli.console import check_counts
from llama_minimal.cli.corpus import STDOUT
from llama_minimal.files import replace_file

if TYPE_CHECKING:
    from llama_minimal.applications import Application

N_TRAIN = 2000  # training examples that the baselines count


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Write examples of an application with their answers, as JSON lines: what `finetune` reads.

    The course model has read none of these stories, and no two splits have a story in common.
    """

    application: tyro.conf.Positional[str]
    """generation, dialogue, sentiment, translation, question_answering, code, reports, or one of an installed
    package."""
    out: Path
    """File to write, ending in .jsonl: prompt and completion, or for dialogue messages; - writes to standard output."""
    n_examples: Annotated[int, tyro.conf.arg(aliases=["--n"])] = 1000
    """How many examples."""
    split: Literal["train", "validation", "test"] = "train"
    """Examples to learn from, to choose by, or to test on."""
    seed: int = 0
    """The same seed gives the same examples."""
    overwrite: bool = False
    """Replace --out if it is there."""

    def __post_init__(self) -> None:
        check_counts(self, "n_examples")
        check_counts(self, "seed", least=0)

    def run(self) -> None:
        if self.out != STDOUT and self.out.suffix.lower() != ".jsonl":
            raise ValueError(f"--out {self.out} must end in .jsonl, or be - for standard output")
        if self.out != STDOUT and self.out.exists() and (self.out.is_dir() or not self.overwrite):
            raise ValueError(f"{self.out} exists; give another --out, or --overwrite for a file")
        from llama_minimal.applications import application

        found = application(self.application).examples(self.n_examples, split=self.split, seed=self.seed)
        text = "".join(json.dumps(one.as_dict(), ensure_ascii=False) + "\n" for one in found).encode("utf-8")
        if self.out == STDOUT:
            sys.stdout.buffer.write(text)
            sys.stdout.flush()
            return
        replace_file(self.out.resolve(), text)
        print(f"{len(found):,} examples in {self.out}")
        print(f"tune a model on them with: llama-minimal finetune {self.out} --out runs/{self.application}")


def evaluate_application(
    name: str, load: Callable[[], tuple[Any, Any]], *, n: int, seed: int, batch_size: int, retrieve: bool
) -> None:
    """Print a model's score on test examples of an application, by kind, beside the baselines.

    Args:
        load: returns model and tokenizer; called when everything else is in order.
        retrieve: ask questions about one of a hundred stories, without the stories and with the one that is found.
    """
    from llama_minimal.applications import application

    chosen = application(name)
    if retrieve and name != "question_answering":
        raise ValueError(f"--retrieve is for --application question_answering; leave it out for {name}")
    model, tokenizer = load()
    train = chosen.examples(N_TRAIN, split="train", seed=seed)
    if retrieve:
        _compare_retrieval(chosen, model, tokenizer, train, n=n, seed=seed, batch_size=batch_size)
        return
    test = chosen.examples(n, split="test", seed=seed)
    scores = _all_scores(chosen, model, tokenizer, train, test, batch_size=batch_size)
    print(f"{name}: {len(test):,} test examples; the baselines have counted {len(train):,} training examples")
    print(_columns(scores))


def _all_scores(
    chosen: "Application", model: Any, tokenizer: Any, train: list, test: list, *, batch_size: int
) -> dict[str, dict[str, float]]:
    """Return the scores of the model and of each baseline."""
    with tqdm(total=len(test), unit="example", disable=None, leave=False) as bar:
        result = chosen.evaluate(model, tokenizer, test, batch_size=batch_size, progress=bar.update)
    counted = {name: predict(test) for name, predict in chosen.baselines(train).items()}
    return {"model": result.scores} | {name: chosen.score(texts, test) for name, texts in counted.items()}


def _compare_retrieval(
    chosen: "Application", model: Any, tokenizer: Any, train: list, *, n: int, seed: int, batch_size: int
) -> None:
    from llama_minimal.applications.many_stories import ask_libraries, found_share, with_retrieved

    alone = ask_libraries(n, seed=seed)
    given = with_retrieved(alone)
    rows = {
        f"{name}, {how}": scores
        for how, asked in (("alone", alone), ("retrieved", given))
        for name, scores in _all_scores(chosen, model, tokenizer, train, asked, batch_size=batch_size).items()
    }
    print(
        f"{len(alone):,} questions, each about one of 100 stories; of {found_share(alone):.1f} % BM25 finds the story"
    )
    print(_columns(rows))
    before, after = (rows[f"model, {how}"][chosen.metric] for how in ("alone", "retrieved"))
    print(f"with retrieval {after:.1f}, without {before:.1f}" + (f": {after / before:.1f} times" if before else ""))


def _columns(scores: dict[str, dict[str, float]]) -> str:
    """Return a table with a line for each score, and a numbered column for each predictor, named below it."""
    names = list(dict.fromkeys(name for each in scores.values() for name in each))
    width = max(map(len, names))
    lines = [" " * (width + 2) + "".join(f"{f'({i})':>9}" for i in range(1, len(scores) + 1))]
    for name in names:
        cells = (f"{each[name]:9.1f}" if name in each else f"{'–':>9}" for each in scores.values())
        lines.append(f"  {name:<{width}}" + "".join(cells))
    return "\n".join([*lines, *(f"  ({i}) {name}" for i, name in enumerate(scores, start=1))])
