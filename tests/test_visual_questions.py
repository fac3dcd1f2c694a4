"""Chapter 21's experiments: what the arms read, and what they learn to write."""

import pytest
import torch

from llama_minimal.course.experiments import three_modalities, visual_questions
from llama_minimal.multimodal.scenes import scenes
from llama_minimal.multimodal.speech_digits import WORDS, voices
from llama_minimal.multimodal.vision import patches


@pytest.mark.parametrize(("arm", "n_places"), [("sees", 16), ("aloud", 16), ("blind", 0)])
def test_an_arm_reads_the_picture_or_not_and_writes_the_answer_last(arm, n_places):
    tokenizer, vocabulary = visual_questions.text_side()
    asked = scenes(8, seed=3)
    for scene, row in zip(asked, visual_questions.examples(asked, arm), strict=True):
        ids = row.prompt.ids
        assert ids.count(vocabulary.placeholder("image")) == n_places == len(row.prompt.features["image"])
        assert tokenizer.decode([i for i in ids if i < vocabulary.n_text]) == scene.question
        assert row.answer[-1] == tokenizer.eos_id
        said = tokenizer.decode(row.answer)
        assert said == (f"{scene.caption}:{scene.answer}" if arm == "aloud" else scene.answer)
        if n_places:
            cut = patches(scene.image[None], visual_questions.SIZE)[0]
            torch.testing.assert_close(torch.tensor(row.prompt.features["image"]), cut)


def test_another_picture_changes_what_is_read_and_nothing_that_is_asked(monkeypatch):
    asked, read = scenes(6, seed=4), []
    monkeypatch.setattr(visual_questions, "answers", lambda model, rows: read.extend(rows) or [s.answer for s in asked])
    assert visual_questions.accuracy(None, asked, "sees", shown=asked[::-1]) == 1
    own = visual_questions.examples(asked, "sees")
    for row, mine, other in zip(read, own, own[::-1], strict=True):
        assert row.prompt.ids == mine.prompt.ids
        assert (row.prompt.features["image"] == other.prompt.features["image"]).all()


def test_the_three_parts_of_a_task_give_its_answer():
    for task in three_modalities.tasks(40, split="test", seed=2):
        shown, said, text = task.about.split(" · ")
        voice, word = said.split(": ")
        assert voice in voices("test")
        number = next(WORDS[language].index(word) for language in WORDS if word in WORDS[language])
        digits = list(map(int, shown.split()))
        digit = digits[number - 1] if "left" in text or "左" in text else digits[4 - number]
        assert task.answer.strip() in (WORDS["en"][digit], WORDS["zh"][digit])
        assert task.image.shape == (8, 32)
        assert task.sound.shape[1] == three_modalities.SOUND


@pytest.mark.parametrize("arm", three_modalities.ARMS)
def test_an_arm_lacks_one_part_and_no_other(arm):
    tokenizer, vocabulary = three_modalities.text_side()
    (task,) = three_modalities.tasks(1)
    (row,) = three_modalities.examples([task], arm)
    ids = row.prompt.ids
    has = {name: vocabulary.placeholder(name) in ids for name in ("image", "sound")}
    has["text"] = task.text in tokenizer.decode([i for i in ids if i < vocabulary.n_text])
    missing = {"all": None, "no picture": "image", "no voice": "sound", "no text": "text"}[arm]
    assert has == {name: name != missing for name in has}


def test_a_part_of_another_question_is_taken_whole(monkeypatch):
    asked = three_modalities.tasks(8, split="test")
    read = []
    monkeypatch.setattr(three_modalities, "generate", lambda *args, **options: [])
    monkeypatch.setattr(three_modalities, "examples", lambda tasks, arm: read.extend(tasks) or [])
    with pytest.raises(ValueError, match="zip"):  # nothing was written
        three_modalities.errors(type("M", (), {}), asked, other="sound")
    for i, task in enumerate(read):
        assert task.sound is asked[i - 7].sound
        assert (task.image is asked[i].image, task.text, task.answer) == (True, asked[i].text, asked[i].answer)
