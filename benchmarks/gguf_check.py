"""Hold what ``save_gguf`` writes against llama.cpp itself: ids of lines, greedy texts, and logits of every switch.

    python benchmarks/gguf_check.py                        ids of 10,000 lines, 100 greedy texts, logits of 16 models
    python benchmarks/gguf_check.py --lines 500 --prompts 5

It needs llama.cpp's Python binding (``pip install llama-cpp-python``, which compiles for half an hour), and says so
where there is none. The binding runs in a process of its own, because native code may end the whole process where
Python would raise an error. One thread; the cache of keys and values in float32, which is not the binding's default.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

CHILD = "--child"
WORDS = "the a cat don't o'clock C'est naïve Übermut 12 1999 3.14 ½ ² ok?! -- () [x] {y} <|eos|>".split()
WORDS += "漢字 かな 한국 🙂 👩‍🚀 été".split()


KEYS = [
    *(f"llama.{key}" for key in ("context_length", "embedding_length", "block_count", "feed_forward_length")),
    *(f"llama.attention.{key}" for key in ("head_count", "head_count_kv", "key_length", "layer_norm_rms_epsilon")),
    *(f"llama.rope.{key}" for key in ("dimension_count", "freq_base", "scaling.type", "scaling.factor")),
    *(f"llama.rope.scaling.{key}" for key in ("original_context_length", "attn_factor")),
    *(f"tokenizer.ggml.{key}" for key in ("pre", "merges", "token_type", "bos_token_id", "eos_token_id")),
    "tokenizer.ggml.add_bos_token",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["ids", "texts", "tokenizers", "switches", "left_out"])
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=100, help="of each greedy text")
    if CHILD in sys.argv:
        return child(json.loads(sys.stdin.read()))
    args = parser.parse_args()
    if subprocess.run([sys.executable, "-c", "import llama_cpp"], capture_output=True, timeout=120).returncode:
        print("skipped: llama.cpp's Python binding does not import here; pip install llama-cpp-python")
        return None
    with tempfile.TemporaryDirectory() as folder:
        for part in (switches, left_out, tokenizers, ids, texts):
            if args.only in (None, part.__name__):
                part(Path(folder), args)
    return None


# ------------------------------------------------------------------ llama.cpp


def ask(path: Path, **work) -> dict:
    """Let llama.cpp do some work with a file, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, CHILD], input=json.dumps(work | {"path": str(path)}), text=True, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"llama.cpp failed on {path.name} (status {done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(work: dict) -> None:
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(
        work["path"],
        n_ctx=work.get("n_ctx", 512),
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
        type_k=0,
        type_v=0,
        flash_attn=False,
        logits_all="logits" in work,
        vocab_only="prompts" not in work and "logits" not in work,
    )
    found = {
        "ids": [
            model.tokenize(line.encode(), add_bos=False, special=line == "<|eos|>") for line in work.get("lines", ())
        ],
        "texts": [],
    }
    found |= {"framed": model.tokenize(b"hello"), "bos": model.token_bos(), "eos": model.token_eos()}
    for prompt in work.get("prompts", ()):
        model.reset()
        found["texts"].append(list(islice(greedy(model, prompt), work["n_new"])))
    if "logits" in work:
        model.eval(work["logits"])
        found["logits"] = np.array(model.scores[: len(work["logits"])]).tolist()
    print(json.dumps(found))


def greedy(model, prompt):
    for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
        if token == model.token_eos():
            return
        yield token


# ----------------------------------------------------------------- what we say


def lines_of(n: int) -> dict[str, list[str]]:
    """Return lines of five kinds, one fifth each."""
    from llama_minimal.data import documents

    dice, share = random.Random(0), n // 5

    def lines(source, keep=lambda line: True):
        found = (line for d in documents(source) for line in d.text.splitlines() if line.strip() and keep(line))
        return list(islice(dict.fromkeys(found), share))

    return {
        "lines of stories": lines("valley", lambda line: line.isascii()),
        "lines of Chinese stories": lines("valley", lambda line: "\u4e00" < line[0] < "\u9fff"),
        "lines of Python's documentation": lines("python-docs"),
        "lines of Python code": lines("python-source"),
        "mixtures": [
            "".join(
                dice.choice(WORDS) + dice.choice((" ", " ", "  ", "", "\t", ", ")) for _ in range(dice.randint(1, 12))
            )
            for _ in range(share)
        ],
    }


def ids(folder: Path, args) -> None:
    """The ids that the course tokenizer gives each kind of line."""
    import llama_minimal as lm

    model, tokenizer = lm.load("course", dtype="float32")
    lm.save_gguf(model, folder / "course.gguf", tokenizer)
    compare_ids("course", folder / "course.gguf", tokenizer, lines_of(args.lines))


