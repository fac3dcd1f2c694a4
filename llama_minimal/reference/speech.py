"""Sound for a language model: frames, their spectrum, mel bands; sound from frames again; and errors in words."""

# n samples, T frames, W window, F frequencies, M mel bands

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def hz_to_mel(hz: Array | float) -> Array | float:
    """Return where a frequency lies for the ear: 2595 · log₁₀(1 + hz / 700), even below 1 kHz, then logarithmic.

    Source: the formula of O'Shaughnessy, as in the toolkit HTK and, as "htk", in transformers and torchaudio.
    """
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def mel_to_hz(mel: Array | float) -> Array | float:
    """Return the frequency of a place on the mel scale: 700 · (10^(mel / 2595) − 1)."""
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


def hann_window(width: int) -> Array:
    """Return the bell sin²(π i / W), (W,), which lets a frame fade in and out; the next period would begin with 0."""
    return np.sin(np.pi * np.arange(width) / width) ** 2


def cut_frames(samples: Array, width: int, hop: int) -> Array:
    """Return the frames of a sound, (T, W): W samples each, every ``hop`` samples another, T = 1 + ⌊(n − W) / hop⌋.

    Args:
        samples: (n,), at least W of them.
        width: samples in a frame, W.
        hop: samples from the beginning of a frame to that of the next.
    """
    starts = hop * np.arange(1 + (len(samples) - width) // hop)
    return samples[starts[:, None] + np.arange(width)]


def dft_power(frames: Array, n_fft: int) -> Array:
    """Return how strong each frequency is in each frame, (T, F): |Σ xᵢ e^(−2πi·f·i / n_fft)|², f = 0 … n_fft / 2.

    The transform is two matrix products, with cosines and with sines. Frames shorter than ``n_fft`` count as filled
    up with zeros.
    """
    angles = 2 * np.pi * np.outer(np.arange(frames.shape[-1]), np.arange(n_fft // 2 + 1)) / n_fft  # (W, F)
    return (frames @ np.cos(angles)) ** 2 + (frames @ np.sin(angles)) ** 2


def mel_filters(n_mels: int, n_fft: int, rate: int) -> Array:
    """Return how much of each frequency belongs to each band, (F, M).

    The bands are triangles over the frequencies: each rises from the center of the one before to 1 at its own, and
    falls to that of the next. The centers, and the ends at 0 and rate / 2, lie evenly on the mel scale.
    """
    points = mel_to_hz(np.linspace(0, hz_to_mel(rate / 2), n_mels + 2))  # (M + 2,)
    hz = np.arange(n_fft // 2 + 1)[:, None] * rate / n_fft  # (F, 1)
    low, center, high = points[:-2], points[1:-1], points[2:]
    return np.maximum(0, np.minimum((hz - low) / (center - low), (high - hz) / (high - center)))


def log_mel(
    samples: Array, *, rate: int = 8000, width: int = 200, hop: int = 80, n_fft: int = 256, n_mels: int = 32
) -> Array:
    """Return the log-mel spectrogram of a sound, (T, M): ln max(power of the windowed frame · filters, 10⁻³).

    The floor keeps silence finite; it lies about 50 dB below a loud vowel.
    """
    frames = cut_frames(samples, width, hop) * hann_window(width)
    return np.log(np.maximum(dft_power(frames, n_fft) @ mel_filters(n_mels, n_fft, rate), 1e-3))


def inverse_frames(frames: Array, hop: int) -> Array:
    """Return the sound whose windowed frames are closest to these, (n,): Σ w·frame / Σ w², each at its place.

    Where the frames are those of a sound, windowed, it is that sound. At the ends, where the window is close to 0, so
    is the sound. Source: Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform".

    Args:
        frames: (T, W), windowed with ``hann_window(W)``.
        hop: samples from the beginning of a frame to that of the next.
    """
    width = frames.shape[1]
    window = hann_window(width)
    total, weight = np.zeros((2, width + hop * (len(frames) - 1)))
    for t, frame in enumerate(frames):
        total[hop * t : hop * t + width] += window * frame
        weight[hop * t : hop * t + width] += window**2
    return total / np.maximum(weight, 1e-3)


def word_edits(heard: list[str], said: list[str]) -> int:
    """Return how many words have to be put in, left out or exchanged to make the one list of the other.

    d[i, j] = min(d[i−1, j] + 1, d[i, j−1] + 1, d[i−1, j−1] + (heardᵢ ≠ saidⱼ)), row by row.
    Source: Wagner and Fischer 1974, "The String-to-String Correction Problem".
    """
    row = list(range(len(said) + 1))
    for i, word in enumerate(heard, start=1):
        last, row = row, [i]
        for j, true in enumerate(said, start=1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (word != true)))
    return row[-1]
