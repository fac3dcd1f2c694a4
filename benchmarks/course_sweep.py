"""Compare recipes of the course model, an arm at a time: python benchmarks/course_sweep.py [NAME ...] [--steps N]

Each arm differs from ``RECIPE`` in what ``ARMS`` says and in nothing else. It trains, reads 300 held-out stories, and
finishes 200 of them for the valley's checker. course_model.md says what came out; its figures, course_sweep.json, were
made on one NVIDIA H200 on 2026-11-28 with torch 2.11: the same steps captured as CUDA graphs, so that a dozen arms ran
side by side (5,000 steps in 70 seconds). Here they run by the ordinary ``Trainer``, on any device.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llama_minimal import Sampling, build, generate, preset
from llama_minimal.course.card import held_out, only_story, story_loss, token_stream
from llama_minimal.data import documents
from llama_minimal.data.valley.checker import check_many
from llama_minimal.devices import find_device
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import TextCodec, Tokenizer
from llama_minimal.training import Trainer

RESULTS = Path(__file__).parent / "course_sweep.json"
SHAPE = {"n_layers": 4, "n_heads": 4, "n_kv_heads": 4, "rope_theta": 10_000.0}
RECIPE = {"optimizer": "muon", "lr": 4e-3, "schedule": "linear", "min_lr_ratio": 0.0, "warmup_steps": 100}
RECIPE |= {"batch_size": 8, "seq_len": 256, "align_documents": True, "precision": "bf16", "steps": 5000}
LONG = {"seq_len": 512, "batch_size": 4}
FORMER = {"optimizer": "adamw", "lr": 2.5e-3, "beta2": 0.98, "schedule": "cosine", "min_lr_ratio": 0.03}
STAGED = {"seq_len": 512, "batch_size": 4, "short_seq_len": 256, "warmup_steps": 150, "lr": 2e-3}
SIX = {"n_layers": 6, "steps": 13_000, **STAGED}
# Name -> what this arm has of its own; 2,048 tokens a step everywhere but where the batch says otherwise.
ARMS: dict[str, dict[str, Any]] = {
    "former recipe": {"n_heads": 8, "n_kv_heads": 2, "warmup_steps": 300, **FORMER, **LONG},
    "muon": {},
    "muon, seed 1": {"seed": 1},
    "muon, seed 2": {"seed": 2},
    "windows of 512": LONG,
    "windows of 512, 8 heads": {"n_heads": 8, "n_kv_heads": 8, **LONG},
    "8 heads": {"n_heads": 8, "n_kv_heads": 8},
    "2 kv heads": {"n_kv_heads": 2},
    "5 layers": {"n_layers": 5},
    "6 layers": {"n_layers": 6},
    "adamw": {"optimizer": "adamw", "beta2": 0.98},
    "lr 2e-3": {"lr": 2e-3},
    "lr 8e-3": {"lr": 8e-3},
    "embedding at twice the rate": {"embedding_lr_ratio": 2.0},
    "embedding at half the rate": {"embedding_lr_ratio": 0.5},
    "no decay": {"weight_decay": 0.0},
    "batches of 4, lr 3e-3": {"batch_size": 4, "lr": 3e-3, "steps": 10_000},
    "batches of 16, lr 6e-3": {"batch_size": 16, "lr": 6e-3, "steps": 2500},
    "cosine": {"schedule": "cosine"},
    "theta 1,000": {"rope_theta": 1000.0},
    "long: 6 layers": SIX,
    "long: 6 layers, lr 1.5e-3": {**SIX, "lr": 1.5e-3},
    "long: 6 layers, lr 3e-3": {**SIX, "lr": 3e-3},
    "long: 6 layers, decay 0.3": {**SIX, "weight_decay": 0.3},
    "long: 6 layers, theta 100,000": {**SIX, "rope_theta": 1e5},
    "long: 6 layers, embedding at twice the rate": {**SIX, "embedding_lr_ratio": 2.0},
    "long: 6 layers, windows of 256 alone": {**SIX, "seq_len": 256, "batch_size": 8, "short_seq_len": None},
    "long: 5 layers": {**SIX, "n_layers": 5, "steps": 16_000},
    "long: 4 layers": {**SIX, "n_layers": 4, "steps": 20_000},
}


def measure(own: dict[str, Any], tokens: Any, tokenizer: TextCodec, device: str, steps: int | None) -> dict[str, Any]:
    """Train one arm, and return what its model can do."""
    shape = {name: own.get(name, value) for name, value in SHAPE.items()}
    recipe = RECIPE | {name: value for name, value in own.items() if name not in SHAPE}
    if steps is not None:
        recipe |= {"steps": steps, "warmup_steps": min(steps, recipe["warmup_steps"])}
    config = TrainConfig(**recipe)
    model = build(preset("course", vocab_size=tokenizer.vocab_size, **shape), device=device, seed=config.seed)
    for _ in tqdm(Trainer(model, tokens, config).run(), total=config.steps, unit="step", leave=False):
        pass
    tales = held_out(300)
    starts = [story.tell()[0].text for story in tales[:200]]
    prompts = [tokenizer.encode(start, bos=True) for start in starts]
    done = generate(model, tokenizer, prompts, max_new_tokens=330, sampling=Sampling(temperature=0.8), seed=0)
    texts = [only_story(start + one.text) for start, one in zip(starts, done, strict=True)]
    shares = {name: round(share, 3) for name, share in check_many(texts).items()}
    bits = story_loss(model.to("cpu"), tokenizer, [story.text() for story in tales])["bits_per_byte"]
    return {"steps": config.steps, "bits_per_byte": bits, "checker": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"arms to run; left out: all. There are {'; '.join(ARMS)}")
    parser.add_argument("--corpus", default="course:160000", help="the training text")
    parser.add_argument("--steps", type=int, help="fewer steps than the arm's own, for a try")
    parser.add_argument("--device", default=str(find_device(None)))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / RESULTS.name)
    flags = parser.parse_args()
    if unknown := [name for name in flags.names if name not in ARMS]:
        parser.error(f"there is no arm {unknown[0]!r}; there are {'; '.join(ARMS)}")
    texts = [document.text for document in documents(flags.corpus)]
    tokenizer = Tokenizer.train(texts, vocab_size=2048, pattern="gpt2")
    tokens = token_stream(tokenizer, texts)
    results = json.loads(flags.out.read_text()) if flags.out.exists() else {}
    for name in flags.names or ARMS:
        results[name] = measure(ARMS[name], tokens, tokenizer, flags.device, flags.steps)
        row = results[name]["checker"]
        print(f"{name:45} {results[name]['bits_per_byte']:.4f} bits per byte, {row['grammatical']:.1%} consistent")
        flags.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
