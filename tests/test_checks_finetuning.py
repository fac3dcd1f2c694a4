"""The exercises of chapter 12 as readers answer them, their keys against other computations, the tasks and pictures."""

import copy
import re

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from llama_minimal.course.exercises import case, exercises, find, judge
from llama_minimal.course.experiments import find as experiment
from llama_minimal.course.tuning_figures import best, draw_arms
from llama_minimal.course.tuning_tasks import NUMBERS, counting, facts
from llama_minimal.data.valley.world import CHARACTERS
from llama_minimal.lora import LoRAConfig, adapter_tensors, add_adapter, set_active

EXERCISES = exercises("finetuning")


def forgot_the_last_shift(turns, eos):
    inputs, targets = find("finetuning.chat_targets").right(turns, eos)
    return inputs, np.roll(targets, 1)


def learns_where_the_input_is_the_assistants(turns, eos):
    ids, learn = [], []
    for role, tokens in turns:
        said = [*tokens, eos] if role == "assistant" else tokens
        ids += said
        learn += [role == "assistant"] * len(said)
    return np.array(ids[:-1]), np.where(learn[:-1], ids[1:], -100)


def every_turn_ends(turns, eos):
    ids, learn = [], []
    for role, tokens in turns:
        ids += [*tokens, eos]
        learn += [role == "assistant"] * (len(tokens) + 1)
    return np.array(ids[:-1]), np.where(learn[1:], ids[1:], -100)


def zeros_for_ignored(turns, eos):
    inputs, targets = find("finetuning.chat_targets").right(turns, eos)
    return inputs, np.where(targets == -100, 0, targets)


def questions_everywhere(documents, question):
    same = documents[:, None] == documents
    return same & np.tri(len(documents), dtype=bool) | (question[:, None] & question)


def numbers_for_booleans(documents, question):
    return find("finetuning.prefix_mask").right(documents, question).astype(int)


def strictly_before(documents, question):
    same = documents[:, None] == documents
    return same & (np.tri(len(documents), k=-1, dtype=bool) | (question[:, None] & question))


def gradients_of_b_first(d_w, a, b, alpha):
    return alpha / len(a) * d_w @ a.T, alpha / len(a) * b.T @ d_w


def rank_of_the_wrong_side(d_w, a, b, alpha):
    return alpha / len(b) * b.T @ d_w, alpha / len(b) * d_w @ a.T


def a_moves_too(d_w, a, alpha, lr):
    return -lr * (alpha / len(a)) * d_w @ a.T @ a


def sums(a1, b1, alpha1, a2, b2, alpha2):
    return a1 + a2, alpha1 / len(a1) * b1 + alpha2 / len(a2) * b2


def rank_of_both(a1, b1, alpha1, a2, b2, alpha2):
    r = len(a1) + len(a2)
    return np.concatenate([a1, a2]), np.concatenate([alpha1 / r * b1, alpha2 / r * b2], axis=1)


def stacked_rows(a1, b1, alpha1, a2, b2, alpha2):
    return np.concatenate([a1, a2]), np.concatenate([alpha1 / len(a1) * b1, alpha2 / len(a2) * b2])


def lengths_of_each(old, new, lr):
    return -lr * sum(np.linalg.norm(g) * np.linalg.norm(h) for g, h in zip(old, new, strict=True))


def products(old, new):
    return sum((g * h).sum() for g, h in zip(old, new, strict=True))


