"""The checker accepts what the valley tells, and refuses what contradicts it."""

import random
import re
from dataclasses import replace

import pytest

from llama_minimal.data.valley import CANARIES, story
from llama_minimal.data.valley.checker import PROPERTIES, check, check_many
from llama_minimal.data.valley.world import CHARACTERS, EVENTS, PLACES, WORLD

STORIES = [story(index) for index in range(300)]
# Only what the checker accepts can show that it notices an error.
SOUND = [tale for tale in STORIES if check(tale.text()).grammatical]


def swap_one(dice, text, pattern, new, skip=0):
    """Replace one match of a pattern; None if there is none behind the first few."""
    found = list(re.finditer(pattern, text))[skip:]
    if not found:
        return None
    match = dice.choice(found)
    return text[: match.start()] + new(match) + text[match.end() :]


def a_stranger(dice, tale, text):
    stranger = dice.choice([name for name in CHARACTERS if name not in tale.characters])
    return swap_one(dice, text, rf"\b({'|'.join(tale.characters)})\b(?! the)", lambda match: stranger)


def another_of_the_cast(dice, tale, text):
    """Not always an error: someone else may well be the one who laughs."""

    def other(match):
        return dice.choice([name for name in tale.characters if name != match[0]] or [match[0]])

    return swap_one(dice, text, rf"\b({'|'.join(tale.characters)})\b(?! the)", other, skip=1)


def a_wrong_species(dice, tale, text):
    kinds = [who.species for who in CHARACTERS.values()]
    wrong = dice.choice([kind for kind in kinds if kind not in text])
    return swap_one(dice, text, rf"(?<=[a-z] the )({'|'.join(kinds)})\b", lambda match: wrong)


def the_other_pronoun(dice, tale, text):
    """Not always an error: a he and a she may both be near."""
    other = {"he": "she", "she": "he", "He": "She", "She": "He"}
    return swap_one(dice, text, r"\b([Hh]e|[Ss]he)\b", lambda match: other[match[0]])


def another_adjective(dice, tale, text):
    if not tale.things:
        return None
    thing = next(iter(tale.things.values()))
    other = dice.choice([word for word in WORLD["things"][thing.noun].split() if word != thing.adjective])
    return swap_one(dice, text, rf"\b{thing.label}\b", lambda match: f"{other} {thing.noun}", skip=1)


def wrong_number(dice, tale, text):
    other = {"was": "were", "were": "was", "it": "them", "them": "it"}
    return swap_one(dice, text, r"\b(was|were|it|them)\b", lambda match: other[match[0]])


def retold(dice, tale, fact, change):
    """Return the story with a role changed in an event that needs a fact about something that is known by then."""
    for number in dice.sample(range(len(tale.events)), len(tale.events)):
        event = tale.events[number]
        for need in EVENTS[event.kind].needs:
            known = event.roles.get(need[-1] if fact == "holds" else need[1])
            before = {
                earlier.roles.get(role)
                for earlier in tale.events[:number]
                for other in EVENTS[earlier.kind].needs + EVENTS[earlier.kind].makes
                if other[0] == fact
                for role in other[1:]
            }
            roles = change(event, need) if need[0] == fact and known in before else None
            if roles:
                events = list(tale.events)
                events[number] = replace(event, roles=event.roles | roles)
                return replace(tale, events=events).text()
    return None


def another_holder(dice, tale, text):
    def change(event, need):
        others = [name for name in tale.characters if name not in event.roles.values()]
        return {need[1]: dice.choice(others)} if others else None

    return retold(dice, tale, "holds", change)


def another_place(dice, tale, text):
    def change(event, need):
        return {need[2]: dice.choice([place for place in PLACES if place not in tale.places])}

    return retold(dice, tale, "at", change)


def events_in_disorder(dice, tale, text):
    events = [told.text for told in tale.tell()]
    return " ".join(dice.sample(events, len(events)))


def a_word_less(dice, tale, text):
    return swap_one(dice, text, r"\S+ ", lambda match: "")


