"""Sound as frames, frames as units, units as sound: against transformers, torch.stft, scikit-learn, and brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from transformers import audio_utils

from llama_minimal import reference
from llama_minimal.multimodal.speech import (
    FLOOR,
    HOP,
    N_FFT,
    N_MELS,
    SPREAD,
    WIDTH,
    cut_frames,
    fill_up,
    log_mel,
    mel_filters,
    speech_features,
    spoken_digit_features,
    stack_frames,
)
from llama_minimal.multimodal.speech_digits import WORDS, say_digits, spoken_digit, voices
from llama_minimal.multimodal.speech_synthesis import SpeechUnits, griffin_lim, inverse_frames, spread_bands
from llama_minimal.multimodal.vision import CodeBook

OTHER = {"rate": 16000, "width": 400, "hop": 160, "n_fft": 512, "n_mels": 40}
USUAL = {"rate": 8000, "width": WIDTH, "hop": HOP, "n_fft": N_FFT, "n_mels": N_MELS}


def noise(n, seed=0, dtype=torch.float64):
    return 0.3 * torch.randn(n, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def speech():
    return say_digits([4, 0, 7], "cleo").double()


@pytest.mark.parametrize("settings_", [USUAL, OTHER], ids=["usual", "other"])
def test_the_filters_are_those_of_numpy_and_transformers(settings_):
    n_mels, n_fft, rate = (settings_[name] for name in ("n_mels", "n_fft", "rate"))
    ours = mel_filters(n_mels, n_fft, rate=rate).double().numpy()
    theirs = audio_utils.mel_filter_bank(n_fft // 2 + 1, n_mels, 0, rate / 2, rate, norm=None, mel_scale="htk")
    np.testing.assert_allclose(reference.mel_filters(n_mels, n_fft, rate), theirs, atol=1e-12)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # From the first center to the last, every frequency is shared out whole.
    hz = np.arange(n_fft // 2 + 1) * rate / n_fft
    centers = hz[theirs.argmax(axis=0)]
    inner = (hz > centers[0]) & (hz < centers[-1])
    np.testing.assert_allclose(theirs[inner].sum(axis=1), 1)


@pytest.mark.parametrize("settings_", [USUAL, OTHER], ids=["usual", "other"])
@pytest.mark.parametrize("sound", [noise(3000), speech(), torch.zeros(900, dtype=torch.float64)], ids=str)
def test_the_spectrogram_is_that_of_numpy_and_transformers(settings_, sound):
    ours = log_mel(sound, **settings_).numpy()
    by_hand = reference.log_mel(sound.numpy(), **settings_)
    rate, width, hop, n_fft, n_mels = settings_.values()
    theirs = audio_utils.spectrogram(
        sound.numpy(),
        audio_utils.window_function(width, "hann"),
        frame_length=width,
        hop_length=hop,
        fft_length=n_fft,
        power=2.0,
        center=False,
        mel_filters=audio_utils.mel_filter_bank(n_fft // 2 + 1, n_mels, 0, rate / 2, rate, mel_scale="htk"),
        mel_floor=FLOOR,
        log_mel="log",
    ).T
    assert ours.shape == (1 + (len(sound) - width) // hop, n_mels)
    np.testing.assert_allclose(ours, by_hand, atol=2e-6)  # the filters of the model are float32
    np.testing.assert_allclose(by_hand, theirs, atol=1e-6)  # transformers computes in float32 in part


def test_the_power_by_sums_is_that_of_torch_stft():
    sound = speech()
    frames = reference.cut_frames(sound.numpy(), WIDTH, HOP) * reference.hann_window(WIDTH)
    before = (N_FFT - WIDTH) // 2  # torch.stft has the window in the middle of its longer frame
    after = N_FFT - WIDTH - before
    theirs = torch.stft(
        torch.nn.functional.pad(sound, (before, after)),
        N_FFT,
        hop_length=HOP,
        win_length=WIDTH,
        window=torch.hann_window(WIDTH, dtype=torch.float64),
        center=False,
        return_complex=True,
    )
    np.testing.assert_allclose(reference.dft_power(frames, N_FFT), theirs.abs().numpy().T ** 2, atol=1e-9)
    np.testing.assert_allclose(reference.hann_window(WIDTH), torch.hann_window(WIDTH, dtype=torch.float64), atol=1e-15)


def test_the_power_of_a_frame_is_its_energy():
    """Parseval: without that, a transform could be scaled by anything."""
    frame = noise(N_FFT).numpy()[None]
    power = reference.dft_power(frame, N_FFT)[0]
    assert 2 * power.sum() - power[0] - power[-1] == pytest.approx(N_FFT * (frame**2).sum())


def test_a_tone_is_heard_in_the_band_of_its_frequency():
    t = torch.arange(4000) / 8000
    for hz in (300, 700, 1500, 3000):
        loudest = log_mel(torch.sin(2 * torch.pi * hz * t)).mean(dim=0).argmax()
        edges = reference.mel_to_hz(np.linspace(0, reference.hz_to_mel(4000), N_MELS + 2))
        assert edges[loudest] < hz < edges[loudest + 2]
        assert reference.mel_to_hz(reference.hz_to_mel(hz)) == pytest.approx(hz)


@settings(max_examples=25, deadline=None)
@given(st.integers(200, 1500), st.integers(1, 60))
def test_a_later_sound_has_the_same_frames_later(n, shift):
    sound = noise(n, seed=n)
    later = torch.cat([torch.zeros(shift * HOP, dtype=torch.float64), sound])
    torch.testing.assert_close(log_mel(later)[shift:], log_mel(sound))  # a batch of another size may sum otherwise


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2500))
def test_no_sample_is_cut_off_and_less_than_a_token_is_added(n):
    filled = fill_up(torch.ones(n))
    frames = cut_frames(filled)
    assert len(frames) % 4 == 0
    assert filled.sum() == n
    assert WIDTH + HOP * (len(frames) - 1) == len(filled)
    assert len(filled) - n < max(4 * HOP, WIDTH + 3 * HOP - n + 1)
    assert len(speech_features(torch.ones(n))) == len(frames) // 4


def test_a_louder_voice_reads_the_same_but_for_the_floor():
    sound = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(speech_features(sound[:3920]), speech_features(3 * sound[:3920]), atol=2e-4, rtol=0)


def test_features_are_centered_frames_side_by_side():
    sound = say_digits([2, 8], "kurt")
    frames = log_mel(fill_up(sound))
    features = speech_features(sound)
    torch.testing.assert_close(features[3, 32:64], (frames[13] - frames.mean(dim=0)) / SPREAD)
    assert features.view(-1, N_MELS).mean(dim=0).abs().max() < 1e-5


@pytest.mark.parametrize("language", WORDS)
def test_one_digit_comes_with_its_voice_and_word(language):
    features, recording = spoken_digit_features(7, "gina", language)
    assert (recording.voice, recording.word) == ("gina", WORDS[language][7])
    assert features.shape == (features.size(0), 128)
    assert 5 < len(features) < 15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_mel(torch.zeros(199)), "199 samples is shorter than a frame of 200"),
        (lambda: log_mel(torch.zeros(2, 400)), r"must be \(n,\)"),
        (lambda: log_mel(torch.zeros(400), hop=201), "hop ≤ width ≤ n_fft"),
        (lambda: log_mel(torch.zeros(400), n_fft=128), "hop ≤ width ≤ n_fft"),
        (lambda: speech_features(torch.zeros(0)), "no samples"),
        (lambda: speech_features(torch.full((900,), math.nan)), "900 samples are nan"),
        (lambda: mel_filters(120), "of 120 bands lie between two frequencies"),
        (lambda: mel_filters(0), "n_mels=0 must be a whole number of at least 1"),
        (lambda: mel_filters(rate=0), "rate=0 must be a whole number"),
        (lambda: cut_frames(torch.zeros(400), hop=0), "hop=0 must be a whole number"),
        (lambda: fill_up(torch.zeros(400), 0), "n=0 must be a whole number"),
        (lambda: stack_frames(torch.zeros(8, 32), 0), "n=0 must be a whole number"),
        (lambda: stack_frames(torch.zeros(8)), r"shape \(8,\) must be \(T, M\)"),
        (lambda: stack_frames(torch.zeros(7, 32)), "7 frames are not divisible by 4"),
        (lambda: SpeechUnits(CodeBook(torch.zeros(3, 4))), r"\(3, 4\) must be \(U, 128\)"),
        (lambda: SpeechUnits(CodeBook(torch.zeros(3, 128))).decode([3]), "numbers from 0 to 2"),
        (lambda: SpeechUnits(CodeBook(torch.zeros(3, 128))).decode([]), "one or more numbers"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_units_are_those_of_scikit_learn_from_the_same_beginning():
    sounds = [spoken_digit(digit, voice).samples for voice in ("adam", "beth") for digit in range(10)]
    x = torch.cat([stack_frames(log_mel(fill_up(sound))) for sound in sounds]).double()
    start = CodeBook.fit(x, 12, steps=0).centers.numpy()
    theirs = KMeans(12, init=start, n_init=1, max_iter=100, tol=0, algorithm="lloyd").fit(x.numpy())
    units = SpeechUnits(CodeBook.fit(x, 12, steps=100))
    np.testing.assert_allclose(units.book.centers.numpy(), theirs.cluster_centers_, atol=1e-8)
    first = SpeechUnits(CodeBook(units.book.centers.float())).encode(sounds[0])
    assert first == theirs.labels_[: len(first)].tolist()


def test_frames_turn_back_into_the_sound_as_numpy_and_torch_say():
    sound = speech()
    window = torch.hann_window(WIDTH, dtype=torch.float64)
    whole = sound[: WIDTH + HOP * ((len(sound) - WIDTH) // HOP)]
    frames = cut_frames(whole) * window
    again = inverse_frames(frames)
    np.testing.assert_allclose(again[20:-20], whole[20:-20], atol=1e-12)
    np.testing.assert_allclose(again, reference.inverse_frames(frames.numpy(), HOP), atol=1e-12)
    mixed = frames.flip(0)  # frames of no sound: then the closest one counts
    # The best sound by least squares, over all samples at once.
    n = 3
    few = mixed[:n]
    matrix = np.zeros((n * WIDTH, WIDTH + HOP * (n - 1)))
    for t in range(n):
        matrix[t * WIDTH : (t + 1) * WIDTH, t * HOP : t * HOP + WIDTH] = np.diag(window.numpy())
    best = np.linalg.lstsq(matrix, few.numpy().ravel(), rcond=None)[0]
    np.testing.assert_allclose(inverse_frames(few)[20:-20], best[20:-20], atol=1e-9)


def test_each_round_of_griffin_lim_brings_the_spectrogram_closer():
    window = torch.hann_window(WIDTH, dtype=torch.float64)
    sound = fill_up(speech())
    magnitude = torch.fft.rfft(cut_frames(sound) * window, n=N_FFT).abs()

    def distance(rounds):
        heard = torch.fft.rfft(cut_frames(griffin_lim(magnitude, rounds=rounds)) * window, n=N_FFT).abs()
        return ((heard - magnitude) ** 2).sum().item() / (magnitude**2).sum().item()

    distances = [distance(rounds) for rounds in (0, 1, 2, 4, 8, 16, 32)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.2
    assert distances[-1] < 0.1
    assert torch.equal(griffin_lim(magnitude, rounds=2), griffin_lim(magnitude, rounds=2))
    assert not torch.equal(griffin_lim(magnitude, rounds=2), griffin_lim(magnitude, rounds=2, seed=1))


def test_bands_spread_over_frequencies_give_the_bands_again():
    frames = log_mel(fill_up(speech()))
    again = ((spread_bands(frames) ** 2) @ mel_filters().double()).clamp(min=FLOOR).log()
    assert (again - frames).pow(2).mean().sqrt() < 0.8 < 0.3 * frames.std()
    silent = torch.full((3, N_MELS), math.log(FLOOR))
    assert spread_bands(silent).max() < 1e-4


def test_units_become_a_sound_in_which_the_units_are_heard_again():
    sounds = [spoken_digit(digit, voice).samples for voice in voices("train")[:4] for digit in range(10)]
    units = SpeechUnits.learn(sounds, 48)
    sound = say_digits([5, 1, 9], "adam")
    codes = units.encode(sound)
    assert len(codes) == len(speech_features(sound))
    spoken = units.decode(codes)
    assert len(spoken) == len(fill_up(sound))
    assert spoken.abs().max() <= 0.901
    heard = log_mel(spoken)
    meant = units.frames(codes)
    assert (heard - meant).pow(2).mean().sqrt() < 0.6
    shuffled = units.frames(codes[::-1])
    assert (heard - shuffled).pow(2).mean().sqrt() > 2


def edits_by_search(a, b):
    """Try every way: take a word from either side, or one from both."""
    if not a or not b:
        return len(a) + len(b)
    exchanged = edits_by_search(a[1:], b[1:]) + (a[0] != b[0])
    return min(exchanged, 1 + edits_by_search(a[1:], b), 1 + edits_by_search(a, b[1:]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=5), st.lists(st.sampled_from("abc"), max_size=5))
def test_word_edits_are_those_of_a_search_through_all(a, b):
    assert reference.word_edits(a, b) == edits_by_search(a, b) == reference.word_edits(b, a)
