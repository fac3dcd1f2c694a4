"""Speed and memory of encoding: ``python benchmarks/encoding.py --megabytes 200``.

Prints, for a generated text in one file: the peak memory of a whole pipeline above that of a process that only imports
the package, and the speed of one process at encoding blocks of it, each way in turn. A ratio is the median over the
repeats, its range the smallest and the largest.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETUP = """
from pathlib import Path
import tokenizers, llama_minimal.cli
from llama_minimal.cli.start import TOKENIZER_BYTES, _first_bytes
from llama_minimal.data import documents, encode_corpus
from llama_minimal.tokenizer import HuggingFaceTokenizer, Tokenizer
folder = Path(sys.argv[1]); text = folder / "text.txt"
"""
PIPELINES = {
    "only imports": "",
    "learn the vocabulary": "Tokenizer.train(_first_bytes(documents(text), TOKENIZER_BYTES), vocab_size=1024)",
    "our tokenizer": "encode_corpus(documents(text), Tokenizer.load(folder), folder / 'out')",
    "tokenizers library": "encode_corpus(documents(text), HuggingFaceTokenizer(folder), folder / 'out')",
}
PEAK = """
import resource, sys
{body}
try:  # what the process that started this one used does not count
    status = open("/proc/self/status").read()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def write_text(path: Path, n_bytes: int) -> None:
    """Write sentences of 20,000 made-up words, the common ones more often (Zipf's law), one to five in a line."""
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlucmfwypvbgkjqxz", k=chance.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    done = 0
    with path.open("w", encoding="utf-8") as file:
        while done < n_bytes:
            found = iter(chance.choices(words, weights, k=200_000))
            text = "".join(f"{word}{chance.choice(BETWEEN)}" for word in found)
            done += file.write(text)


BETWEEN = [" "] * 16 + [", "] * 2 + [". "] * 2 + [".\n", ' "', "'s ", " 42 ", "\n\n"]


def peak_bytes(body: str, folder: Path) -> int:
    """Return the peak memory of a process of its own."""
    code = PEAK.format(body=SETUP + body)
    return int(subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, text=True).stdout)


def print_speeds(folder: Path, repeats: int) -> None:
    """Print MB/s of each way to encode, and its ratio to merging by hand."""
    from llama_minimal.tokenizer import HuggingFaceTokenizer, Tokenizer

    ours, library = Tokenizer.load(folder), HuggingFaceTokenizer(folder)
    with (folder / "text.txt").open(encoding="utf-8") as file:
        blocks = [file.read(1 << 18) for _ in range(24)]
    ways = {
        "by hand (encode)": lambda: [ours.encode(block) for block in blocks],
        "corpus (encode_iterable)": lambda: list(ours.encode_iterable(blocks)),
        "library (encode_batch)": lambda: library.encode_batch(blocks),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, encode in ways.items():
            start = time.perf_counter()
            encode()
            seconds[name].append(time.perf_counter() - start)
    first, *_ = seconds.values()
    n = sum(map(len, blocks))
    for name, taken in seconds.items():
        ratios = sorted(a / b for a, b in zip(first, taken, strict=True))
        speed = n / statistics.median(taken) / 1e6
        print(f"{name:<26} {speed:6.1f} MB/s  {statistics.median(ratios):5.2f}× ({ratios[0]:.2f}–{ratios[-1]:.2f})")


def main() -> None:
    """Generate the text, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    from llama_minimal.tokenizer import Tokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "text.txt", args.megabytes * 1_000_000)
        with (folder / "text.txt").open(encoding="utf-8") as file:
            Tokenizer.train([file.read(4_000_000)], vocab_size=1024).save(folder)
        least = 0
        for name, body in PIPELINES.items():
            start = time.perf_counter()
            peak = peak_bytes(body, folder)
            least = least or peak
            taken = time.perf_counter() - start
            print(f"{name:<26} {(peak - least) / 1e6:6.0f} MB above {least / 1e6:.0f} MB, {taken:.0f} s")
        print_speeds(folder, args.repeats)


if __name__ == "__main__":
    main()
