"""The adapters that come with the course model: small, its own, and as good as their card says."""

import json

import pytest
from jinja2 import Environment

import llama_minimal as lm
from llama_minimal.applications import application
from llama_minimal.applications.dialogue import recall_examples
from llama_minimal.applications.recall import facts, study_dialogues, words
from llama_minimal.chat import chat_template
from llama_minimal.course.adapters import ADAPTERS, CARD, RECIPES, main
from llama_minimal.course.ship import CHAT_TEMPLATE
from llama_minimal.data.valley import ValleySettings, stories


def test_each_recipe_has_its_adapter_and_each_is_small():
    assert {path.name for path in ADAPTERS.glob("*/")} == set(RECIPES)
    for name in RECIPES:
        assert sum(path.stat().st_size for path in (ADAPTERS / name).iterdir()) < 400_000


@pytest.mark.parametrize(("name", "least"), [("chat", 70), ("qa", 80), ("en-zh", 75)])
def test_it_does_what_it_was_tuned_for(name, least):
    """On a few test examples; the card has the figures on 300. Untuned, recall and translation score below 10."""
    chosen = application(RECIPES[name].application)
    test = (
        recall_examples(48, distance=3, unknown=0.0, split="test")
        if name == "chat"
        else chosen.examples(32, split="test")
    )
    model, tokenizer = lm.load("course", adapter=name, dtype="float32")
    assert chosen.evaluate(model, tokenizer, test).scores[chosen.metric] >= least


def test_the_card_is_of_these_recipes():
    card = json.loads(CARD.read_text(encoding="utf-8"))
    for name, recipe in RECIPES.items():
        told = " ".join(card["made_by"][name])
        assert f"--n {recipe.n} " in told
        assert f"--steps {recipe.steps} " in told


def test_the_template_writes_turns_as_the_valleys_dialogues_do():
    """By Jinja itself, with the settings that transformers has."""
    _, tokenizer = lm.load("course")
    template = chat_template(tokenizer)
    assert template.source == CHAT_TEMPLATE
    turns = [
        {"role": "system", "content": "A story."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Benny"},
        {"role": "user", "content": "Where?"},
    ]
    text = template.render(turns, reply=True)
    assert text == "<|bos|>A story.\n\nUser: Who?\nLlama: Benny<|eos|>\nUser: Where?\nLlama:"
    plain = Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "add_generation_prompt": True}
    assert plain.render(messages=turns, **names) == text
    assert template.turn_end() == "<|eos|>"


def test_a_dialogue_to_study_asks_for_what_was_said():
    for messages in study_dialogues(40, seed=3):
        asked = {question for fact in facts().values() for question in fact.ask}
        said, known, unknown = "", 0, 0
        for user, llama in zip(
            *([one["content"] for one in messages if one["role"] == role] for role in ("user", "assistant")),
            strict=True,
        ):
            if any(user.lower().endswith(question.lower()) for question in asked):
                is_unknown = llama == words()["unknown"]
                unknown += is_unknown
                known += not is_unknown
                assert is_unknown or llama.lower() in said.lower()
            said += f" {user}"
        assert unknown == 1
        assert 3 <= known <= 6


def test_strange_words_are_in_no_story():
    told = " ".join(story.text() for story in stories(300, ValleySettings(seed=7))).split()
    strange = {value.split()[-1] for fact in facts("strange").values() for value in fact.values}
    usual = {value.split()[-1] for kind in ("name", "food", "word") for value in facts(None)[kind].values}
    spoken = {word.strip('.,!?:;"').removesuffix("'s") for word in told}
    assert not strange & spoken
    assert len(usual & spoken) > 0.9 * len(usual)


def test_what_there_is_no_recipe_for_is_refused():
    with pytest.raises(ValueError, match="no recipe for the adapter 'fr'; there are chat, qa, en-zh"):
        main(["make", "fr"])
