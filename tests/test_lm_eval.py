"""The lm-eval adapter: beside lm-eval's own for transformers, our evaluation, and one token at a time."""

import math
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.checkpoint import load, save
from llama_minimal.evaluation import Evaluation, sliding_batches, sum_loss
from llama_minimal.generation import generate
from llama_minimal.tokenizer import Tokenizer, load_tokenizer

pytest.importorskip("lm_eval")

from lm_eval.api.registry import get_model

from llama_minimal.integrations import lm_eval as adapter
from llama_minimal.integrations.likelihood import encode_pair
from llama_minimal.integrations.lm_eval import LlamaLM
from llama_minimal.integrations.lm_eval_tasks import valley

PAIRS = [
    ("Once upon a time", " there was a llama."),
    ("Otto the badger lost his hat.\n\nQuestion: Who lost a hat?\nAnswer:", " Otto"),
    ("Otto the badger lost his hat.\n\nQuestion: Who lost a hat?\nAnswer: ", "Mina"),  # a space that moves
    ("", "The valley"),
    ("小仓鼠", "汉娜每天都来。"),
]


def requests(*args):
    return [SimpleNamespace(args=one) for one in args]


@pytest.fixture(scope="module")
def course():
    return load("course", dtype="float32")


@pytest.fixture(scope="module")
def lm(course):
    return LlamaLM(*course, batch_size=3)


def test_scores_are_those_of_lm_evals_own_adapter_for_transformers(lm, course, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save(course[0], tmp_path, course[1], format="huggingface")
    parts = {
        "pretrained": AutoModelForCausalLM.from_pretrained(tmp_path),
        "tokenizer": AutoTokenizer.from_pretrained(tmp_path),
    }
    theirs = get_model("hf")(**parts, add_bos_token=True, device="cpu")
    ours, expected = lm.loglikelihood(requests(*PAIRS)), theirs.loglikelihood(requests(*PAIRS), disable_tqdm=True)
    np.testing.assert_allclose([total for total, _ in ours], [total for total, _ in expected], rtol=1e-4)
    assert [best for _, best in ours] == [best for _, best in expected]
    assert {best for _, best in ours} == {True, False}  # the pairs tell the two apart
    options = {"until": ["."], "max_gen_toks": 20, "do_sample": False}
    asked = requests(*((context, options) for context, _ in PAIRS[:3]))
    assert lm.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)

    # With add_bos_token theirs counts that token as a word of the text: findings/lm_eval_scores_bos.sh.
    theirs = get_model("hf")(**parts, add_bos_token=False, device="cpu")
    texts = [(context + answer,) for context, answer in PAIRS]
    np.testing.assert_allclose(
        lm.loglikelihood_rolling(requests(*texts)),
        theirs.loglikelihood_rolling(requests(*texts), disable_tqdm=True),
        rtol=1e-4,
    )


def test_a_score_is_the_product_of_the_probabilities_of_the_tokens_one_by_one(lm, course):
    model, _ = course
    for (context, answer), (total, best) in zip(PAIRS, lm.loglikelihood(requests(*PAIRS)), strict=True):
        before, ids = encode_pair(lm.tokenizer, context, answer)
        expected, is_best = 0.0, True
        for i, token in enumerate(ids):
            with torch.no_grad():
                logits = model(torch.tensor([before + ids[:i]]))[0, -1].double()
            expected += (logits[token] - logits.exp().sum().log()).item()
            is_best &= token == int(logits.argmax())
        assert total == pytest.approx(expected, rel=1e-4)
        assert best == is_best


@pytest.mark.parametrize("stride", [None, 16, 5])
def test_a_text_longer_than_the_context_has_the_loss_of_our_evaluation(course, stride):
    model, tokenizer = load("course", max_seq_len=32, dtype="float32")
    text = "Otto the badger lost his hat. Mina the mouse found it under the bridge, and he was glad. " * 2
    ids = np.array(tokenizer.encode_prompt(text))
    assert len(ids) > 40
    expected, n = sum_loss(model, sliding_batches(ids, size=32, stride=stride or 32))
    [total] = LlamaLM(model, tokenizer, stride=stride).loglikelihood_rolling(requests((text,)))
    assert n == len(ids) - 1
    assert -total == pytest.approx(expected, rel=1e-5)
    ours = Evaluation(total=expected, n_tokens=n, n_bytes=len(text.encode())).bits_per_byte
    assert ours == pytest.approx(-total / math.log(2) / len(text.encode()), rel=1e-5)


