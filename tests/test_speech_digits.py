"""Sound files, and the spoken digits that the package brings."""

import itertools
import json
import shutil
import wave

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from scipy.signal import resample as scipy_resample

from llama_minimal.multimodal import make_digits
from llama_minimal.multimodal.audio import read_wav, resample, write_wav
from llama_minimal.multimodal.speech import log_mel
from llama_minimal.multimodal.speech_digits import (
    FOLDER,
    INDEX,
    RATE,
    SPEAKERS,
    WORDS,
    say_digits,
    spoken_digit,
    voices,
)


def write(path, *, channels=1, width=2, rate=8000, data=b"\0\0" * 100):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        file.writeframes(data)
    return path


@pytest.mark.parametrize("bits", [8, 16])
def test_a_sound_comes_back_from_its_file_and_another_library_reads_the_same(tmp_path, bits):
    samples = torch.linspace(-1, 0.99, 500)
    write_wav(tmp_path / "a.wav", samples, rate=8000, bits=bits)
    again = read_wav(tmp_path / "a.wav", rate=8000)
    assert (again - samples).abs().max() <= 0.5001 / 2 ** (bits - 1)
    rate, theirs = wavfile.read(tmp_path / "a.wav")
    assert rate == 8000
    zero, largest = {8: (128, 128), 16: (0, 32768)}[bits]
    np.testing.assert_array_equal(again.numpy(), ((theirs.astype(np.float32) - zero) / largest))


