"""``llama-minimal evaluate course``: measure the shipped model, and ``--write-card`` to keep the figures."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from llama_minimal.cli.console import table


def evaluate_course(*, data: Path | None, write: bool) -> None:
    """Measure the course model as its card says, print the figures, and write them into the card if asked."""
    import torch

    from llama_minimal.checkpoint import load
    from llama_minimal.course.card import measure, read_card, training_tokens, versions, write_card

    card = read_card()
    model, tokenizer = load("course", dtype=torch.float32)
    with tqdm(total=13, unit="step", leave=False, disable=None) as bar:

        def say(text: str) -> None:
            bar.set_description(text)
            bar.update()

        train = training_tokens(tokenizer, card["recipe"]["corpus"], data=data, say=say)
        measured = measure(model, tokenizer, train, say=say)
    print_measured(measured)
    if write:
        write_card({**card, "measured": measured, "measured_with": versions()})
        print("\nwritten into the card")


def print_measured(measured: dict[str, Any]) -> None:
    """Print a table for each kind of figure, with a row for each model."""
    losses = {name: row for name, row in measured.items() if "perplexity" in row}
    print("held-out stories: perplexity, bits per byte")
    print(table([(name, f"{row['perplexity']:8.2f}  {row['bits_per_byte']:.3f}") for name, row in losses.items()]))
    print("\nstories written: share that the world's checker accepts")
    names = list(next(iter(measured.values()))["checker"])
    print(
        table(
            [("", "".join(f"{name:>13}" for name in names))]
            + [(model, "".join(f"{row['checker'][name]:13.1%}" for name in names)) for model, row in measured.items()]
        )
    )
    print("\ncopied from the training text: longest span in tokens, median, share of 8-grams that are new")
    print(
        table(
            [
                (name, f"{row['longest_copied_span']:5d}  {row['median_copied_span']:5d}  {row['novel_8_grams']:.1%}")
                for name, row in measured.items()
            ]
        )
    )
