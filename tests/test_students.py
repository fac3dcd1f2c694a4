"""Students of the course model: trained by one command, loaded by their names."""

import pytest

import llama_minimal as lm
from llama_minimal.cost import parameters
from llama_minimal.course import students
from llama_minimal.model import build


def test_shapes_are_smaller_siblings_of_the_course_model():
    course, _ = lm.load("course")
    sizes = [sum(parameters(students.shape(name)).values()) for name in students.SHAPES]
    assert [*sizes, sum(parameters(course.config).values())] == sorted({*sizes, 3_688_704})
    for name in students.SHAPES:
        config = students.shape(name)
        assert (config.vocab_size, config.max_seq_len) == (course.config.vocab_size, course.config.max_seq_len)
    assert students.shape("tiny", n_layers=2).n_layers == 2


def test_a_student_is_trained_and_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train it: python -m llama_minimal\.course\.students tiny"):
        students.load("tiny")
    config = students.recipe(64, steps=3, batch_size=2, seq_len=64)
    seen = []
    students.train(students.STUDENTS / "tiny", "cpu", name="tiny", n_texts=30, config=config, on_step=seen.append)
    assert [metrics["step"] for metrics in seen] == [1, 2, 3]
    model, tokenizer = students.load("tiny", dtype="float32")
    assert model.config == students.shape("tiny")
    assert model.eos_ids == (tokenizer.eos_id,)
    assert tokenizer.fingerprint == lm.load("course")[1].fingerprint


def test_a_teacher_brings_the_student_nearer_to_itself():
    teacher, tokenizer = lm.load("course", dtype="float32")
    losses = []
    students.teach(
        build(students.shape("tiny")),
        students.text(tokenizer, 30),
        students.recipe(64, steps=12, batch_size=2, seq_len=64),
        teacher=teacher,
        on_step=lambda metrics: losses.append(metrics["loss"]),
    )
    assert losses[-1] < 0.9 * losses[0]  # KL from the teacher, in nats per token
    with pytest.raises(ValueError, match="'huge'"):
        students.shape("huge")