def test_what_is_too_loud_is_cut_and_does_not_wrap_around(tmp_path):
    for bits in (8, 16):
        write_wav(tmp_path / "a.wav", torch.tensor([3.0, -3.0, 1.0]), rate=8000, bits=bits)
        loud, low, one = read_wav(tmp_path / "a.wav", rate=8000).tolist()
        assert loud == one > 0.99
        assert low == -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "2 channels; give a file with one"),
        ({"rate": 22050}, "22,050 samples a second, and 8,000 are needed"),
        ({"width": 3, "data": b"\0" * 300}, "24 bits a sample; write it with 8 or 16"),
        ({"width": 4, "data": b"\0" * 400}, "32 bits"),
        ({"data": b""}, "is empty"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_to_do(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_wav(write(tmp_path / "a.wav", **change), rate=8000)


def test_what_is_no_whole_wav_file_is_refused(tmp_path):
    whole = write(tmp_path / "a.wav").read_bytes()
    with pytest.raises(FileNotFoundError):
        read_wav(tmp_path / "missing.wav", rate=8000)
    for n in (0, 3, 11, 30, 43):
        (tmp_path / "b.wav").write_bytes(whole[:n])
        with pytest.raises(ValueError, match="no WAV file"):
            read_wav(tmp_path / "b.wav", rate=8000)
    (tmp_path / "b.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"read \(it ends too early\); write PCM"):
        read_wav(tmp_path / "b.wav", rate=8000)
    for n in (45, 144, len(whole) - 1):
        (tmp_path / "b.wav").write_bytes(whole[:n])
        with pytest.raises(ValueError, match="cut off: 100 samples are promised"):
            read_wav(tmp_path / "b.wav", rate=8000)
    (tmp_path / "b.wav").write_bytes(b"\x89PNG" + whole)
    with pytest.raises(ValueError, match="no WAV file"):
        read_wav(tmp_path / "b.wav", rate=8000)
    wavfile.write(tmp_path / "c.wav", 8000, np.zeros(50, np.float32))  # floats, which `wave` does not read
    with pytest.raises(ValueError, match="no WAV file that can be read"):
        read_wav(tmp_path / "c.wav", rate=8000)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(0), "no samples"),
        (torch.zeros(2, 400), r"shape \(2, 400\) must be \(n,\)"),
        (torch.zeros(400, dtype=torch.int16), "int16, not a tensor of floats"),
        (np.zeros(400), "ndarray, not a tensor"),
        (torch.full((400,), torch.nan), "400 samples are nan"),
        (torch.tensor([0.0, torch.inf] * 200), "200 samples are nan or infinite"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path, samples, message):
    for use in (
        log_mel,
        lambda x: resample(x, rate=8000, to=4000),
        lambda x: write_wav(tmp_path / "a.wav", x, rate=8000),
    ):
        with pytest.raises(ValueError, match=message):
            use(samples)
    assert not (tmp_path / "a.wav").exists()


def test_resampling_keeps_a_tone_that_fits_and_drops_one_that_does_not():
    t = torch.arange(22050, dtype=torch.float64) / 22050
    low, high = (torch.sin(2 * torch.pi * hz * t) for hz in (440, 5000))
    got = resample(low + high, rate=22050, to=8000)
    assert len(got) == 8000
    torch.testing.assert_close(got, torch.sin(2 * torch.pi * 440 * torch.arange(8000).double() / 8000))


@pytest.mark.parametrize(("n", "rate", "to"), [(441, 22050, 8000), (300, 3, 2), (299, 3, 2), (200, 1, 3), (77, 7, 7)])
def test_resampling_is_that_of_scipy(n, rate, to):
    samples = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    got = resample(samples, rate=rate, to=to)
    filled = np.concatenate([samples.numpy(), np.zeros(len(got) * rate // to - n)])
    same = min(len(got), len(filled)) // 2  # at half of the lower rate the two treat the last frequency differently
    spectra = [np.fft.rfft(x)[:same] for x in (got.numpy(), scipy_resample(filled, len(got)))]
    np.testing.assert_allclose(*spectra, atol=1e-10)
    with pytest.raises(ValueError, match=r"(rate|to)=0 must be a whole number of at least 1"):
        resample(samples, rate=0, to=to)


def test_the_package_brings_360_recordings_in_less_than_a_megabyte():
    files = sorted(FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) < 1_000_000
    names = {f"{voice}_{language}" for voice in SPEAKERS for language in WORDS}
    assert {path.name for path in files} == {f"{name}.wav" for name in names} | {INDEX, "README.md"}
    ends = json.loads((FOLDER / INDEX).read_text(encoding="utf-8"))
    for voice, language in itertools.product(SPEAKERS, WORDS):
        numbers = ends[f"{voice}_{language}"]
        assert len(read_wav(FOLDER / f"{voice}_{language}.wav", rate=RATE)) == numbers[-1]
        for digit in range(10):
            one = spoken_digit(digit, voice, language)
            assert 0.1 < len(one.samples) / RATE < 0.5
            assert 0.85 < one.samples.abs().max() < 0.95
            assert (one.digit, one.voice, one.language) == (digit, voice, language)
            assert one.word == WORDS[language][digit]


def test_no_two_voices_are_the_same_and_the_tests_are_far_from_all_others():
    """espeak-ng drops a variant that it cannot give, in silence: then voices with two names are one."""

    def spectrum(voice):
        words = [log_mel(spoken_digit(digit, voice).samples).T[None] for digit in range(10)]
        rows = torch.stack([torch.nn.functional.interpolate(word, size=16)[0] for word in words])
        return rows - rows.mean((0, 2), keepdim=True)

    spectra = {voice: spectrum(voice) for voice in SPEAKERS}

    def distance(a, b):
        return (spectra[a] - spectra[b]).pow(2).mean().sqrt().item()

    assert min(distance(a, b) for a, b in itertools.combinations(SPEAKERS, 2)) > 0.9
    assert min(distance(a, b) for a in voices("test") for b in SPEAKERS if a != b) > 1.8
    speakers = [SPEAKERS[voice] for voice in SPEAKERS]
    assert len({speaker.variant for speaker in speakers}) == len(speakers) == 18
    assert [len(voices(group)) for group in ("train", "choose", "test")] == [13, 2, 3]


def test_several_digits_are_said_one_after_the_other():
    pauses = [5, 0, 30, 7]
    sound = say_digits([3, 3, 0], "gina", "zh", pauses=pauses)
    three, zero = (spoken_digit(digit, "gina", "zh").samples for digit in (3, 0))
    silence = [torch.zeros(n) for n in pauses]
    assert torch.equal(sound, torch.cat([silence[0], three, three, silence[2], zero, silence[3]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spoken_digit(10, "adam"), "digit=10 must be a whole number from 0 to 9"),
        (lambda: spoken_digit(3.0, "adam"), "digit=3.0"),
        (lambda: spoken_digit(3, "zoe"), "no voice 'zoe'; there are adam, bert"),
        (lambda: spoken_digit(3, "adam", "de"), "language='de' is none of en, zh"),
        (lambda: voices("all"), "none of train, choose, test"),
        (lambda: say_digits([], "adam"), "0 digits need 1 pauses"),
        (lambda: say_digits([1], "adam", pauses=[1]), "1 digits need 2 pauses"),
        (lambda: say_digits([1], "adam", pauses=-1), "0 samples or more"),
    ],
)
def test_what_was_never_said_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_command_makes_these_recordings():
    version = make_digits.version()
    if version != make_digits.VERSION:
        pytest.skip(f"espeak-ng {version} is installed; the recordings are by {make_digits.VERSION}")
    for voice, language, digit in (("adam", "en", 7), ("gina", "zh", 3), ("jack", "en", 0)):
        made = make_digits.say(WORDS[language][digit], language, SPEAKERS[voice])
        shipped = spoken_digit(digit, voice, language).samples
        assert len(made) == len(shipped)
        assert (made - shipped).abs().max() < 0.6 / 128  # 8 bits a sample
