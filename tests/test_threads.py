"""Several threads write with one model: each what it would write alone, and none finds a weight half laid out."""

import threading
from functools import partial

import pytest

from llama_minimal.checkpoint import load
from llama_minimal.generation import generate
from llama_minimal.model import Llama

LIMIT = 120  # seconds
PROMPT = [1, 2, 3]


def write(model: Llama) -> list[int]:
    return generate(model, None, [PROMPT], max_new_tokens=12)[0].tokens


def in_threads(n, work):
    """Let n threads begin together; return what each gives, or its error."""
    found, begin = [None] * n, threading.Barrier(n)

    def one(i):
        begin.wait(LIMIT)
        try:
            found[i] = work()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    return found


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_threads_that_begin_with_a_fresh_model_write_what_one_writes(quantize):
    alone = write(load("course", dtype="bfloat16", quantize=quantize)[0])
    for _ in range(4):  # most often a fault shows at once
        model, _ = load("course", dtype="bfloat16", quantize=quantize)
        assert in_threads(4, partial(write, model)) == [alone] * 4
        assert write(model) == alone


def test_threads_with_models_of_their_own_do_not_wait_for_each_other():
    models = [load("course", dtype="float32")[0] for _ in range(2)]
    both = threading.Barrier(2)

    def wait(_module, _input):  # each gets through only while the other is in its pass, too
        both.wait(LIMIT)

    for model in models:
        model.norm.register_forward_pre_hook(wait)
    left = iter(models)
    found = in_threads(2, lambda: generate(next(left), None, [PROMPT], max_new_tokens=3)[0].tokens)
    assert found == [write(load("course", dtype="float32")[0])[:3]] * 2
