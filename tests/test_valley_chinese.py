"""The Chinese telling of the Llama Valley: its marks, its words, and that it tells what happened."""

import doctest
import re
from itertools import product

import pytest

from llama_minimal.data.valley import chinese, story
from llama_minimal.data.valley.chinese import Chinese, numeral
from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.phrasebook import phrasebook
from llama_minimal.data.valley.world import CHARACTERS, EVENTS, HOME, PLACES, WORLD, Event, thing

STORIES = [story(index) for index in range(2000)]
TEXTS = [known.text("chinese") for known in STORIES]
MARKS = "，。！？：、“”"


def test_only_chinese_characters_and_full_width_marks() -> None:
    for text in TEXTS:
        assert re.fullmatch(rf"[一-鿿{MARKS}\n]+", text), text


def test_quotes_open_and_close_in_turn() -> None:
    for text in TEXTS:
        quotes = re.sub("[^“”]", "", text)
        assert quotes == "“”" * (len(quotes) // 2), text


def test_every_paragraph_ends_a_sentence() -> None:
    for text in TEXTS:
        assert all(re.search(r"[。！？]”?$", paragraph) for paragraph in text.split("\n\n")), text
        assert text.endswith(("。", "！", "”"))


def test_no_mark_follows_another() -> None:
    for text in TEXTS:
        assert not re.search(r"[，。！？：、]{2}|”[，。！？、]|“[，。！？、：”]|，”[^\w]|\n[，。！？：、”]", text), text


def test_no_word_is_said_twice_by_mistake() -> None:
    for text in TEXTS:
        assert not re.search("在在|的的|了了|，的|。的|去去|到到|一[那这一]|回在|到在", text), text


def test_characters_fit_a_small_tokenizer() -> None:
    assert len(set("".join(TEXTS))) < 800


def test_everyone_in_the_events_is_named() -> None:
    names = phrasebook("chinese").words["character"]
    for known, text in zip(STORIES, TEXTS, strict=True):
        present = {event.roles[role] for event in known.events for role in "abc" if role in event.roles}
        assert all(names[name] in text for name in present), (known.index, present, text)


def test_telling_twice_is_equal() -> None:
    assert [known.text("chinese") for known in STORIES[:200]] == TEXTS[:200]


def test_every_kind_of_event_has_a_wording() -> None:
    phrases = phrasebook("chinese").phrases
    assert not [kind for kind in EVENTS if not phrases.get(kind)]
    assert {"why " + kind for kind in EVENTS} >= {section for section in phrases if section.startswith("why ")}


def test_the_same_causes_are_given_as_in_english() -> None:
    assert {name for name in phrasebook("english").phrases if name.startswith("why ")} <= set(
        phrasebook("chinese").phrases
    )


def roles() -> dict[str, list[str]]:
    """Return every word that the world can put into a role."""
    lists = {kind[:-1]: WORLD[kind]["names"].split() for kind in ("jobs", "foods", "plants", "relatives", "insults")}
    lists |= {kind[:-1]: WORLD[kind]["names"].split() for kind in ("sounds", "contests", "tasks", "obstacles")}
    illnesses = WORLD["illnesses"].values()
    return lists | {
        "damage": WORLD["damage"]["names"].split(),
        "time": WORLD["times"]["parts"].split(),
        "feeling": list(WORLD["feelings"]),
        "weather": list(WORLD["weather"]),
        "goods": list(WORLD["goods"]),
        "matter": list(WORLD["matters"]),
        "ruling": [ruling for matter in WORLD["matters"].values() for ruling in matter["rulings"]],
        "illness": list(WORLD["illnesses"]),
        "sign": [sign for illness in illnesses for sign in illness["signs"]],
        "cure": [cure for illness in illnesses for cure in illness["cures"]],
        "species": [character.species for character in CHARACTERS.values()],
        "character": list(CHARACTERS),
        "place": [*PLACES, HOME],
    }


FORMS = {
    "goods": ("", "m"),
    "matter": ("", "ask"),
    "illness": ("", "over", "still"),
    "contest": ("", "verb", "train"),
    "sound": ("", "verb", "what"),
    "obstacle": ("", "the"),
    "task": ("", "past"),
    "species": ("kind", "m"),
    "place": ("", "in", "to"),
}


@pytest.mark.parametrize(("role", "values"), roles().items())
def test_every_word_of_the_world_is_there(role: str, values: list[str]) -> None:
    telling = Chinese({}, {}, Dice(0))
    for value, form in product(values, FORMS.get(role, ("",))):
        assert re.fullmatch(rf"[一-鿿{MARKS}]+", telling.entry(role, value, form))


def test_every_thing_has_a_name_of_its_own() -> None:
    telling = Chinese({}, {}, Dice(0))
    for noun, adjectives in WORLD["things"].items():
        labels = [telling.thing(thing(noun, adjective), "label") for adjective in adjectives.split()]
        assert len(set(labels)) == len(labels), labels
        assert re.fullmatch("[一-鿿]+", "".join(labels))
        assert telling.thing(thing(noun, adjectives.split()[0]), "a").startswith("一")
    assert telling.thing(thing("kite", "red"), "a") == "一只红风筝"


def test_a_missing_word_is_refused() -> None:
    telling = Chinese({}, {}, Dice(0))
    telling.roles = {"food": "pizza", "sum": 3, "task": "water"}
    with pytest.raises(ValueError, match=r"no word for 'pizza' in \[food\]"):
        telling.word("food", "")
    with pytest.raises(ValueError, match=r"no word for 'water' in \[task\], form 'never'"):
        telling.word("task", "never")
    with pytest.raises(ValueError, match=r"no word for 'alpaca' in \[species\]"):
        telling.entry("species", "alpaca")
    assert telling.word("sum", "") == "三枚硬币"


def test_an_unknown_form_is_refused() -> None:
    telling = Chinese({}, {}, Dice(0))
    with pytest.raises(ValueError, match="a character has no form 'him'"):
        telling.character("Lila", "him")
    with pytest.raises(ValueError, match="a thing has no form 'was'"):
        telling.thing(thing("kite", "red"), "was")
    with pytest.raises(ValueError, match=r"no word for 'hill' in \[place\], form 'near'"):
        telling.place("hill", "near")
    assert telling.place("hill", "at") == "在小山上"


def test_numerals() -> None:
    assert doctest.testmod(chinese).failed == 0
    assert " ".join(map(numeral, (0, 1, 11, 20, 22, 99, 108))) == "零 一 十一 二十 二十二 九十九 一百零八"
    with pytest.raises(ValueError, match="200"):
        numeral(200)


def test_sums_are_told() -> None:
    told = 0
    for known in STORIES[:500]:
        parts = known.tell("chinese")
        for event, part in zip(known.events, parts, strict=True):
            for role, unit in (("sum", "枚硬币"), ("coins", "枚硬币"), ("degrees", "度"), ("pieces", "")):
                if role in event.roles:
                    told += 1
                    assert numeral(event.roles[role]) + unit in part.text
    assert told > 100


def test_pronouns_are_clear() -> None:
    """Say 他 or 她 only if the latest-mentioned character of that gender is meant, and nobody else is near."""
    telling = Chinese({}, {}, Dice(0))
    assert telling.character("Lila", "full") == "羊驼莉拉"
    assert telling.character("Lila", "") == "她"
    assert telling.character("Otto", "full") == "小獾奥托"
    assert telling.character("Lila", "") == "她"
    telling.character("Mina", "full")
    assert telling.character("Lila", "") in ("莉拉", "羊驼")
    telling.sentence += 2
    assert telling.character("Otto", "") in ("奥托", "小獾")


def test_sentences_end_at_full_width_marks() -> None:
    telling = Chinese({}, {}, Dice(0))
    telling._write(("一。二！三？“四！”五。",))
    assert telling.sentence == 4


def test_a_cause_does_not_repeat_its_subject() -> None:
    lost = Event("lose", {"a": "Lila", "x": "red kite", "p": "hill"}, "noon", "hill", None, 0)
    sad = Event("feel", {"a": "Lila", "feeling": "worried"}, "noon", "hill", 0, 0)
    texts = []
    for seed in range(60):
        telling = Chinese({"red kite": thing("kite", "red")}, {}, Dice(seed))
        texts.append([telling.tell(number, [lost, sad]) for number in (0, 1)][1])
    assert any("因为丢了" in text for text in texts)
    assert not any(re.search("因为(她|莉拉|羊驼)", text) for text in texts)
