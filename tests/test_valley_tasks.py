"""Tasks of the valley: every answer is looked up again, in the record, by readers that know nothing of its makers."""

import json
import re
import tomllib
from collections import Counter, defaultdict
from functools import cache
from importlib.resources import files

import pytest

from llama_minimal.data.valley import TASKS, ValleySettings, examples, mixed, stories, story

FOLDER = files("llama_minimal.data.valley")
WORLD = tomllib.loads((FOLDER / "world.toml").read_text("utf-8"))
WORDS = tomllib.loads((FOLDER / "english" / "words.toml").read_text("utf-8"))
NAMES = list(WORLD["characters"])
SPECIES = {name: text.split()[0] for name, text in WORLD["characters"].items()}
HIS = {name: {"she": "her", "he": "his"}[text.split()[1]] for name, text in WORLD["characters"].items()}
PLURAL = WORLD["plural"]["things"].split()
JOBS = WORLD["jobs"]["names"].split()
UNKNOWN = "The story does not say."
N = 1500

WHO = rf"({'|'.join(NAMES)}|the (?:{'|'.join([*SPECIES.values(), *JOBS])}))"
THING = r"the (\w+ \w+)"
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER = {word: n for n, word in enumerate(SMALL)}
NUMBER |= {word: 20 + 10 * n for n, word in enumerate(TENS)}
NUMBER |= {f"{ten}-{SMALL[n]}": NUMBER[ten] + n for ten in TENS for n in range(1, 10)}
NUMBER |= {"one hundred": 100} | {f"one hundred and {SMALL[n]}": 100 + n for n in range(1, 20)}


NUMERALS = rf"(?:{'|'.join(sorted(NUMBER, key=len, reverse=True))})\b"


def read_number(text: str) -> int:
    """Return the number at the start of a text such as "twenty-one coins"."""
    return NUMBER[re.match(NUMERALS, text)[0]]


@pytest.fixture(scope="module")
def told():
    return list(stories(N, split=None))


class Key:
    """A reader of a record."""

    def __init__(self, record: dict):
        self.record = record
        self.events = record["events"]
        self.names = {}
        for character in record["characters"]:
            name, job = character["name"], character["job"]
            self.names |= {name: name, f"the {character['species']}": name}
            if job:
                self.names[f"the {job}"] = name

    def find(self, kinds: str, **roles) -> list[dict]:
        """Return the roles of the events of these kinds that have these roles."""
        return [
            {**event["roles"], "event": event, "number": number}
            for number, event in enumerate(self.events)
            if event["kind"] in kinds.split()
            and all(self.names.get(value, value) == event["roles"][role] for role, value in roles.items())
        ]

    def when(self, number: int) -> str:
        day = [event["kind"] for event in self.events[:number] if event["kind"] in ("later", "next_day")]
        if not day:
            return "before the story has told a time"
        if day[-1] == "next_day":
            return "the next morning"
        time = self.events[number]["time"]
        return f"at {time}" if time in ("noon", "night") else f"in the {time}"


def at(place):
    return WORDS["place"][place][1]


def to(place):
    return WORDS["place"][place][2]


def base(role, value):
    word = WORDS.get(role, {}).get(value, value)
    return word["base"] if isinstance(word, dict) else word


def words(role, value):
    word = base(role, value)
    return set(word) if isinstance(word, list) else {word}


def a_thing(label):
    if label.split()[-1] in PLURAL:
        return f"a pair of {label}"
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"


def coins(n, unit="coin"):
    spelled = next(word for word, value in NUMBER.items() if value == n)
    return f"{spelled} {unit}{'' if n == 1 else 's'}"


def role(kinds, answer, **by):
    """Return a rule: the answers are a role, in words, of all events whose other roles are the groups of the match."""

    def rule(key, match):
        return {answer(e) for e in key.find(kinds, **{name: match[group] for name, group in by.items()})}

    return rule


def foods(kinds, **by):
    def rule(key, match):
        found = key.find(kinds, **{name: match[group] for name, group in by.items()})
        return {word for e in found for word in words("food", e["food"])}

    return rule


def yes(kind, otherwise, **by):
    """Return a rule: yes if there is such an event; no if there is none, or one that says otherwise."""

    def rule(key, match):
        roles = {name: match[group] for name, group in by.items()}
        if key.find(kind, **roles):
            return {"Yes."} | ({"No."} if otherwise and key.find(otherwise, **roles) else set())
        return {"No."}

    return rule


def when(kind, **by):
    def rule(key, match):
        return {key.when(e["number"]) for e in key.find(kind, **{name: match[group] for name, group in by.items()})}

    return rule


def person(kinds, letter, **by):
    return role(kinds, lambda e: e[letter], **by)


def label(kinds, letter, **by):
    return role(kinds, lambda e: f"the {e[letter]}", **by)