READERS = [
    ("chat_targets", forgot_the_last_shift, ""),
    ("chat_targets", learns_where_the_input_is_the_assistants, "the first token of each answer is not learned"),
    ("chat_targets", every_turn_ends, "every turn ends with an eos"),
    ("chat_targets", zeros_for_ignored, ""),
    ("chat_targets", lambda turns, eos: np.concatenate([ids for _, ids in turns]), ""),
    ("prefix_mask", questions_everywhere, ""),
    ("prefix_mask", numbers_for_booleans, "not True and False"),
    ("prefix_mask", strictly_before, ""),
    ("prefix_mask", lambda documents, question: np.tri(len(documents), dtype=bool), ""),
    ("lora_gradients", gradients_of_b_first, "reverse order"),
    ("lora_gradients", rank_of_the_wrong_side, ""),
    ("lora_gradients", lambda d_w, a, b, alpha: (b.T @ d_w, d_w @ a.T), "the scale α/r is missing"),
    ("lora_gradients", lambda d_w, a, b, alpha: (b @ d_w, d_w @ a), "raised ValueError"),
    ("first_update", a_moves_too, "the scale counts once here"),
    ("first_update", lambda d_w, a, alpha, lr: lr * (alpha / len(a)) ** 2 * d_w @ a.T @ a, "the sign is turned"),
    ("first_update", lambda d_w, a, alpha, lr: -lr * (alpha / len(a)) ** 2 * a.T @ a @ d_w, "raised ValueError"),
    ("merged", sums, ""),
    ("merged", rank_of_both, ""),
    ("merged", stacked_rows, ""),
    ("forgetting", lengths_of_each, ""),
    ("forgetting", lambda old, new, lr: lr * products(old, new), "the sign is turned"),
    ("forgetting", lambda old, new, lr: -products(old, new), "learning rate is missing"),
]


@pytest.mark.parametrize(("name", "answer", "said"), READERS)
def test_a_readers_wrong_answer_is_refused_in_words(name, answer, said):
    verdict = judge(EXERCISES[name], answer, strict=True)
    assert verdict.text
    assert said in verdict.text, verdict.text


def test_the_targets_of_a_chat_are_the_templates(course_chat):
    template, eos_id = course_chat
    messages = [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A llama."},
        {"role": "user", "content": "Good."},
        {"role": "assistant", "content": "Yes."},
    ]
    ids, learn = template.encode_with_mask(messages)
    turns, role = [], None  # the same chat as turns: runs of tokens that are learned, or not
    for token, learned in zip(ids, learn, strict=True):
        if learned != role:
            turns.append(("assistant" if learned else "user", []))
            role = learned
        turns[-1][1].append(token)
    for speaker, tokens in turns:
        if speaker == "assistant":
            assert tokens.pop() == eos_id
    inputs, targets = EXERCISES["chat_targets"].right(turns, eos_id)
    assert inputs.tolist() == ids[:-1]
    assert targets.tolist() == [t if m else -100 for t, m in zip(ids[1:], learn[1:], strict=True)]


@pytest.fixture
def course_chat():
    from llama_minimal.chat import chat_template
    from llama_minimal.checkpoint import COURSE
    from llama_minimal.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(COURSE)
    return chat_template(tokenizer), tokenizer.eos_id


def test_who_asks_need_not_be_looked_at_since_questions_come_first():
    def keys_alone(documents, question):
        same = documents[:, None] == documents
        return same & (np.tri(len(documents), dtype=bool) | question)

    assert judge(EXERCISES["prefix_mask"], keys_alone, strict=True).text == ""


def test_the_prefix_mask_is_that_of_loops():
    for number in range(3):
        documents, question = case("finetuning.prefix_mask", number)
        mask = EXERCISES["prefix_mask"].right(documents, question)
        for i, j in np.ndindex(mask.shape):
            may = documents[i] == documents[j] and (j <= i or (question[i] and question[j]))
            assert mask[i, j] == may


def test_the_gradients_of_an_adapter_are_autograds():
    *arrays, alpha = case("finetuning.lora_gradients", 1)
    d_w, a, b = map(torch.tensor, arrays)
    a.requires_grad_(), b.requires_grad_()
    (alpha / len(a) * b @ a).backward(d_w)
    d_a, d_b = EXERCISES["lora_gradients"].right(*case("finetuning.lora_gradients", 1))
    np.testing.assert_allclose(d_a, a.grad, rtol=1e-12)
    np.testing.assert_allclose(d_b, b.grad, rtol=1e-12)


