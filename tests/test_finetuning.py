"""Tuning: what is learned, which weights change, and a head that tells labels apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import SIZES, draw_model

from llama_minimal.chat import ChatTemplate
from llama_minimal.checkpoint import load, save
from llama_minimal.config import LlamaConfig
from llama_minimal.data import PackedExamples
from llama_minimal.finetuning import Chat, Labeled, Pair, classify, encode_examples, prepare, with_labels
from llama_minimal.generation import generate
from llama_minimal.lora import LoRAConfig, adapters, merge_and_unload
from llama_minimal.model import build
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

TEXT = "the cat sat on the mat, the hat sat on the cat. yes no 0 1 2 3 4 5 6 7 8 9"
TOKENIZER = Tokenizer.train([TEXT], vocab_size=280)
SHAPE = dict(SIZES, vocab_size=TOKENIZER.vocab_size)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_of_a_pair_the_completion_and_the_end_are_learned():
    ids, learn, _ = encode_examples(TOKENIZER, [Pair("the cat:", " sat")])[0]
    prompt = TOKENIZER.encode("the cat:", bos=True)
    assert ids == prompt + TOKENIZER.encode(" sat") + [TOKENIZER.eos_id]
    assert learn == [False] * len(prompt) + [True] * (len(ids) - len(prompt))


def test_of_a_chat_what_the_assistant_says_is_learned():
    template = ChatTemplate(TOKENIZER, TEMPLATE)
    turns = [{"role": "user", "content": "hat?"}, {"role": "assistant", "content": "no"}]
    ids, learn, _ = encode_examples(TOKENIZER, [Chat(tuple(turns * 2))], template=template)[0]
    learned = TOKENIZER.decode([i for i, one in zip(ids, learn, strict=True) if one])
    assert learned.split() == ["no", "no"]
    assert sum(i == TOKENIZER.eos_id and one for i, one in zip(ids, learn, strict=True)) == 2


def test_of_a_labeled_text_the_label_is_learned_at_the_last_token():
    (example,) = encode_examples(TOKENIZER, [Labeled("the mat", "good")], labels=("bad", "good"))
    inputs, targets = example.rows()
    assert inputs == TOKENIZER.encode("the mat", bos=True)
    assert targets == [-100] * (len(inputs) - 1) + [1]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Labeled("the mat", "fine"), "'fine' is not among the labels; they are bad, good"),
        (Chat(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})), "no chat template; give one"),
    ],
)
def test_what_cannot_be_encoded_is_refused(example, message):
    with pytest.raises(ValueError, match=message):
        encode_examples(TOKENIZER, [example], labels=("bad", "good"))


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_only_what_the_method_names_changes(method):
    base = build(LlamaConfig(**SHAPE))
    model = with_labels(base, ("no", "yes"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    prepare(model, method, lora=LoRAConfig(rank=2, targets=("wq", "w2")))
    examples = [Labeled("the cat", "yes"), Labeled("the hat", "no")] * 4
    packed = PackedExamples.pack(encode_examples(TOKENIZER, examples, labels=("no", "yes")), seq_len=16)
    config = TrainConfig(steps=3, batch_size=2, seq_len=16, warmup_steps=0, lr=0.01)
    losses = [metrics["loss"] for metrics in Trainer(model, packed, config).run()]
    assert losses[0] == pytest.approx(np.log(2))  # the head starts at zero: all labels are as likely
    assert losses[-1] < losses[0]
    changed = {n for n, p in model.named_parameters() if n in before and not torch.equal(p.detach(), before[n])}
    body = set(before) - {"output.weight"}
    assert changed == ({"output.weight"} | (body if method == "full" else set()))
    assert bool(adapters(model)) is (method == "lora")


def test_a_head_is_what_logistic_regression_finds():
    """The head alone, trained long, reaches the lowest loss that L-BFGS finds on the same features."""
    model = with_labels(draw_model(**SHAPE), ("a", "b", "c"))
    prepare(model, "head")
    texts = ["the cat", "sat on", "the mat yes", "no no", "hat", "on the cat sat"]
    examples = [Labeled(text, "abc"[i % 3]) for i, text in enumerate(texts)]
    encoded = encode_examples(TOKENIZER, examples, labels="abc")
    packed = PackedExamples.pack(encoded, seq_len=32)
    config = TrainConfig(
        steps=300, batch_size=len(packed.inputs), seq_len=32, warmup_steps=0, lr=0.05, weight_decay=0.0, clip_norm=1e9
    )
    found = [metrics["loss"] for metrics in Trainer(model, packed, config).run()][-1]
    with torch.no_grad():
        features = torch.stack([model.hidden_states(torch.tensor([one.ids]))[0, -1] for one in encoded])
    weight = torch.zeros(3, SHAPE["dim"], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200)
    labels = torch.tensor([one.label for one in encoded])

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight.T, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() <= found + 1e-3
    assert found < 0.1  # 6 texts, 32 features: they can be told apart


def test_labels_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = with_labels(draw_model(**SHAPE, n_kv_heads=2), ("no", "yes", "both"))
    torch.nn.init.normal_(model.output.weight, generator=torch.Generator().manual_seed(1))
    texts = ["the cat", "sat on the mat", "hat"]
    save(model, tmp_path, TOKENIZER, format="huggingface")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.id2label == {0: "no", 1: "yes", 2: "both"}
    for text, found in zip(texts, classify(model, TOKENIZER, texts, batch_size=2), strict=True):
        ids = torch.tensor([TOKENIZER.encode(text, bos=True)])
        with torch.no_grad():
            expected = theirs(ids).logits.softmax(-1)[0]
        torch.testing.assert_close(torch.tensor(list(found.values())), expected, rtol=1e-5, atol=1e-6)
    theirs.save_pretrained(tmp_path / "theirs")
    again, _ = load(tmp_path / "theirs")
    assert again.config.labels == ("no", "yes", "both")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(dict(again.named_parameters())[name], parameter)


@pytest.mark.parametrize("format", ["native", "huggingface"])
def test_a_model_with_labels_is_saved_and_loaded(tmp_path, format):
    model = with_labels(draw_model(**SHAPE, tie_embeddings=True), ("no", "yes"))
    torch.nn.init.normal_(model.output.weight)
    save(model, tmp_path, TOKENIZER, format=format)
    again, tokenizer = load(tmp_path)
    assert again.config == model.config
    for before, after in zip(*(classify(m, tokenizer, ["the cat", "hat"]) for m in (model, again)), strict=True):
        assert before == pytest.approx(after)


def test_text_and_labels_are_not_mixed_up():
    model = draw_model(**SHAPE)
    with pytest.raises(ValueError, match="has no labels"):
        classify(model, TOKENIZER, ["the cat"])
    labeled = with_labels(model, ("no", "yes"))
    with pytest.raises(ValueError, match="tells labels apart \\(no, yes\\) and writes no text"):
        generate(labeled, TOKENIZER, ["the cat"])
    with pytest.raises(ValueError, match="one text"):
        classify(labeled, TOKENIZER, "the cat")
    with pytest.raises(ValueError, match=r"text 1 has .* tokens, more than the context of 32"):
        classify(labeled, TOKENIZER, ["the", "0 1 2 3 4 5 6 7 8 9 " * 9])
    with pytest.raises(ValueError, match="two or more different texts"):
        with_labels(model, ("yes", "yes"))
    with pytest.raises(ValueError, match="Meta's format has no labels"):
        save(labeled, "nowhere", format="meta")


def test_a_tied_head_or_an_adapter_beside_another_method_is_refused():
    model = draw_model(**SHAPE, tie_embeddings=True)
    with pytest.raises(ValueError, match="embedding as well"):
        prepare(model, "head")
    assert all(p.requires_grad for p in model.parameters())  # nothing has changed
    with pytest.raises(ValueError, match="method='half' is not one of 'full', 'lora', 'head'"):
        prepare(model, "half")
    prepare(model, "lora")
    with pytest.raises(ValueError, match="merge_and_unload them before"):
        prepare(model, "full")


def test_a_merged_adapter_is_the_tuned_model():
    model = with_labels(draw_model(**SHAPE), ("no", "yes"))
    prepare(model, "lora", lora=LoRAConfig(rank=2, targets=("wq", "w1")))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    before = classify(model, TOKENIZER, ["the cat"])
    merge_and_unload(model)
    assert classify(model, TOKENIZER, ["the cat"])[0] == pytest.approx(before[0], abs=1e-5)
