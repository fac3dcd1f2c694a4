"""Listening and speaking as examples for a model, the word error, and the experiment that measures both."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal import reference
from llama_minimal.course.experiments import speech as experiment
from llama_minimal.multimodal.speech_digits import WORDS, spoken_digit, voices
from llama_minimal.multimodal.speech_synthesis import SpeechUnits
from llama_minimal.multimodal.speech_task import (
    SOUND,
    UNIT,
    digits_text,
    draw_digits,
    even_utterance,
    is_held_out,
    listening,
    say,
    speaking,
    speaking_prompt,
    transcribe,
    utterance,
    utterances,
    word_edits,
    word_error,
)


@pytest.fixture(scope="module")
def parts():
    return experiment.parts()


@pytest.fixture(scope="module")
def units():
    said = [even_utterance([digit], "adam", language).samples for language in WORDS for digit in range(10)]
    return SpeechUnits.learn(said, experiment.N_UNITS)


def test_digits_in_words():
    assert digits_text([3, 0], "en") == " three zero"
    assert digits_text([3, 0], "zh") == "三零"


def test_what_is_held_out_is_never_in_a_training_and_always_in_the_test():
    rng = np.random.default_rng(0)
    training = {draw_digits(rng, (1, 2, 3)) for _ in range(3000)}
    test = {draw_digits(rng, [3], held_out=True) for _ in range(300)}
    assert {len(digits) for digits in training} == {1, 2, 3}
    assert {len(digits) for digits in test} == {3}
    assert not training & test
    assert {digit for digits in training for digit in digits} == set(range(10))
    assert not any(is_held_out([digit]) for digit in range(10))
    for one in experiment.tests_of("gina", 3) + experiment.tests_of("gina", 2):
        assert one.digits not in training
        assert one.voice == "gina"


def test_the_same_seed_says_the_same_and_another_says_something_else():
    first, again, other = (utterances(5, voices("train"), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.samples, b.samples) and a[1:] == b[1:] for a, b in zip(first, again, strict=True))
    assert [one.digits for one in first] != [one.digits for one in other]


def test_a_smooth_utterance_is_the_recordings_and_a_rough_one_is_near_in_length():
    rng = np.random.default_rng(3)
    smooth = utterance([4, 4], "bert", "en", rng)
    recording = spoken_digit(4, "bert").samples
    n = len(recording)
    windows = smooth.samples.unfold(0, n, 1)
    found = (windows - recording).abs().amax(dim=1) == 0
    assert found.sum() == 2
    rough = utterance([4, 4], "bert", "en", rng, rough=True)
    assert 0.86 * 2 * n < len(rough.samples) < 1.16 * (2 * n + 3 * 800)


def test_a_listener_reads_the_features_and_learns_the_words(parts):
    tokenizer, vocabulary = parts
    said = utterance([7, 2], "anna", "zh", np.random.default_rng(0))
    example = listening(tokenizer, vocabulary, said)
    assert tokenizer.decode(example.answer[:-1]) == "七二"
    assert example.answer[-1] == tokenizer.eos_id
    assert example.prompt.ids.count(vocabulary.placeholder(SOUND)) == len(example.prompt.features[SOUND])


def test_a_speaker_reads_voice_and_words_and_learns_the_units(parts, units):
    tokenizer, vocabulary = parts
    said = even_utterance([7, 2], "adam", "en")
    example = speaking(tokenizer, vocabulary, units, said)
    assert tokenizer.decode(example.prompt.ids[1:]) == "adam says seven two:"
    first = vocabulary.code_ids(UNIT)[0]
    assert [token - first for token in example.answer[:-1]] == units.encode(said.samples)


def test_a_word_that_begins_a_token_has_the_same_units_in_every_sentence(units):
    for digits in ([3, 7], [9, 0, 3], [1, 1]):
        said = even_utterance(digits, "adam", "en")
        whole, start = units.encode(said.samples), 1
        for digit in digits:
            alone = units.encode(even_utterance([digit], "adam", "en").samples)
            word = 1 + -(-len(spoken_digit(digit, "adam").samples) // 320)  # with the pause, in tokens of 40 ms
            same = [a == b for a, b in zip(whole[start : start + word - 1], alone[1:word], strict=False)]
            assert np.mean(same) > 0.8
            start += word


def test_two_words_are_learned_by_ear_and_by_mouth(parts, units):
    """The whole way, small: five sounds of two words to listen to, two texts to say."""
    tokenizer, vocabulary = parts
    said = [even_utterance([digit], "adam", "en") for digit in (3, 8)]
    model, losses = experiment.train(
        [listening(tokenizer, vocabulary, one) for one in said] * 4, seed=0, steps=35, batch_size=8
    )
    assert losses[-1] < 0.2 < losses[0]
    assert transcribe(model, tokenizer, vocabulary, [one.samples for one in said]) == [" three", " eight"]
    model, _ = experiment.train(
        [speaking(tokenizer, vocabulary, units, one) for one in said] * 4, seed=0, steps=50, batch_size=8
    )
    prompts = [speaking_prompt(tokenizer, vocabulary, one.digits, one.voice, one.language) for one in said]
    assert say(model, tokenizer, vocabulary, prompts) == [units.encode(one.samples) for one in said]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_the_edits_are_those_of_numpy(a, b):
    assert word_edits(a, b) == reference.word_edits(a, b)
    assert abs(len(a) - len(b)) <= word_edits(a, b) <= max(len(a), len(b))


def test_the_word_error_counts_words_and_of_chinese_characters():
    assert word_error([" three nine"], [" three seven"]) == 50
    assert word_error(["三九", " one"], ["三七", " one"]) == pytest.approx(100 / 3)
    assert word_error([" one one one"], [" one"]) == 200
    assert word_error([""], [" one two"]) == 100
    with pytest.raises(ValueError, match="1 texts were heard and 2 said"):
        word_error(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no word was said"):
        word_error(["a"], [" "])


@pytest.mark.parametrize("heard", ["silence", "another sound"])
def test_a_spoiled_sound_keeps_its_length_and_its_answer(parts, heard):
    said = utterances(6, voices("train"), seed=0)
    examples = [listening(*parts, one) for one in said]
    spoiled = experiment.spoiled(examples, heard, seed=3)
    for before, after in zip(examples, spoiled, strict=True):
        assert after.answer == before.answer
        assert after.prompt.ids == before.prompt.ids
        assert after.prompt.features[SOUND].shape == before.prompt.features[SOUND].shape
    pairs = zip(examples, spoiled, strict=True)
    same = [np.array_equal(a.prompt.features[SOUND], b.prompt.features[SOUND]) for a, b in pairs]
    assert sum(same) < 3
    if heard == "silence":
        assert not any(example.prompt.features[SOUND].any() for example in spoiled)
    assert experiment.spoiled(examples, "sound", seed=0) is examples


def test_the_experiment_never_trains_on_a_voice_of_the_test(monkeypatch):
    heard = []

    def listen(n, chosen, **options):
        heard.append(chosen)
        return utterances(4, chosen, **options)

    monkeypatch.setattr(experiment, "utterances", listen)
    monkeypatch.setattr(experiment, "train", lambda examples, **options: (None, []))
    for n_voices, longest in ((13, 1), (4, 3), (1, 1)):
        experiment.listener(heard="sound", n_voices=n_voices, longest=longest, seed=0)
        assert len(set(heard[-1])) == n_voices
        assert not set(heard[-1]) & {*voices("test"), *voices("choose")}