def test_an_answer_has_the_loss_that_our_evaluation_gives_its_tokens(lm, course):
    before, ids = encode_pair(lm.tokenizer, *PAIRS[1])
    row = np.array([before + ids])
    weights = np.zeros((1, row.size - 1), np.float32)
    weights[:, -len(ids) :] = 1
    expected, n = sum_loss(course[0], [(row[:, :-1], row[:, 1:], weights)])
    assert n == len(ids)
    assert -lm.loglikelihood(requests(PAIRS[1]))[0][0] == pytest.approx(expected, rel=1e-5)


def test_rows_of_a_batch_do_not_change_each_other(course, lm):
    alone, many = (LlamaLM(*course, batch_size=n) for n in (1, 16))
    asked = requests(*PAIRS)
    np.testing.assert_allclose(
        [t for t, _ in alone.loglikelihood(asked)], [t for t, _ in many.loglikelihood(asked)], rtol=1e-5
    )


@pytest.fixture(scope="module")
def merging():
    """A tokenizer that has learned 北京, 上海 and 大学 as tokens."""
    return Tokenizer.train(["他住在北京大学", "我来自上海", "北京", "上海", "大学"] * 50, vocab_size=300)


def test_an_answer_that_a_merge_swallows_is_scored_whole_after_the_same_question(merging):
    for context, answers in (("他住在北", ["京大学", "海"]), ("我来自上", ["海", "学"])):
        pairs = [encode_pair(merging, context, answer) for answer in answers]
        assert len(merging.encode(context + answers[0])) <= len(merging.encode(context)) + 2
        assert pairs[0][0] == pairs[1][0] == merging.encode_prompt(context)
        for (before, ids), answer in zip(pairs, answers, strict=True):
            assert merging.decode(before + ids) == context + answer
            assert merging.decode(ids) == answer


@settings(max_examples=60, deadline=None)
@given(st.text("北京大学上海他住在我来自 \nab", min_size=1, max_size=12), st.data())
def test_no_answer_is_empty_and_no_letter_lost(merging, text, data):
    place = data.draw(st.integers(0, len(text) - 1))
    before, ids = encode_pair(merging, text[:place], text[place:])
    assert ids
    assert merging.decode(before + ids) == text
    assert before[:1] == [merging.bos_id]


def test_sentencepiece_puts_no_space_into_an_answer(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("他住在北京大学\n我来自上海\n北京\n上海\n大学\nthe llama sat\n" * 40)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "tokenizer"), model_type="bpe", vocab_size=320,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity",  # as LLaMA's
    )  # fmt: skip
    tokenizer = load_tokenizer(tmp_path)
    for context, answer in (("他住在北", "京"), ("the llama", " sat"), ("我来自上", "海"), ("the ll", "ama")):
        before, ids = encode_pair(tokenizer, context, answer)
        assert ids
        assert tokenizer.decode(before + ids) == context + answer


def test_what_is_written_is_what_generate_writes(lm, course):
    options = {"until": ["\n", "。"], "max_gen_toks": 12, "do_sample": False}
    texts = ["Once", "小仓鼠汉娜", "Otto the badger lost"]
    written = lm.generate_until(requests(*((text, options) for text in texts)))
    expected = generate(*course, texts, max_new_tokens=12, stop=["\n", "。"])
    assert written == [one.text for one in expected]
    drawn = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 12}
    mixed = lm.generate_until(requests(("Once", options), ("Once", drawn), ("小仓鼠汉娜", options)))
    assert [mixed[0], mixed[2]] == written[:2]
    assert mixed[1] != mixed[0]


def test_a_question_that_is_too_long_loses_its_beginning_and_keeps_the_start(course):
    model, tokenizer = load("course", max_seq_len=24, dtype="float32")
    lm = LlamaLM(model, tokenizer)
    question = "Otto the badger lost his hat and looked for it. " * 4
    with pytest.warns(UserWarning, match="the beginning of a question"):
        [(total, _)] = lm.loglikelihood(requests((question, " He was sad.")))
    with pytest.warns(UserWarning, match="the beginning of a question"):
        row = lm._row(question, "He was sad.")
    ids = tokenizer.encode(" He was sad.")
    before = [tokenizer.bos_id, *tokenizer.encode(question.rstrip())][-(25 - len(ids)) :]
    assert math.isfinite(total)
    assert (row.ids[0], len(row.ids)) == (tokenizer.bos_id, 25)
    assert row.ids[1:] == (before + ids)[1:]
    with pytest.raises(ValueError, match="no room for a question"):
        lm.loglikelihood(requests(("Otto", " sat" * 40)))


@pytest.fixture(scope="module")
def measured(course):
    """What lm-eval says of the shipped tasks, with the network taken away and the random numbers watched."""
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asks the network"))
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asks the network"))
        found = adapter.evaluate(course[0], tokenizer=course[1], limit=12)
    assert torch.equal(torch.get_rng_state(), state)
    return found