def a_word_twice(dice, tale, text):
    return swap_one(dice, text, r"\S+ ", lambda match: match[0] * 2)


def a_wrong_article(dice, tale, text):
    return swap_one(dice, text, r"\b[Aa]n?\b", lambda match: match[0][0] if len(match[0]) == 2 else match[0] + "n")


def a_wrong_word(dice, tale, text):
    return swap_one(dice, text, r"\b[a-z]{4,}\b", lambda match: "zebra")


def test_real_stories_are_accepted():
    shares = check_many(tale.text() for tale in STORIES)
    assert list(shares) == ["sentences", *PROPERTIES, "grammatical"]
    assert min(shares.values()) == 1, shares


@pytest.mark.parametrize(
    ("corrupt", "least", "about"),
    [
        (a_stranger, 0.95, "names"),
        (another_of_the_cast, 0.7, "names"),
        (a_wrong_species, 0.98, "names"),
        (the_other_pronoun, 0.8, "pronouns"),
        (another_adjective, 0.98, "objects"),
        (wrong_number, 0.98, "reads"),
        (another_holder, 0.9, "holding"),
        (another_place, 0.75, "places"),
        (events_in_disorder, 0.95, "names"),
        (a_word_less, 0.95, "reads"),
        (a_word_twice, 0.98, "reads"),
        (a_wrong_article, 0.98, "reads"),
        (a_wrong_word, 0.98, "reads"),
    ],
)
def test_errors_are_noticed(corrupt, least, about):
    dice = random.Random(0)
    pairs = [(text, corrupt(dice, tale, text)) for tale in SOUND for text in [tale.text()]]
    checks = [check(text) for right, text in pairs if text and text != right]
    noticed = [found for found in checks if not found.grammatical]
    assert len(checks) >= 30
    assert len(noticed) / len(checks) >= least, f"{len(noticed)} of {len(checks)}"
    named = [found for found in noticed if any(problem.startswith(f"{about}: ") for problem in found.problems)]
    assert len(named) / len(noticed) >= 0.5
    assert not any(getattr(found, about) for found in named)


def test_what_is_understood_is_judged_beside_what_is_not():
    text = SOUND[0].text()
    beside = check(f"{text} Colorless green ideas sleep.")
    assert [name for name in PROPERTIES if not getattr(beside, name)] == ["reads"]
    wrong = a_wrong_species(random.Random(0), SOUND[0], text)
    beside = check(f"{wrong} Colorless green ideas sleep.")
    assert (beside.reads, beside.names, beside.objects) == (False, False, True)


@pytest.mark.parametrize("text", ["", " \n\n ", "Xyzzy plugh.", "x  y\n\n\n\nz ", 'The the the. the? "" The'])
def test_garbage_is_refused(text):
    assert not check(text).reads


def test_a_story_may_be_cut_off_if_that_is_said():
    text = SOUND[0].text()
    cut = text[: text.rindex(" ")]
    assert not check(cut).reads
    assert check(cut, complete=False).grammatical
    assert check(text, complete=False).grammatical


def test_secrets_are_allowed():
    for canary in CANARIES:
        assert check(f"{SOUND[0].text()} {canary}").grammatical


def test_a_check_is_the_same_twice():
    text = events_in_disorder(random.Random(1), SOUND[1], "")
    assert check(text) == check(text)


def test_no_texts():
    assert set(check_many([]).values()) == {0.0}


def test_nonsense_is_not_consistent():
    """A text in which nothing can be read has no one in two places, and must not be praised for it."""
    found = check("Flrb the gnax went mip. Purple under of sang. Wet blue the.")
    assert found.sentences == 0
    assert not any(getattr(found, name) for name in PROPERTIES)


def test_one_odd_sentence_spoils_no_other_property():
    paragraphs = STORIES[3].text().split("\n\n")
    found = check("\n\n".join([paragraphs[0] + " Purple under of sang.", *paragraphs[1:]]))
    assert not found.reads
    assert 0.5 < found.sentences < 1
    assert found.names
    assert found.pronouns