def texts(folder: Path, args) -> None:
    """Greedy texts of the course model, for each type of number."""
    import llama_minimal as lm

    model, tokenizer = lm.load("course", dtype="float32")
    lines = lines_of(5 * args.prompts)["lines of stories"]
    prompts = [tokenizer.encode_prompt(" ".join(line.split()[:4])) for line in lines]
    ours = [lm.generate(model, tokenizer, [p], max_new_tokens=args.tokens)[0].tokens for p in prompts]
    ours = [[t for t in text if t not in tokenizer.eos_ids] for text in ours]
    for kind in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        path = folder / f"course-{kind}.gguf"
        lm.save_gguf(model, path, tokenizer, number_type=kind)
        found = ask(path, prompts=prompts, n_new=args.tokens)
        same = sum(map(list.__eq__, ours, found["texts"]))
        print(f"greedy text, {kind:4}: {same} of {len(prompts)} alike; {path.stat().st_size / 1e6:.1f} MB", flush=True)


def compare_ids(name: str, path: Path, tokenizer, lines: dict[str, list[str]]) -> None:
    for kind, texts in lines.items():
        found = ask(path, lines=texts)
        wrong = [text for text, ids in zip(texts, found["ids"], strict=True) if ids != tokenizer.encode(text)]
        print(
            f"ids, {name}: {len(texts) - len(wrong)} of {len(texts)} {kind} alike", *wrong[:3], sep="\n    ", flush=True
        )
    assert found["framed"] == tokenizer.encode_prompt("hello"), (
        name,
        found["framed"],
        tokenizer.encode_prompt("hello"),
    )


def tokenizers(folder: Path, args) -> None:
    """Tokenizers of each kind, made for the tests, on some of the lines."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import gguf_tokenizers
    import torch

    import llama_minimal as lm

    lines = lines_of(max(args.lines // 10, 50))
    for name, tokenizer in gguf_tokenizers.all_kinds(folder):
        config = lm.LlamaConfig(dim=32, n_layers=1, n_heads=2, vocab_size=tokenizer.vocab_size + 3, hidden_dim=32)
        with torch.no_grad():
            lm.save_gguf(lm.build(config), folder / f"{name}.gguf", tokenizer)
        compare_ids(name, folder / f"{name}.gguf", tokenizer, lines)


def switches(folder: Path, args) -> None:
    """Random models with every switch that the format knows: the largest difference of a logit."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torch
    from gguf_tokenizers import KNOWN, MUCH
    from tiny_models import draw_model

    import llama_minimal as lm

    tokenizer = lm.Tokenizer.train(["low lower lowest"], vocab_size=261)
    tokens = torch.randint(0, 300, (1, MUCH), generator=torch.Generator().manual_seed(0))
    for i, changes in enumerate(KNOWN):
        model = draw_model(**{"max_seq_len": MUCH, "dim": 64, "n_layers": 2, "vocab_size": 300} | changes)
        path = folder / f"switch-{i}.gguf"
        lm.save_gguf(model, path, tokenizer)
        logits = torch.tensor(ask(path, logits=tokens[0].tolist(), n_ctx=MUCH)["logits"])
        with torch.no_grad():
            expected = model(tokens)[0]
        difference = (logits - expected).abs().max().item()
        print(f"logits, largest difference {difference:.1e} of ±{expected.abs().max():.0f}: {changes}", flush=True)


def left_out(folder: Path, args) -> None:
    """What llama.cpp makes of a file in which a key is missing: another model, other ids, or a refusal."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from tiny_models import draw_model

    import llama_minimal as lm
    from llama_minimal.course.gguf_readers import leave_out

    _, tokenizer = lm.load("course")
    odd = {"n_kv_heads": 2, "head_dim": 24, "rope_theta": 500_000.0, "norm_eps": 0.01}
    odd |= {"rope_scaling": lm.RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=32, attention_factor=1.5)}
    model = draw_model(dim=64, vocab_size=tokenizer.vocab_size, max_seq_len=96, **odd)
    whole, spoiled = folder / "whole.gguf", folder / "spoiled.gguf"
    lm.save_gguf(model, whole, tokenizer)
    lines = lines_of(1000)["lines of stories"] + lines_of(1000)["lines of Python code"]
    work = {"lines": [*lines, "<|eos|>"], "logits": list(range(90)), "n_ctx": 96}
    expected = ask(whole, **work)
    for key in KEYS:
        leave_out(whole, key, spoiled)
        try:
            found = ask(spoiled, **work)
        except SystemExit:
            print(f"without {key}: not loaded", flush=True)
            continue
        rows = zip(expected["logits"], found["logits"], strict=True)
        off = max(abs(a - b) for row, other in rows for a, b in zip(row, other, strict=True))
        wrong = sum(map(list.__ne__, expected["ids"][:-1], found["ids"][:-1]))
        special = "" if expected["ids"][-1] == found["ids"][-1] else ", <|eos|> is text"
        framed = "" if expected["framed"] == found["framed"] else f", a prompt begins {found['framed'][:2]}"
        same = [found[role] == expected[role] for role in ("bos", "eos")]
        roles = "" if all(same) else f", bos {found['bos']} and eos {found['eos']}"
        print(f"without {key}: logits {off:.1g} off, {wrong} lines wrong{special}{framed}{roles}", flush=True)


if __name__ == "__main__":
    main()