def test_the_first_step_of_an_adapter_is_that_of_descent():
    *arrays, alpha, lr = case("finetuning.first_update", 0)
    d_w, a = map(torch.tensor, arrays)
    a, b = a.requires_grad_(), torch.zeros(len(d_w), len(a), dtype=a.dtype, requires_grad=True)
    (alpha / len(a) * b @ a).backward(d_w)
    with torch.no_grad():
        moved = alpha / len(a) * (b - lr * b.grad) @ (a - lr * a.grad)
    np.testing.assert_allclose(EXERCISES["first_update"].right(*case("finetuning.first_update", 0)), moved, rtol=1e-12)


def test_a_merged_adapter_does_what_two_active_ones_do(make_model):
    model = make_model().double()
    layer = model.layers["0"].attention.wo
    for name, rank, alpha in (("one", 2, 5.0), ("two", 3, 4.0)):
        add_adapter(model, name, LoRAConfig(rank=rank, alpha=alpha, targets=("layers.0.attention.wo",)))
        for tensor in adapter_tensors(model, name).values():
            torch.nn.init.normal_(tensor)
    set_active(model, "one", "two")
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    parts = [tensor.detach().numpy() for name in ("one", "two") for tensor in adapter_tensors(model, name).values()]
    a, b = EXERCISES["merged"].right(parts[0], parts[1], 5.0, parts[2], parts[3], 4.0)
    frozen = x @ layer.weight.T
    np.testing.assert_allclose((layer(x) - frozen).detach(), x.numpy() @ a.T @ b.T, rtol=1e-9, atol=1e-12)


def test_forgetting_is_the_slope_of_the_old_loss():
    old, new, _ = case("finetuning.forgetting", 0)
    weights = [np.zeros_like(part) for part in old]
    loss = lambda w: sum((g * part + part**2).sum() for g, part in zip(old, w, strict=True))  # noqa: E731
    lr = 1e-6
    step = [part - lr * h for part, h in zip(weights, new, strict=True)]
    assert EXERCISES["forgetting"].right(old, new, lr) == pytest.approx(loss(step) - loss(weights), rel=1e-4)


def test_passages_are_counted_right_and_balanced():
    train, test = counting(60), counting(30, split="test", seed=1000)
    for passage, number in train + test:
        named = {word for word in re.findall(r"\w+", passage) if word in CHARACTERS}
        assert NUMBERS[len(named) - 1] == number
    assert [sum(number == each for _, number in train) for each in NUMBERS] == [20, 20, 20]
    assert not {passage for passage, _ in train} & {passage for passage, _ in test}
    assert counting(60) == train
    assert len({passage for passage, _ in train}) == 60


def test_facts_are_as_many_as_asked_for_and_follow_the_seed():
    made = facts(40)
    assert len({fact.prompt for fact in made}) == 40
    assert made == facts(40)
    assert made != facts(40, seed=1)
    assert all(re.fullmatch(r"( \d){4}", fact.completion) for fact in made)


ROWS = [
    {"task": "t", "lr": lr, "seed": seed, "right": right, "trained": 10}
    for lr, seed, right in ((0.1, 0, 0.9), (0.2, 0, 0.5), (0.2, 1, 0.7), (0.3, 0, 0.2), (0.3, 1, 0.3))
]


def test_the_best_rate_is_one_that_was_tried_with_all_seeds():
    arm = best(ROWS, task="t")
    assert (arm.lr, arm.right.tolist(), arm.trained) == (0.2, [0.5, 0.7], 10)


def test_the_arms_are_drawn_with_their_seeds():
    figure, ax = plt.subplots()
    draw_arms(ax, {("lora", 4): best(ROWS, task="t"), ("full", 0): best(ROWS, task="t")})
    assert [text.get_text() for text in ax.texts] == ["4", "full"]
    assert len(ax.lines) == 4
    plt.close(figure)


@pytest.mark.parametrize("name", ["adapters", "forgetting", "domains"])
def test_the_points_of_a_run_can_be_run(name):
    found = experiment(name)
    points = copy.deepcopy(found.points)
    assert found.check in points
    seeds = {point["seed"] for point in points}
    assert seeds == {0, 1, 2}
