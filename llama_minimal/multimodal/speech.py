"""Sound as a sentence: log-mel frames, several of which make a token."""

# B batch, n samples, T frames, W window, F frequencies, M mel bands, S frames of a token

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from llama_minimal.config.checks import check_integer
from llama_minimal.multimodal.audio import check_samples
from llama_minimal.multimodal.speech_digits import RATE, SpokenDigit, spoken_digit

WIDTH, HOP, N_FFT = 200, 80, 256  # at 8 kHz a frame of 25 ms every 10 ms
N_MELS = 32
STACKED = 4  # frames of a token: 40 ms
FLOOR = 1e-3  # of a band's power; about 50 dB below a loud vowel
SPREAD = 4.0  # about the standard deviation of a log-mel value: a model reads numbers around 1


def mel_filters(n_mels: int = N_MELS, n_fft: int = N_FFT, *, rate: int = RATE) -> Tensor:
    """Return how much of each frequency belongs to each band, (F, M): triangles that are even on the mel scale.

    Raises:
        ValueError: if there are so many bands that one would lie between two frequencies, and hear nothing.
    """
    for name, value in (("n_mels", n_mels), ("n_fft", n_fft), ("rate", rate)):
        check_integer(name, value)
    top = 2595 * math.log10(1 + rate / 2 / 700)
    points = 700 * (10 ** (torch.linspace(0, top, n_mels + 2, dtype=torch.float64) / 2595) - 1)  # (M + 2,)
    hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * rate / n_fft  # (F, 1)
    low, center, high = points[:-2], points[1:-1], points[2:]
    filters = torch.minimum((hz - low) / (center - low), (high - hz) / (high - center)).clamp(min=0)
    if deaf := int((filters.amax(dim=0) == 0).sum()):
        raise ValueError(
            f"{deaf} of {n_mels} bands lie between two frequencies, which are {rate / n_fft:g} Hz apart, and would "
            "hear nothing; ask for fewer bands, or a larger n_fft"
        )
    return filters.float()


def cut_frames(samples: Tensor, width: int = WIDTH, hop: int = HOP) -> Tensor:
    """Return the frames of a sound, (…, T, W): W samples each, every ``hop`` samples another.

    T = 1 + ⌊(n − W) / hop⌋.

    Args:
        samples: (…, n).

    Raises:
        ValueError: if the sound is shorter than a frame.
    """
    for name, value in (("width", width), ("hop", hop)):
        check_integer(name, value)
    if samples.size(-1) < width:
        raise ValueError(f"a sound of {samples.size(-1)} samples is shorter than a frame of {width}; add silence")
    return samples.unfold(-1, width, hop)


def log_mel(
    samples: Tensor, *, rate: int = RATE, width: int = WIDTH, hop: int = HOP, n_fft: int = N_FFT, n_mels: int = N_MELS
) -> Tensor:
    """Return the log-mel spectrogram of a sound, (T, M): ln max(power of the windowed frame · filters, 10⁻³).

    Args:
        samples: (n,), floats from -1 to 1.
        rate: samples a second.
        width, hop: samples of a frame, and from one to the next.
        n_fft: samples of a frame that is filled up with zeros; F = n_fft / 2 + 1 frequencies.
        n_mels: bands, M.

    Raises:
        ValueError: if ``samples`` are no sound, or shorter than a frame; or the bands are too many.
    """
    check_samples(samples)
    if not 1 <= hop <= width <= n_fft:
        raise ValueError(f"hop={hop}, width={width}, n_fft={n_fft} must not fall: hop ≤ width ≤ n_fft")
    window = torch.hann_window(width, dtype=samples.dtype, device=samples.device)
    power = torch.fft.rfft(cut_frames(samples, width, hop) * window, n=n_fft).abs() ** 2  # (T, F)
    return (power @ mel_filters(n_mels, n_fft, rate=rate).to(power)).clamp(min=FLOOR).log()


def stack_frames(frames: Tensor, n: int = STACKED) -> Tensor:
    """Return n frames side by side as one row, (T/n, n·M).

    Args:
        frames: (T, M), T divisible by n.

    Raises:
        ValueError: if frames would be left over.
    """
    if frames.dim() != 2:
        raise ValueError(f"frames of shape {tuple(frames.shape)} must be (T, M): the bands of each frame")
    if frames.size(0) % check_integer("n", n):
        raise ValueError(f"{frames.size(0)} frames are not divisible by {n}; add silence (fill_up does)")
    return frames.reshape(-1, n * frames.size(1))


def fill_up(samples: Tensor, n: int = STACKED) -> Tensor:
    """Return a sound with silence at its end, so that its frames make whole tokens of n frames and none is cut off."""
    tokens = max(1, math.ceil(((len(samples) - WIDTH) / HOP + 1) / check_integer("n", n)))
    return pad(samples, (0, WIDTH + HOP * (n * tokens - 1) - len(samples)))


def speech_features(samples: Tensor) -> Tensor:
    """Return what a model reads of a sound, a row for each token of 40 ms: (tokens, 128), numbers around 0.

    Each band's mean over the sound is taken off: it holds the voice and the microphone more than the words.

    Args:
        samples: (n,), floats from -1 to 1, 8,000 a second.

    Raises:
        ValueError: if ``samples`` are no sound.
    """
    check_samples(samples)
    frames = log_mel(fill_up(samples))
    return stack_frames((frames - frames.mean(dim=0)) / SPREAD)


@cache
def spoken_digit_features(digit: int, voice: str, language: str = "en") -> tuple[Tensor, SpokenDigit]:
    """Return one spoken digit as a model reads it, (tokens, 128), and the recording with its voice and word.

    Asked for again, it is the same tensor.

    Raises:
        ValueError: if there is no such digit, voice or language.
    """
    recording = spoken_digit(digit, voice, language)
    return speech_features(pad(recording.samples, (HOP, HOP))), recording