RULES = [
    (rf"What did the vet give {WHO}\?", role("cure", lambda e: e["cure"], a=1)),
    (rf"What did {WHO} lose\?", label("lose", "x", a=1)),
    (rf"Who lost {THING}\?", person("lose", "a", x=1)),
    (rf"Where did {WHO} lose {THING}\?", role("lose", lambda e: at(e["p"]), a=1, x=2)),
    (rf"Did {WHO} lose {THING}\?", yes("lose", "", a=1, x=2)),
    (rf"Where did {WHO} look for {THING}\?", role("look", lambda e: at(e["q"]), a=1, x=2)),
    (rf"Who knew where {THING} (?:was|were)\?", person("hint", "b", x=1)),
    (rf"Who found {THING}\?", person("find", "a", x=1)),
    (rf"Where did {WHO} find {THING}\?", role("find", lambda e: at(e["p"]), a=1, x=2)),
    (rf"When did {WHO} find {THING}\?", when("find", a=1, x=2)),
    (rf"Did {WHO} find {THING}\?", yes("find", "", a=1, x=2)),
    (rf"Who gave {THING} back\?", person("give_back", "b", x=1)),
    (rf"What did {WHO} lend\?", label("lend", "y", b=1)),
    (rf"What did {WHO} want\?", label("want", "x", b=1)),
    (rf"Did {WHO} want {THING}\?", yes("want", "", b=1, x=2)),
    (rf"Who did not want to share {THING}\?", person("refuse", "a", x=1)),
    (r"What was damaged\?", label("tug crack", "x")),
    (rf"Whom did {WHO} blame\?", person("blame", "b", a=1)),
    (r"Who said something unkind\?", person("unkind", "a")),
    (rf"Where did {WHO} go after the quarrel\?", role("part", lambda e: to(e["p"]), a=1)),
    (rf"Who gave {WHO} advice\?", person("advise", "c", a=1)),
    (r"Who said sorry\?", person("sorry", "a")),
    (rf"Did {WHO} say sorry to {WHO}\?", yes("sorry", "", a=1, b=2)),
    (rf"Did {WHO} forgive {WHO}\?", yes("forgive", "stay_cross", b=1, a=2)),
    (rf"Who mended {THING}\?", role("mend fix", lambda e: e.get("c") or e["a"], x=1)),
    (rf"Did {WHO} mend {THING}\?", yes("fix", "cannot_fix", c=1, x=2)),
    (rf"What did {WHO} promise to do\?", role("promise", lambda e: WORDS["task"][e["task"]]["base"], a=1)),
    (rf"Who wanted {WHO} to come along\?", person("tempt", "c", a=1)),
    (rf"Did {WHO} keep the promise\?", yes("keep", "forget", a=1)),
    (r"Who forgot a promise\?", person("forget", "a")),
    (rf"What did {WHO} hide\?", label("hide", "x", a=1)),
    (rf"Where did {WHO} hide {THING}\?", role("hide", lambda e: at(e["p"]), a=1, x=2)),
    (rf"Did {WHO} hide {THING}\?", yes("hide", "", a=1, x=2)),
    (rf"Who told {WHO} the secret\?", person("tell_secret", "a", b=1)),
    (r"Who wanted to know the secret\?", person("ask_secret", "c")),
    (rf"Did {WHO} keep the secret\?", yes("keep_secret", "spill", b=1)),
    (r"Who gave the secret away\?", person("spill", "b")),
    (rf"Who took {THING}\?", person("take", "c", x=1)),
    (rf"For whom (?:was|were) {THING}\?", person("surprise", "c", x=1)),
    (r"Who was new in the valley\?", person("newcomer", "b")),
    (rf"What did {WHO} bring\?", foods("bring", a=1)),
    (rf"When did {WHO} bring something to eat\?", when("bring", a=1)),
    (rf"Where did {WHO} and {WHO} go together\?", role("invite", lambda e: to(e["q"]), a=1, b=2)),
    (r"Whose birthday was it\?", person("birthday", "b")),
    (rf"What did {WHO} make\?", role("make", lambda e: a_thing(e["x"]), a=1)),
    (rf"What did {WHO} give {WHO}\?", label("give", "x", a=1, b=2)),
    (rf"Where did {WHO} get {THING}\?", role("give", lambda e: at(e["event"]["here"]), b=1, x=2)),
    (rf"When did {WHO} get the present\?", when("give", b=1)),
    (rf"Did {WHO} give {THING} to {WHO}\?", yes("give", "", a=1, x=2, b=3)),
    (r"When did the storm come\?", when("storm")),
    (r"Who was missing\?", person("missing", "c")),
    (rf"Who rescued {WHO}\?", person("rescue", "a", c=1)),
    (rf"Did {WHO} rescue {WHO}\?", yes("rescue", "", a=1, c=2)),
    (r"What did the storm break\?", label("break", "damage")),
    (r"Who repaired the (\w+)\?", role("repair", lambda e: f"{e['a']} and {e['b']}", damage=1)),
    (rf"Whom did {WHO} want to visit\?", role("reason", lambda e: f"{HIS[e['a']]} {e['relative']}", a=1)),
    (r"What was in the way\?", role("blocked", lambda e: WORDS["obstacle"][e["obstacle"]]["base"])),
    (rf"Who helped {WHO} past the [\w ]+\?", person("help_over", "b", a=1)),
    (rf"Where did {WHO} arrive\?", role("arrive", lambda e: at(e["q"]), a=1)),
    (rf"When did {WHO} arrive\?", when("arrive", a=1)),
    (rf"What did {WHO} hear in the night\?", role("night_sound", lambda e: f"a {e['sound']}", a=1)),
    (rf"Whom did {WHO} wake\?", person("wake", "b", a=1)),
    (r"Who was making the sound\?", person("find_out", "c")),
    (rf"What did {WHO} plant\?", role("plant", lambda e: e["plant"], a=1)),
    (rf"Did {WHO} plant (\w+)\?", yes("plant", "", a=1, plant=2)),
    (r"Who helped to water the (\w+)\?", person("help_water", "b", plant=1)),
    (r"Who helped with the harvest\?", person("harvest", "b")),
    (rf"What did {WHO} and {WHO} eat\?", foods("eat", a=1, b=2)),
    (rf"What did {WHO} pay with\?", foods("pay", a=1)),
    (r"What kind of contest was there\?", role("contest", lambda e: base("contest", e["contest"]))),
    (r"Who won the [\w ]+\?", person("win", "a")),
    (rf"When did {WHO} win\?", when("win", a=1)),
    (rf"Did {WHO} win the [\w ]+\?", yes("win", "", a=1)),
    (rf"What did {WHO} sell at the market\?", role("stall", lambda e: e["goods"], a=1)),
    (rf"How many (\w+) did {WHO} buy\?", role("buy", lambda e: e["pieces"], goods=1, b=2)),
    (rf"How much did {WHO} earn\?", role("count", lambda e: e["sum"], a=1)),
    (rf"What did {WHO} buy with the money\?", role("spend", lambda e: a_thing(e["x"]), a=1)),
    (rf"What was wrong with {WHO}\?", role("ill", lambda e: e["sign"], a=1)),
    (rf"What illness did {WHO} have\?", role("examine", lambda e: base("illness", e["illness"]), a=1)),
    (rf"Did {WHO} get well again\?", yes("recover", "still_ill", a=1)),
    (rf"What did {WHO} and {WHO} quarrel about\?", role("dispute", lambda e: base("matter", e["matter"]), a=1, b=2)),
    (r"Who was the judge\?", person("rule", "c")),
    (rf"Who was the ({'|'.join(JOBS)})\?", person("work", "a", job=1)),
    (rf"What was the job of {WHO}\?", role("work", lambda e: e["job"], a=1)),
    (rf"Where did {WHO} take {THING}\?", role("take_to", lambda e: to(e["p"]), a=1, x=2)),
    (rf"How did {WHO} feel\?", role("feel", lambda e: e["feeling"], a=1)),
    (rf"Did {WHO} reach the (\w+)\?", yes("arrive", "turn_back", a=1, q=2)),
]
RULES = [(re.compile(pattern), rule) for pattern, rule in RULES]