def test_the_shipped_tasks_give_the_numbers_of_our_own_counting(measured, course):
    model, tokenizer = course
    right, by_character = 0, 0
    rows = list(valley.questions()["test"])[:12]
    for row in rows:
        losses = []
        prompt = tokenizer.encode_prompt(row["prompt"])
        for choice in row["choices"]:
            ids = np.array([prompt + tokenizer.encode(f" {choice}")])
            weights = (np.arange(1, ids.size) >= len(prompt))[None].astype(np.float32)
            losses.append(sum_loss(model, [(ids[:, :-1], ids[:, 1:], weights)])[0])
        right += int(np.argmin(losses)) == row["right"]
        by_character += int(np.argmin(np.array(losses) / [len(c) for c in row["choices"]])) == row["right"]
    assert measured["valley_questions"] == {"acc": right / 12, "acc_norm": by_character / 12}
    rows = list(valley.names()["test"])[:12]
    done = generate(model, tokenizer, [row["prompt"] for row in rows], max_new_tokens=12, stop=list("，。！？”\n"))
    hits = sum(one.text == row["name"] for one, row in zip(done, rows, strict=True))
    assert measured["valley_names_zh"] == {"exact_match": hits / 12}
    assert right > 6
    assert hits > 6  # chance: 3 and 1


def test_the_parts_of_a_task_have_no_story_in_common():
    for make in (valley.questions, valley.names):
        parts = make(60)
        train, test = (set(parts[name]["prompt"]) for name in ("train", "test"))
        assert (len(parts["test"]), len(train & test)) == (60, 0)
        assert make(20)["test"][7] == parts["test"][7]  # however many are asked
    with pytest.raises(ValueError, match="n=1000 examples, and there are"):
        valley.questions(1000)
    for row in valley.questions()["test"]:
        assert len(set(row["choices"])) == len(row["choices"]) == 4
    for row in valley.names()["test"]:
        assert row["name"] in row["prompt"]


def test_few_shot_examples_come_from_the_training_part(course, monkeypatch):
    seen = []
    monkeypatch.setattr(
        LlamaLM, "generate_until", lambda self, asked: [seen.append(one.args[0]) or "" for one in asked]
    )
    adapter.evaluate(course[0], ["valley_names_zh"], tokenizer=course[1], limit=4, num_fewshot=2)
    parts = valley.names()
    shown = [row["prompt"] + row["name"] for row in parts["train"]]
    for context, row in zip(seen, parts["test"], strict=False):
        assert context.endswith(row["prompt"])
        assert sum(text in context for text in shown) == 2  # and no space before the answer


def test_a_model_of_nans_is_refused(course):
    model, tokenizer = load("course")
    with torch.no_grad():
        model.output.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="computes NaN"):
        LlamaLM(model, tokenizer).loglikelihood(requests(PAIRS[0]))


@pytest.mark.parametrize(
    ("options", "message"), [({"num_beams": 4}, "has num_beams; known are"), ({"max_gen_toks": 600}, "no room")]
)
def test_what_cannot_be_written_is_refused(lm, options, message):
    with pytest.raises(ValueError, match=message):
        lm.generate_until(requests(("Once", options)))


def test_bad_arguments_are_refused(course, monkeypatch):
    for wrong in (0, "auto", -1):
        with pytest.raises(ValueError, match="batch_size"):
            LlamaLM(*course, batch_size=wrong)
    with pytest.raises(ValueError, match="no tokenizer"):
        LlamaLM(course[0])
    kept = adapter.TaskManager  # without lm-eval's own thousands of files
    monkeypatch.setattr(adapter, "TaskManager", lambda **options: kept(**options | {"include_defaults": False}))
    with pytest.raises(ValueError, match="'valley_question' is none of lm-eval's, and of ours there are"):
        adapter.evaluate(course[0], ["valley_question"], tokenizer=course[1])


def test_the_command_line_prints_a_line_for_each_number(capsys):
    adapter.main(["course", "--tasks", "valley_names_zh", "--limit", "4"])
    name, metric, value = capsys.readouterr().out.split()
    assert (name, metric) == ("valley_names_zh", "exact_match")
    assert 0 <= float(value) <= 1


def test_lm_eval_knows_our_models_by_name():
    assert get_model("llama_minimal") is LlamaLM


def test_a_chat_template_is_applied_and_its_special_tokens_are_tokens(course):
    lm = LlamaLM("course", adapter="chat")
    text = lm.apply_chat_template([{"role": "user", "content": "Who are you?"}])
    ids = lm._begin(text)
    assert lm.chat_template(True)
    assert lm.tokenizer_name == course[1].fingerprint
    names = {name: i for name, i in lm.tokenizer.special_tokens.items() if name in text}
    assert names
    assert all(ids.count(i) == text.count(name) for name, i in names.items())
