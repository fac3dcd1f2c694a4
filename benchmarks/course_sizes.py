"""Compare sizes of the course model at a fraction of its budget: python benchmarks/course_sizes.py

Each size trains for the steps that a fifteenth of 75 minutes allows it, with a whole learning-rate schedule of its own.
Writes course_sizes.json (measured) and course_sizes.svg (drawn from it and from the card of the shipped model).
"""

import json
import sys
from pathlib import Path

from tqdm import tqdm

from llama_minimal import LlamaConfig, build
from llama_minimal.course.card import read_card
from llama_minimal.data import documents, encode_corpus
from llama_minimal.data.token_file import TokenFile
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "course_sizes.json", HERE / "course_sizes.svg"
# Width, layers, heads, kv heads, feed-forward width; steps that take 300 seconds on 2 quiet cores.
SIZES = [(256, 5, 8, 2, 688, 400), (256, 4, 8, 2, 688, 530), (192, 6, 6, 2, 512, 470), (160, 6, 5, 1, 448, 630)]
TOKENS_PER_STEP = 8 * 512


def measure(folder: Path) -> list[dict]:
    """Train every size on stories of the valley, and return the validation losses by step."""
    if not (folder / "corpus.json").exists():
        tokenizer = Tokenizer.train((text for _, text in documents("valley:24000")), vocab_size=2048)
        encode_corpus(documents("valley:24000"), tokenizer, folder, validation_fraction=0.03)
    train, validation = (TokenFile.open(folder, split).tokens for split in ("train", "validation"))
    results = []
    for dim, n_layers, n_heads, n_kv_heads, hidden_dim, steps in SIZES:
        shape = {"dim": dim, "n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads}
        config = LlamaConfig(**shape, hidden_dim=hidden_dim, vocab_size=2048, max_seq_len=512, tie_embeddings=True)
        model = build(config, seed=0)
        recipe = TrainConfig(
            steps=steps, batch_size=8, seq_len=512, lr=3e-3, precision="bf16", warmup_steps=30, snapshot_every=10_000
        )
        trainer = Trainer(model, train, recipe, validation=validation[:120_000], out=None)
        curve = [
            (row["step"], row["validation_loss"])
            for row in tqdm(trainer.run(), total=steps, desc=f"{dim} x {n_layers}")
            if "validation_loss" in row
        ]
        parameters = sum(p.numel() for p in model.parameters())
        results.append({**shape, "hidden_dim": hidden_dim, "parameters": parameters, "steps": steps, "curve": curve})
    return results


def draw(results: list[dict]) -> None:
    """Draw the curves of the sizes, and that of the shipped model."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "course"  # the same figure, the same bytes
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for result in results:
        steps, losses = zip(*result["curve"], strict=True)
        label = f"{result['dim']} × {result['n_layers']}, {result['parameters'] / 1e6:.1f} M"
        left.plot([step * TOKENS_PER_STEP / 1e6 for step in steps], losses, marker="o", markersize=3, label=label)
    left.set(xlabel="training tokens, millions", ylabel="validation loss, nats per token", ylim=(0.7, 2.2))
    left.set_title("a fifteenth of the budget", fontsize=10)
    left.legend(title="width × layers", frameon=False)
    training = read_card()["training"]
    steps, losses = zip(*training["curve"], strict=True)
    right.plot(
        [step * training["tokens_seen"] / steps[-1] / 1e6 for step in steps],
        losses,
        color="black",
        marker="o",
        markersize=3,
    )
    right.set(xlabel="training tokens, millions", ylim=(0.35, 1.3))
    right.set_title("the course model, the whole budget", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    if "--draw" not in sys.argv:
        RESULTS.write_text(json.dumps(measure(Path("runs/course_sizes")), indent=1) + "\n")
    draw(json.loads(RESULTS.read_text()))
