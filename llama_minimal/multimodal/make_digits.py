"""Make the spoken digits that the package brings: ``python -m llama_minimal.multimodal.make_digits [FOLDER]``.

It needs the speech synthesizer espeak-ng 1.51 (``apt install espeak-ng``); reading the digits needs nothing.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from llama_minimal.multimodal.audio import read_wav, resample, write_wav
from llama_minimal.multimodal.speech_digits import FOLDER, INDEX, RATE, SPEAKERS, WORDS, Speaker

VERSION = "1.51"
_ESPEAK_RATE = 22_050
_QUIET = 0.02  # of the loudest sample: where a word begins and ends


def version() -> str:
    """Return the version of the espeak-ng that is installed."""
    command = ["espeak-ng", "--version"]
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout.split()[3]


def say(word: str, language: str, speaker: Speaker) -> Tensor:
    """Return a word as espeak-ng speaks it, (n,) at 8 kHz, without the silence around it, its loudest sample at 0.9.

    Raises:
        FileNotFoundError: if espeak-ng is not installed.
        subprocess.CalledProcessError: if it fails.
    """
    voice = f"{speaker.accent if language == 'en' else 'cmn'}+{speaker.variant}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        command = ["espeak-ng", "-v", voice, "-s", str(speaker.speed), "-p", str(speaker.pitch), "-z", "-w", str(path)]
        subprocess.run([*command, word], check=True, timeout=60, capture_output=True)
        samples = resample(read_wav(path, rate=_ESPEAK_RATE), rate=_ESPEAK_RATE, to=RATE)
    loud = (samples.abs() > _QUIET * samples.abs().max()).nonzero()
    samples = samples[int(loud[0]) : int(loud[-1]) + 1]
    return 0.9 * samples / samples.abs().max()


def make(folder: Path) -> None:
    """Write a WAV file for each speaker and language, the ten digits one after the other, and where each ends."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = {}
    for name, speaker in SPEAKERS.items():
        for language, words in WORDS.items():
            spoken = [say(word, language, speaker) for word in words]
            write_wav(folder / f"{name}_{language}.wav", torch.cat(spoken), rate=RATE, bits=8)
            ends[f"{name}_{language}"] = torch.tensor([len(word) for word in spoken]).cumsum(0).tolist()
    lines = ",\n".join(f'"{name}": {json.dumps(numbers)}' for name, numbers in sorted(ends.items()))
    (folder / INDEX).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