def answers(key: Key, question: str) -> set | None:
    """Return all answers that the record allows, or None if no rule knows the question."""
    for pattern, rule in RULES:
        if match := pattern.fullmatch(question):
            return rule(key, match)
    return None


def ask(example) -> str:
    return example.prompt.rpartition("Question: ")[2].removesuffix("\nAnswer: ")


@pytest.fixture(scope="module")
def asked(told):
    """Every question of every story: key, kind, question, answer."""
    return [
        (key, example.kind, ask(example), example.answer)
        for one in told
        for key in [Key(one.record())]
        for example in examples(one, "qa")
    ]


def as_told(answer: str) -> str | int:
    """Return the number that an answer such as "twenty-one coins" says, or else the answer."""
    word = answer.removesuffix("s").removesuffix(" coin")
    return NUMBER.get(word, answer)


def say(expected, answer) -> bool:
    return as_told(answer) in expected or answer in expected


# --- questions ---


def test_the_record_gives_the_same_answers(asked):
    unread, seen = Counter(), Counter()
    for key, kind, question, answer in asked:
        if kind in ("unknown", "why", "who has", "where is"):
            continue
        expected = answers(key, question)
        if expected is None:
            unread[question] += 1
            continue
        seen[kind] += 1
        assert say(expected, answer), (key.record["index"], question, answer, expected)
    assert unread.total() <= 0.04 * seen.total(), unread.most_common(5)
    assert {"who", "what", "where", "when", "yes", "no", "how", "how many", "how much"} <= set(seen)


def test_most_rules_are_needed(asked):
    used = {pattern for pattern, _ in RULES for _, _, question, _ in asked[:8000] if pattern.fullmatch(question)}
    assert len(used) >= 0.9 * len(RULES)


def test_a_wrong_answer_would_be_noticed(asked):
    """Answers of the next story's questions are mostly wrong."""
    checked = noticed = 0
    for (key, kind, question, _), (_, other, _, answer) in zip(asked, asked[40:], strict=False):
        expected = answers(key, question)
        if kind == other and kind in ("who", "where", "what") and expected is not None:
            checked += 1
            noticed += not say(expected, answer)
    assert noticed > 0.9 * checked > 100


def ambiguous(asked):
    for key, kind, question, answer in asked:
        expected = answers(key, question) if kind not in ("unknown", "why", "who has", "where is") else None
        if expected and len(expected) > 1 and not expected & {word for f in WORDS["food"] for word in words("food", f)}:
            yield key.record["index"], question, answer, expected


def test_few_questions_have_two_answers(asked):
    kinds = {re.sub(WHO, "_", question).partition(" for ")[0] for _, question, _, _ in ambiguous(asked)}
    assert kinds <= {"How did _ feel?", "Where did _ look"}


def test_no_question_has_two_answers(asked):
    assert list(ambiguous(asked)) == []


