"""From units back to sound, without a learned vocoder: a spectrum for each unit, and phases that fit (Griffin-Lim)."""

# n samples, T frames, W window, F frequencies, M mel bands, U units

import torch
from torch import Tensor

from llama_minimal.multimodal.speech import (
    FLOOR,
    HOP,
    N_FFT,
    N_MELS,
    STACKED,
    WIDTH,
    cut_frames,
    fill_up,
    log_mel,
    mel_filters,
    stack_frames,
)
from llama_minimal.multimodal.vision import CodeBook


def inverse_frames(frames: Tensor, hop: int = HOP) -> Tensor:
    """Return the sound whose windowed frames are closest to these, (n,): Σ w·frame / Σ w², each at its place.

    Args:
        frames: (T, W), windowed with Hann's window of their width.
        hop: samples from the beginning of a frame to that of the next.

    Source: Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform".
    """
    n_frames, width = frames.shape
    window = torch.hann_window(width, dtype=frames.dtype)
    places = (hop * torch.arange(n_frames)[:, None] + torch.arange(width)).flatten()
    n = width + hop * (n_frames - 1)
    total = torch.zeros(n, dtype=frames.dtype).index_add_(0, places, (window * frames).flatten())
    weight = torch.zeros(n, dtype=frames.dtype).index_add_(0, places, (window**2).repeat(n_frames))
    return total / weight.clamp(min=1e-3)


def griffin_lim(magnitude: Tensor, *, rounds: int = 30, seed: int = 0) -> Tensor:
    """Return a sound whose spectrogram is close to this one, (n,), n = W + hop · (T − 1).

    A spectrogram says how strong each frequency is, not where in its swing it is. Begin with phases at random; then
    again and again make a sound of them, take the phases of *its* spectrum, and keep the given magnitudes. The
    distance between the two spectrograms never rises.

    Args:
        magnitude: (T, F), not squared.
        rounds: how often.
        seed: of the first phases.

    Source: Griffin and Lim 1984, as above.
    """
    generator = torch.Generator().manual_seed(seed)
    phase = torch.exp(2j * torch.pi * torch.rand(magnitude.shape, generator=generator)).to(
        torch.promote_types(magnitude.dtype, torch.complex64)
    )
    window = torch.hann_window(WIDTH, dtype=magnitude.dtype)
    for _ in range(rounds):
        sound = inverse_frames(torch.fft.irfft(magnitude * phase, n=N_FFT)[:, :WIDTH])
        spectrum = torch.fft.rfft(cut_frames(sound) * window, n=N_FFT)
        phase = spectrum / spectrum.abs().clamp(min=1e-9)
    return inverse_frames(torch.fft.irfft(magnitude * phase, n=N_FFT)[:, :WIDTH])


def spread_bands(frames: Tensor) -> Tensor:
    """Return the magnitude of each frequency, (T, F), from log-mel frames (T, M).

    A frequency gets the mean power of one frequency in its bands, weighted by its part in each. Bands at the floor
    are silent.
    """
    filters = mel_filters(frames.size(1)).to(frames)  # (F, M)
    power = (frames.exp() - FLOOR).clamp(min=0) / filters.sum(dim=0)  # (T, M): of one frequency
    weights = filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-9)  # (F, M): rows add up to 1
    return (power @ weights.T).sqrt()


class SpeechUnits:
    """Cut sound into units of 40 ms from a code book, and make sound of them.

    Args:
        book: of U centers of 128 numbers, each four log-mel frames side by side.
    """

    def __init__(self, book: CodeBook) -> None:
        if book.centers.dim() != 2 or book.centers.size(1) != STACKED * N_MELS:
            raise ValueError(f"centers of shape {tuple(book.centers.shape)} must be (U, {STACKED * N_MELS})")
        self.book = book

    def __len__(self) -> int:
        return len(self.book.centers)

    @classmethod
    def learn(cls, sounds: list[Tensor], n_units: int, *, seed: int = 0) -> "SpeechUnits":
        """Find units in sounds, each (n,), by k-means, as ``vision.CodeBook`` finds typical patches.

        Raises:
            ValueError: if the sounds have fewer different pieces than units.
        """
        return cls(CodeBook.fit(torch.cat([_pieces(sound) for sound in sounds]), n_units, seed=seed))

    def encode(self, samples: Tensor) -> list[int]:
        """Return the units of a sound, one for each 40 ms."""
        return self.book.encode(_pieces(samples)).tolist()

    def frames(self, units: list[int]) -> Tensor:
        """Return the log-mel frames that units stand for, (4 · units, 32).

        Raises:
            ValueError: if there are no units, or one is not in the code book.
        """
        if not units or not all(0 <= unit < len(self) for unit in units):
            raise ValueError(f"units {list(units)[:8]} must be one or more numbers from 0 to {len(self) - 1}")
        return self.book.decode(torch.tensor(units)).reshape(-1, N_MELS)

    def decode(self, units: list[int], *, rounds: int = 30, seed: int = 0) -> Tensor:
        """Return a sound for units, (n,), its loudest sample at 0.9 or less.

        Raises:
            ValueError: as ``frames``.
        """
        sound = griffin_lim(spread_bands(self.frames(units)), rounds=rounds, seed=seed)
        return sound * (0.9 / sound.abs().max().clamp(min=0.9))


def _pieces(samples: Tensor) -> Tensor:
    return stack_frames(log_mel(fill_up(samples)))
