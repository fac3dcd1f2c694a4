"""Sound: reading and writing WAV files, and changing the sampling rate."""

# n samples of one channel, floats from -1 to 1

import os
import wave
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from llama_minimal.config.checks import check_integer

_WIDTHS = {1: (torch.uint8, 128, 128), 2: (torch.int16, 0, 1 << 15)}  # bytes: type, zero, largest value


def read_wav(path: str | os.PathLike, *, rate: int) -> Tensor:
    """Return the samples of a WAV file, (n,), from -1 to 1.

    Args:
        path: a file with one channel of 8 or 16 bits a sample, not compressed.
        rate: samples a second that the file has to have.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no WAV file, is empty or cut off, or has another rate, width or number of channels.
    """
    path = Path(path).expanduser()
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, found, n, *_ = file.getparams()
            data = file.readframes(n)
    except (wave.Error, EOFError) as error:
        why = str(error) or "it ends too early"
        raise ValueError(f"{path} is no WAV file that can be read ({why}); write PCM") from None
    if channels != 1:
        raise ValueError(f"{path} has {channels} channels; give a file with one (mono)")
    if width not in _WIDTHS:
        raise ValueError(f"{path} has {8 * width} bits a sample; write it with 8 or 16")
    if found != rate:
        raise ValueError(f"{path} has {found:,} samples a second, and {rate:,} are needed; write it anew, or resample")
    if not n:
        raise ValueError(f"{path} is empty; give a file with sound in it")
    if len(data) != n * width:
        raise ValueError(f"{path} is cut off: {n:,} samples are promised, and {len(data) // width:,} are there")
    kind, zero, largest = _WIDTHS[width]
    return (torch.frombuffer(bytearray(data), dtype=kind).float() - zero) / largest


def write_wav(path: str | os.PathLike, samples: Tensor, *, rate: int, bits: int = 16) -> None:
    """Write samples as a WAV file with one channel; what is louder than 1 is cut.

    Args:
        samples: (n,), from -1 to 1.
        rate: samples a second.
        bits: 8 or 16 a sample.

    Raises:
        ValueError: if ``samples``, ``rate`` or ``bits`` are not such.
    """
    check_samples(samples)
    check_integer("rate", rate)
    if 8 * (bits // 8) != bits or bits // 8 not in _WIDTHS:
        raise ValueError(f"bits={bits} must be 8 or 16")
    kind, zero, largest = _WIDTHS[bits // 8]
    numbers = (samples.detach().cpu() * largest).round().clamp(-largest, largest - 1) + zero
    with wave.open(str(Path(path).expanduser()), "wb") as file:
        file.setparams((1, bits // 8, rate, len(samples), "NONE", "not compressed"))
        file.writeframes(numbers.to(kind).numpy().tobytes())


def resample(samples: Tensor, *, rate: int, to: int) -> Tensor:
    """Return the sound at another rate, (n·to/rate,): what it has below half of both rates stays, the rest is cut.

    The spectrum of the whole is cut off, or filled up with zeros, and turned back into samples.

    Args:
        samples: (n,).
        rate, to: samples a second, before and after.

    Raises:
        ValueError: if ``samples`` are no sound, or a rate is no whole number above 0.
    """
    check_samples(samples)
    ratio = Fraction(check_integer("to", to), check_integer("rate", rate))
    whole = -(-len(samples) // ratio.denominator) * ratio.denominator  # so that the new length is a whole number
    n = whole * ratio.numerator // ratio.denominator
    spectrum = torch.fft.rfft(samples, n=whole)[: n // 2 + 1]
    return torch.fft.irfft(spectrum, n=n) * (n / whole)


def check_samples(samples: Tensor) -> None:
    """Refuse what is no sound of one channel.

    Raises:
        ValueError: if ``samples`` are not floats of shape (n,), or some are nan or infinite.
    """
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        found = samples.dtype if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(f"samples are {found}, not a tensor of floats; divide whole numbers by the largest first")
    if samples.dim() != 1:
        raise ValueError(f"samples of shape {tuple(samples.shape)} must be (n,): one sound, of one channel")
    if not len(samples):
        raise ValueError("there are no samples; give a sound of at least one window")
    if not samples.isfinite().all():
        raise ValueError(f"{int((~samples.isfinite()).sum())} samples are nan or infinite; mend the sound first")