def test_no_question_is_asked_twice(told):
    for one in told:
        questions = [ask(example) for example in examples(one, "qa")]
        assert len(questions) == len(set(questions)), one.index


CAUSES = {  # a word that must be in the reason that this event is
    "lose": "lost", "find": "found", "hint": "seen", "give_back": "brought back", "lend": "lent", "refuse": "share",
    "tug": "damaged", "blame": "angry", "unkind": "unkind", "sorry": "sorry", "promise": "promised", "keep": "kept",
    "forget": "forgotten", "spill": "secret away", "gone": "gone", "surprise": "had given", "newcomer": "new in",
    "bring": "brought", "birthday": "birthday", "give": "had given", "storm": "storm", "break": "broken",
    "reason": "visit", "blocked": "in the way", "help_over": "helped", "night_sound": "heard", "find_out": "only",
    "fail": "died", "win": "won", "no_buyers": "nobody", "ill": "ill", "still_ill": "still ill", "dispute": "quarreled",
    "rule": "judge", "crack": "damaged", "fix": "mended", "tell_secret": "secret", "ask_secret": "asking",
}  # fmt: skip


def test_reasons_are_causes(asked):
    seen = Counter()
    for key, kind, question, answer in asked:
        if kind != "why":
            continue
        if match := re.fullmatch(rf"Why was {WHO} (\w+)\?", question):
            effects = key.find("feel", a=match[1], feeling=match[2])
        elif match := re.fullmatch(rf"Why did {WHO} go away\?", question):
            effects = key.find("part", a=match[1])
        else:
            match = re.fullmatch(rf"Why did {WHO} go (.+)\?", question)
            effects = [e for e in key.find("go", a=match[1]) if to(e["p"]) == match[2]]
        causes = [key.events[e["event"]["because"]] for e in effects if e["event"]["because"] is not None]
        fitting = [cause for cause in causes if CAUSES[cause["kind"]] in answer]
        assert fitting, (key.record["index"], question, answer, causes)
        seen.update(cause["kind"] for cause in fitting)
        roles = {value for cause in fitting for value in cause["roles"].values()}
        named = set(re.findall("|".join(NAMES), answer)) | {
            key.names[who] for who in re.findall(WHO, answer) if who in key.names
        }
        assert named <= roles, (key.record["index"], question, answer)
    assert len(seen) >= 12


def test_endings_are_in_the_record(asked):
    count = 0
    for key, kind, question, answer in asked:
        if kind == "who has":
            (thing,) = re.fullmatch(rf"Who has {THING} at the end\?", question).groups()
            assert key.record["ending"]["holder"][thing] == answer
        elif kind == "where is":
            verb, thing = re.fullmatch(rf"Where (is|are) {THING} at the end\?", question).groups()
            holder, lies = (key.record["ending"][where].get(thing) for where in ("holder", "lies"))
            assert answer == (f"with {holder}" if holder else at(lies))
            assert (verb == "are") == (thing.split()[-1] in PLURAL)
        else:
            continue
        count += 1
    assert count > 500


def test_what_the_story_does_not_say(asked):
    """No event is such that it would answer the question."""
    count = 0
    for key, kind, question, answer in asked:
        assert (kind == "unknown") == (answer == UNKNOWN)
        if kind == "unknown":
            found = answers(key, question) if "take along" not in question else set()
            assert found == set(), (key.record["index"], question, found)
            count += 1
    assert count > N


def test_what_the_story_does_not_say_is_not_in_other_events(asked):
    for key, kind, question, _ in asked:
        if kind != "unknown":
            continue
        if match := re.fullmatch(rf"What was the job of {WHO}\?", question):
            job = {c["name"]: c["job"] for c in key.record["characters"]}[key.names[match[1]]]
            assert job is None, (key.record["index"], question, job)
        if match := re.fullmatch(rf"What did {WHO} and {WHO} quarrel about\?", question):
            two = {key.names[match[1]], key.names[match[2]]}
            fights = [{e["a"], e["b"]} for e in key.find("refuse tug")]
            assert two not in fights, (key.record["index"], question)


def test_the_earnings_of_who_sold_nothing_are_known():
    for one in stories(8000, split=None):
        if any(event.kind == "no_buyers" for event in one.events):
            for example in examples(one, "qa"):
                assert not re.fullmatch(rf"How much did {one.characters[0]} earn\?", ask(example)), one.index


def test_questions_are_about_those_who_come_up(asked):
    for key, _, question, _ in asked:
        present = {value for event in key.events for value in event["roles"].values()}
        for who in re.findall(WHO, question):
            assert key.names.get(who, next(iter(present))) in present, (key.record["index"], question)


def test_nobody_is_asked_about_twice_in_one_question(asked):
    for key, _, question, _ in asked:
        who = [key.names.get(name, name) for name in re.findall(WHO, question)]
        assert len(who) == len(set(who)), (key.record["index"], question)
        assert not re.search(r"\b(?:him|her|he|she)\b", question), (key.record["index"], question)


def test_names_in_questions_are_of_the_story(asked):
    for key, kind, question, _ in asked:
        named = set(re.findall(rf"\b(?:{'|'.join(NAMES)})\b", question))
        known = set(key.names.values())
        assert named <= known or (kind == "unknown" and len(known) < 3), (key.record["index"], question)


