"""The exercise on a block of q4_0: the library's quantizer, each mistake named, and answers as readers write them."""

import struct

import gguf
import numpy as np
import pytest

from llama_minimal.course.checks.export_answers import EXERCISES_EXPORT, drawn_block, q4_0_bytes
from llama_minimal.course.exercises import judge
from llama_minimal.reference.gguf import from_q4_0, pack_q4_0, to_q4_0

BLOCK = EXERCISES_EXPORT["q4_0_bytes"]
Q4_0 = gguf.GGMLQuantizationType.Q4_0


@pytest.mark.parametrize("seed", range(30))
def test_the_right_bytes_are_the_librarys(seed):
    (x,) = drawn_block(np.random.default_rng(seed))
    np.testing.assert_array_equal(q4_0_bytes(x), gguf.quants.quantize(x, Q4_0))
    np.testing.assert_array_equal(q4_0_bytes(x), pack_q4_0(*to_q4_0(x)))


def test_the_cases_tell_both_signs_a_code_of_16_and_zeros():
    for (x,) in BLOCK.cases:
        np.testing.assert_array_equal(q4_0_bytes(x), gguf.quants.quantize(x, Q4_0))
    steps = [to_q4_0(x)[0].item() for (x,) in BLOCK.cases]
    assert [np.sign(step) for step in steps] == [-1, 1, -1, 0, 1]
    for x in (BLOCK.cases[1][0], BLOCK.cases[2][0]):
        assert np.trunc(x / to_q4_0(x)[0].astype(np.float32) + 8.5).max() == 16
        assert np.abs(from_q4_0(*to_q4_0(x)) - x).max() > 0.8 * abs(to_q4_0(x)[0].item())


def test_solution_stub_and_raising_code():
    assert judge(BLOCK, BLOCK.right, strict=True).text == ""
    assert judge(BLOCK, lambda x: None).text is None
    assert "ZeroDivisionError" in judge(BLOCK, lambda x: 1 / 0).text


@pytest.mark.parametrize("text", BLOCK.mistakes)
def test_each_mistake_is_named(text):
    assert judge(BLOCK, BLOCK.mistakes[text], strict=True).text == text


def by_struct(x):
    """Right, with other means."""
    far = max(x, key=abs)
    step = np.float32(far) / np.float32(-8)
    codes = [min(15, int(float(v * (np.float32(1) / step) if step else 0) + 8.5)) for v in x]
    return list(struct.pack("<e", step)) + [codes[i] + 16 * codes[i + 16] for i in range(16)]


def by_division(x):
    step = x[np.abs(x).argmax()] / -8
    codes = np.clip(np.floor(x / (step or 1)) + np.round(x / (step or 1) % 1 + 1e-9) + 8, 0, 15).astype(np.uint8)
    return np.concatenate([np.float16([step]).view(np.uint8), codes[:16] | codes[16:] << 4])


def no_zero(x):
    step = x[np.abs(x).argmax()] / -8
    codes = np.clip(x / step + 8.5, 0, 15).astype(int)
    return np.concatenate([np.float16([step]).view(np.uint8), (codes[:16] | codes[16:] << 4).astype(np.uint8)])


def in_float32(x):
    right = q4_0_bytes(x)
    return np.concatenate([np.float32([x[np.abs(x).argmax()] / -8]).view(np.uint8), right[2:]])


def overwrites(x):
    right = q4_0_bytes(x)
    x /= 8
    return right


READERS = [
    (no_zero, ""),
    (in_float32, ""),
    (overwrites, "changes its argument `x`"),
    (lambda x: q4_0_bytes(x)[2:], ""),
    (lambda x: q4_0_bytes(x)[::-1], ""),
    (lambda x: from_q4_0(*to_q4_0(x)), ""),
    (lambda x: to_q4_0(x)[1], ""),
    (lambda x: q4_0_bytes(-x), ""),
    (lambda x: (to_q4_0(x)[0], to_q4_0(x)[1]), ""),
    (lambda x: np.packbits(q4_0_bytes(x)), ""),
    (lambda x: q4_0_bytes(np.round(x)), ""),
]


@pytest.mark.parametrize(("answer", "said"), READERS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_a_reader_would_write_is_refused(answer, said):
    verdict = judge(BLOCK, answer, strict=True)
    assert verdict.text
    assert said in verdict.text


def test_right_answers_of_other_kinds_are_taken():
    assert judge(BLOCK, by_struct, strict=True).text == ""
    assert judge(BLOCK, lambda x: np.array(by_struct(x)), strict=True).text == ""
    assert judge(BLOCK, by_division, strict=True).text == ""