def test_about_as_many_no_as_yes(asked):
    counts = Counter(kind for _, kind, _, _ in asked)
    assert 0.2 < counts["no"] / (counts["yes"] + counts["no"]) < 0.6
    assert all((answer == "Yes.") == (kind == "yes") for _, kind, _, answer in asked if kind in ("yes", "no"))


def unspoken(told, kinds):
    """Yield answers whose words are not in the story."""
    for one in told:
        text = one.text().lower()
        for example in examples(one, "qa"):
            plain = re.sub(
                r"^(?:(?:up|down|to|into|in|at|by|on|under|near|the|an?|his|her) )+", "", example.answer.lower()
            )
            if example.kind in kinds and plain not in text and not set(example.answer.split()) & set(NAMES):
                yield one.index, ask(example), example.answer


def test_answers_are_words_of_the_story(told):
    assert list(unspoken(told[:600], ("where", "who", "how many", "how much"))) == []


def test_food_is_called_as_in_the_story(told):
    food = [each for each in unspoken(told, ("what",)) if re.search(r" (?:bring|eat|pay with)\?$", each[1])]
    assert food == []


# --- sentiment ---


def test_the_sentiment_of_an_ending():
    closing = {"close_glad": "positive", "close_calm": "neutral", "close_sad": "negative"}
    for one in stories(300, split=None):
        first = examples(one, "sentiment")[0]
        assert (first.kind, first.answer) == ("ending", closing[one.record()["events"][-1]["kind"]])
        assert first.prompt == f"{one.text()}\n\nSentiment: "


def test_the_sentiment_of_a_character(told):
    answers = Counter()
    for one in told:
        record = one.record()
        for example in examples(one, "sentiment")[1:]:
            name = re.search(r"\n\nSentiment of (\w+): $", example.prompt)[1]
            feeling = record["ending"]["feels"][name]
            said = [e["roles"]["feeling"] for e in record["events"] if e["kind"] == "feel" and e["roles"]["a"] == name]
            assert said[-1] == feeling
            assert example.answer == {1: "positive", 0: "neutral", -1: "negative"}[WORLD["feelings"][feeling]]
            answers[example.answer] += 1
    assert min(answers[label] for label in ("positive", "neutral", "negative")) > 10


# --- dialogue ---


def turns(one) -> list[tuple[str, str]]:
    return [
        (example.prompt.rpartition("\nUser: ")[2].removesuffix("\nLlama: "), example.answer)
        for example in examples(one, "dialogue")
    ]


ELLIPSIS = r"^(?:And |To whom|From whom|Where\?|Where to\?|From where\?|For how long\?|Who noticed it|Who was there)"
REFERS = r"\b(?:he|him|his|she|her|it|its|they|them|their|that|there)\b"
OPEN = r"^(?:Where was that|Where was it held|How much did one cost|What was the fine|Why was that)"


def test_a_talk_goes_on_from_what_was_said(told):
    referring = 0
    for one in told:
        before = ""
        for question, answer in turns(one):
            if re.search(rf"{REFERS}|{ELLIPSIS}|{OPEN}", question):
                pronoun = re.search(r"\b(?:he|him|she|her)\b", question)
                named = [SHE[name] for name in NAMES if re.search(rf"\b{name}\b|\bthe {SPECIES[name]}\b", before)]
                jobs = re.search(rf"\bthe (?:{'|'.join(JOBS)})\b", before)
                if pronoun and not jobs and not re.search(rf"{WHO} want to visit", question):
                    assert (pronoun[0] in ("she", "her")) in named or "her " in question, (one.index, question, before)
                referring += bool(before)
            before += f" {question} {answer}"
    assert referring > N / 2


SHE = {name: text.split()[1] == "she" for name, text in WORLD["characters"].items()}


def test_a_talk_begins_with_a_name_or_a_thing(told):
    for one in told:
        talk = turns(one)
        assert len(talk) <= 5
        if talk:
            assert not re.search(ELLIPSIS, talk[0][0]), (one.index, talk)
            assert not re.search(r"\b(?:he|she|him|they|them)\b", talk[0][0]), (one.index, talk)


FOLLOW = [
    (r"And where did (?:he|she) lose (?:it|them)\?", role("lose", lambda e: at(e["p"]))),
    (r"And where did (?:he|she) hide (?:it|them)\?", role("hide", lambda e: at(e["p"]))),
    (r"Where (?:was it|were they)\?", role("find", lambda e: at(e["p"]))),
    (r"What place did (?:he|she) name\?", role("hint", lambda e: WORDS["place"][e["p"]][0])),
    (r"Whom did (?:he|she) promise it\?", role("promise", lambda e: e["b"])),
    (r"Where did (?:he|she) live\?", role("newcomer", lambda e: at(e["p"]))),
    (r"Where did (?:he|she) make (?:it|them)\?", role("make", lambda e: at(e["p"]))),
    (r"From whom\?", person("give", "a")),
    (r"Who noticed it\?", person("missing", "b")),
    (rf"Where did (?:he|she) find {WHO}\?", role("rescue", lambda e: at(e["p"]))),
    (r"Where did (?:his|her) \w+ live\?", role("reason", lambda e: at(e["q"]))),
    (r"Who was there\?", role("arrive", lambda e: f"{HIS[e['a']]} {e['relative']}")),
    (r"Where did (?:he|she) plant them\?", role("plant", lambda e: at(e["p"]))),
    (r"Where was it held\?", role("contest", lambda e: at(e["p"]))),
    (r"And who lost\?", person("win", "b")),
    (r"How many did (?:he|she) bring\?", role("stall", lambda e: e["count"])),
    (r"How much did one cost\?", role("stall", lambda e: e["price"])),
    (r"How much did (?:he|she) pay\?", role("buy", lambda e: e["sum"])),
    (r"How much did (?:it|they) cost\?", role("spend", lambda e: e["sum"])),
    (r"Who examined (?:him|her)\?", person("examine", "c")),
    (r"For how long\?", role("cure", lambda e: coins(e["days"], "day"))),
    (r"What was the fine for breaking the rule\?", role("rule", lambda e: e["coins"])),
    (r"Who got (?:it|them)\?", person("lend", "a")),
    (r"Whose (?:was it|were they)\?", role("want crack", lambda e: f"{e['a']}'s")),
    (r"To whom did (?:he|she) say it\?", person("sorry", "b")),
    (r"Where to\?", role("tempt", lambda e: to(e["p"]))),
]


def test_later_turns_are_answered_from_the_record(told):
    seen = defaultdict(int)
    for one in told:
        key = Key(one.record())
        for question, answer in turns(one):
            expected = answers(key, question)
            for pattern, rule in FOLLOW:
                if match := re.fullmatch(pattern, question):
                    expected = rule(key, match)
                    seen[pattern] += 1
            if expected is not None and question != "Who was new in the valley?":
                assert say(expected, answer), (one.index, question, answer, expected)
    assert len(seen) >= 0.9 * len(FOLLOW), {pattern for pattern, _ in FOLLOW} - set(seen)


# --- reports ---


@cache
def reports(shape: str):
    """Return (record, fields as text, report as text) of all stories of a shape."""
    found = []
    for one in stories(2500, split=None):
        if one.shape == shape:
            fields, text, from_story = examples(one, "report")
            assert fields.answer == from_story.answer
            assert text.prompt.startswith(fields.answer)
            assert text.answer in fields.prompt
            found.append((one.record(), dict(line.split(": ", 1) for line in fields.answer.split("\n")), text.answer))
    return found


def test_only_three_shapes_have_reports(told):
    assert {one.shape for one in told if examples(one, "report")} == {"market_day", "sick_day", "council"}


def test_ledgers_add_up():
    styles = set()
    for record, fields, text in reports("market_day"):
        key = Key(record)
        (stall,) = key.find("stall")
        sold = key.find("buy")
        assert (fields["seller"], fields["goods"]) == (stall["a"], stall["goods"])
        assert (int(fields["brought"]), int(fields["price"])) == (stall["count"], stall["price"])
        sales = [re.fullmatch(r"(\d+) to (\w+) for (\d+)", fields[name]).groups() for name in fields if "sale " in name]
        assert [(int(n), who, int(total)) for n, who, total in sales] == [(e["pieces"], e["b"], e["sum"]) for e in sold]
        assert all(int(n) * stall["price"] == int(total) for n, _, total in sales)
        assert sum(int(n) for n, _, _ in sales) <= stall["count"]
        assert int(fields["total"]) == sum(int(total) for _, _, total in sales)
        spent = re.fullmatch(r"(\d+) for (\w+ \w+)", fields["spent"]) if "spent" in fields else None
        assert int(fields["balance"]) == int(fields["total"]) - (int(spent[1]) if spent else 0) >= 0
        # and the same in words
        lines = re.findall(r"Sold ([\w-]+) to (\w+) for ([\w -]+?) coins?\.", text)
        assert [(read_number(n), who, read_number(total)) for n, who, total in lines] == [
            (int(n), who, int(total)) for n, who, total in sales
        ]
        assert ("No sales." in text) == (not sales)
        total = re.search(r"(?:Total received|Receipts|Sum of sales): ([\w -]+) coins?\.", text)[1]
        left = re.search(r"(?:Balance|Cash at the end of the day|Closing balance): ([\w -]+) coins?\.", text)[1]
        assert (read_number(total), read_number(left)) == (int(fields["total"]), int(fields["balance"]))
        stock = re.search(r"(?:Stock:|opened with|Brought) ([\w-]+)", text)[1]
        price = re.search(r"(?:at|priced at|unit price) ([\w-]+) coins?\b", text)[1]
        assert (read_number(stock), read_number(price)) == (stall["count"], stall["price"])
        paid = re.search(r"Paid ([\w -]+) coins? for (?:a pair of |an? )(\w+ \w+)\.", text)
        assert (paid and (read_number(paid[1]), paid[2])) == (spent and (int(spent[1]), spent[2]))
        assert text.startswith((f"Ledger of {stall['a']}", f"{stall['a']} opened", f"Day book of {stall['a']}"))
        styles.add(text.split()[0] if text.split()[0] in ("Ledger", "Day") else "opened")
    assert len(styles) == 3


def test_the_record_of_the_vet():
    outcomes = set()
    for record, fields, text in reports("sick_day"):
        key = Key(record)
        (ill,), (examine,), (cure,) = (key.find(kind) for kind in ("ill", "examine", "cure"))
        well = bool(key.find("recover"))
        assert well != bool(key.find("still_ill"))
        expected = {
            "patient": ill["a"],
            "species": SPECIES[ill["a"]],
            "sign": ill["sign"],
            "diagnosis": examine["illness"],
            "treatment": cure["cure"],
            "dose": {1: "once", 2: "twice", 3: "three times"}[cure["doses"]] + " a day",
            "days": str(cure["days"]),
            "vet": examine["c"],
            "outcome": "recovered" if well else "not recovered",
        }
        for event in key.find("temperature"):
            expected["temperature"] = str(event["degrees"])
        assert fields == expected
        assert {character["name"]: character["job"] for character in record["characters"]}[fields["vet"]] == "vet"
        for name in ("patient", "species", "sign", "treatment", "dose", "vet"):
            assert re.search(rf"\b{re.escape(fields[name])}\b", text), (record["index"], name, text)
        assert base("illness", fields["diagnosis"]) in text
        assert re.search(r"(?:for|day,) ([\w-]+ days?)\b", text)[1] == coins(cure["days"], "day")
        assert re.findall(r"(\d+) degrees", text) == ([fields["temperature"]] if "temperature" in fields else [])
        assert ("has recovered" in text, "has not recovered" in text) == (well, not well)
        outcomes.add(well)
    assert outcomes == {True, False}


def test_the_ruling_of_the_council():
    outcomes = set()
    for record, fields, text in reports("council"):
        key = Key(record)
        ((rule,), (dispute,)) = key.find("rule"), key.find("dispute")
        agreed = bool(key.find("accept"))
        assert fields == {
            "parties": f"{dispute['a']} and {dispute['b']}",
            "matter": base("matter", dispute["matter"]),
            "judge": rule["c"],
            "ruling": WORDS["ruling"][rule["ruling"]],
            "fine": str(rule["coins"]),
            "outcome": "accepted" if agreed else "not accepted",
        }
        low, high = WORLD["matters"][dispute["matter"]]["penalty"]
        assert low <= int(fields["fine"]) <= high
        assert rule["ruling"] in WORLD["matters"][dispute["matter"]]["rulings"]
        for name in ("matter", "judge", "ruling"):
            assert fields[name] in text, (record["index"], name)
        assert all(party in text for party in fields["parties"].split(" and "))
        fine = re.search(r"(?:shall pay|penalty of|the fine is) ([\w-]+) coins?\.", text)[1]
        assert read_number(fine) == int(fields["fine"])
        assert re.search(r"(?:was|Result:) (not accepted|accepted)\.", text)[1] == fields["outcome"]
        outcomes.add(agreed)
    assert outcomes == {True, False}


# --- summaries ---

VERDICTS = {  # words of a summary -> an event that must have happened, and one that must not
    "again with the help": ("find", "give_up"),
    "brought it back|brought them back": ("give_back", "give_up"),
    "never found|in vain": ("give_up", "find"),
    "made up,|made up\\.|make up with": ("forgive", "stay_cross"),
    "did not forgive|stayed angry": ("stay_cross", "forgive"),
    "kept the promise|as promised": ("keep", "forget"),
    "made up for it": ("make_up", "keep"),
    "and forgot it": ("forget", "make_up"),
    "kept the secret|as a surprise": ("keep_secret", "spill"),
    "gave away the secret|told \\w+ about": ("spill", "keep_secret"),
    "became a friend|welcomed": ("belong", "shyness"),
    "stayed lonely": ("newcomer", "belong"),
    "together they mended": ("repair", "leave_broken"),
    "storm that broke": ("leave_broken", "repair"),
    "traveled to see": ("arrive", "turn_back"),
    "had to turn back": ("turn_back", "arrive"),
    "it was only": ("find_out", "not_found"),
    "never learned": ("not_found", "find_out"),
    "fine harvest": ("harvest", "fail"),
    "did not grow": ("fail", "harvest"),
    "was glad for": ("cheer", "sulk"),
    "sulked": ("sulk", "cheer"),
    "and earned": ("count", "no_buyers"),
    "nobody bought": ("no_buyers", "buy"),
    "got well": ("recover", "still_ill"),
    "could cure": ("still_ill", "recover"),
    "both agreed": ("accept", "grumble"),
    "was not content": ("grumble", "accept"),
    "the \\w+ mended": ("fix", "cannot_fix"),
    "could mend": ("cannot_fix", "fix"),
}


def test_summaries_are_true_sentences(told):
    seen = Counter()
    for one in told:
        (example,) = examples(one, "summary")
        text, kinds = example.answer, {event["kind"] for event in one.record()["events"]}
        assert re.fullmatch(r'[A-Z][^.!?"{}\[\]|]*\.', text), text
        named = re.findall(rf"\b(?:{'|'.join(NAMES)})\b", text)
        assert named, text
        assert set(named) <= set(one.characters)
        assert example.prompt == f"{one.text()}\n\nSummary: "
        for label in re.findall(r"(?:the|an?|a pair of) (\w+ \w+)", text):
            if label.split()[1] in WORLD["things"] and label.split()[0] in WORLD["things"][label.split()[1]].split():
                assert label in one.things, (one.index, text)
        for pattern, (happened, missing) in VERDICTS.items():
            if re.search(pattern, text):
                seen[pattern] += 1
                assert happened in kinds, (one.index, text)
                assert missing not in kinds, (one.index, text)
    assert set(seen) == set(VERDICTS)


def test_summaries_name_the_right_ones(told):
    for one in told:
        text, key = examples(one, "summary")[0].answer, Key(one.record())
        if match := re.match(r"(\w+) won the [\w ]+ against (\w+)\.|(\w+) beat (\w+) in", text):
            winner, loser = [name for name in match.groups() if name]
            assert [(winner, loser)] == [(e["a"], e["b"]) for e in key.find("win")]
        if match := re.match(r"(\w+) lost the (\w+ \w+) (.+?)(?:,| and never)", text):
            assert [match.groups()] == [(e["a"], e["x"], at(e["p"])) for e in key.find("lose")]
        if match := re.match(r"(\w+) promised (\w+) to (.+?) and (?:kept|forgot)", text):
            assert [match.groups()] == [(e["a"], e["b"], base("task", e["task"])) for e in key.find("promise")]
        if match := re.search(r"(\w+) sold (\w+) at the market and earned ([\w -]+) coins?\.", text):
            ((stall,), (count,)) = key.find("stall"), key.find("count")
            assert (match[1], match[2], read_number(match[3])) == (stall["a"], stall["goods"], count["sum"])
        if match := re.match(r"(\w+) rescued (\w+) from a storm", text):
            assert [match.groups()] == [(e["a"], e["c"]) for e in key.find("rescue")]


# --- examples ---


@pytest.mark.parametrize("index", range(0, 60, 7))
def test_translations_are_tellings(index):
    one = story(index)
    there, back = examples(one, "translate")
    assert (there.kind, back.kind) == ("en-zh", "zh-en")
    assert (there.prompt, there.answer) == (f"{one.text()}\n\nChinese: ", one.text("chinese"))
    assert (back.prompt, back.answer) == (f"{one.text('chinese')}\n\nEnglish: ", one.text())


@pytest.mark.parametrize("task", TASKS)
def test_examples_are_prompt_and_answer(told, task):
    for one in told[:60]:
        for example in examples(one, task):
            assert example.text == example.prompt + example.answer
            assert example.answer
            assert example.answer == example.answer.strip()
            assert (example.task, example.story) == (task, one)
            found = json.loads(json.dumps(example.as_dict()))
            assert found == example.as_dict()
            assert (found["story"], found["seed"], found["split"]) == (one.index, one.seed, one.split)


def test_records_survive_json(told):
    for one in told[:200]:
        assert json.loads(json.dumps(one.record())) == one.record()


def test_stories_as_examples():
    assert [example.text for example in examples(story(3), "story")] == [story(3).text()]
    assert [example.text for example in examples(story(3), "story", language="chinese")] == [story(3).text("chinese")]


def test_examples_do_not_depend_on_each_other(told):
    for one in told[:30]:
        before = [example.as_dict() for example in examples(one, "qa")]
        for task in TASKS:
            examples(one, task)
        assert [example.as_dict() for example in examples(one, "qa")] == before


def test_the_mixture_is_as_asked():
    counts = Counter(example.task for example in mixed(1500, mix={"story": 1.0, "summary": 3.0}))
    assert abs(counts["summary"] / 1500 - 0.75) < 4 * (0.75 * 0.25 / 1500) ** 0.5
    assert set(counts) == {"story", "summary"}
    everything = list(mixed(1500))
    assert {example.task for example in everything} == set(TASKS) - {"speech"}  # which is not in the mix
    assert len({example.story.index for example in everything}) == 1500
    assert {example.story.split for example in everything} == {"train"}


def test_mixed_questions_are_answered_from_the_record():
    for example in mixed(200, mix={"qa": 1.0}):
        key = Key(example.story.record())
        asked = re.findall(r"Question: (.*)\nAnswer: (.*)", example.text)
        assert 1 <= len(asked) <= 3
        for question, answer in asked:
            expected = answers(key, question)
            assert answer == UNKNOWN or expected is None or say(expected, answer), (example.story.index, question)


def test_unknown_tasks():
    with pytest.raises(ValueError, match="story, qa, sentiment, translate, dialogue, report, summary"):
        examples(story(0), "poem")


def test_unknown_languages():
    with pytest.raises(ValueError, match="english, chinese"):
        examples(story(0), "story", language="latin")


def test_settings_reach_the_answers():
    settings = ValleySettings(unkind=1.0)
    asked = [ask(e) for one in stories(60, settings) if one.shape == "quarrel" for e in examples(one, "qa")]
    assert "Who said something unkind?" in asked


def test_speech_is_labeled_as_the_record_says():
    """Unkind is what calls names, and nothing else is: the words are this test's own."""
    names = re.compile(
        r"silly|greedy|slower than|Clumsy|likes you|wants you here|ugly|stupid|Crybaby|liar|useless", re.IGNORECASE
    )
    found = [one for index in range(400) for one in examples(story(index, ValleySettings(unkind=0.9)), "speech")]
    unkind = [one for one in found if one.answer == "unkind"]
    assert len(unkind) > 20
    assert all(names.search(one.prompt) for one in unkind)
    assert not any(names.search(one.prompt) for one in found if one.answer == "kind")
    assert all(one.prompt.endswith("Speech: ") and '"' in one.prompt for one in found)
