"""What each application does by itself: hand-made cases, and properties of its examples."""

import gettext
import re
import struct
import sys
from collections import Counter

import pytest

from llama_minimal import load_tokenizer
from llama_minimal.applications import Example, application, many_stories
from llama_minimal.applications.counted_answers import CountedAnswers, masked, masked_question
from llama_minimal.applications.dialogue import chance, recall_examples
from llama_minimal.applications.message_catalogs import catalog_examples, read_catalog
from llama_minimal.applications.numbers import in_digits, invented_numbers, numbers
from llama_minimal.applications.plain_telling import translatable, wordings
from llama_minimal.applications.recall import facts, recall_dialogues, recalls
from llama_minimal.applications.reports import fields_of
from llama_minimal.applications.translation import examples as translations
from llama_minimal.applications.translation_memory import Dictionary, Memory
from llama_minimal.checkpoint import COURSE
from llama_minimal.data.valley import LANGUAGES, ValleySettings, stories
from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.english import number
from llama_minimal.scores import chrf

# ---- dialogues


def answers_in(messages):
    return [one["content"] for one in messages if one["role"] == "assistant"]


@pytest.mark.parametrize("distance", [0, 3, 6])
def test_a_fact_is_said_so_many_turns_before_it_is_asked_for(distance):
    again = 0
    for one in recalls(60, distance=distance, unknown=0.0, split="test"):
        turns = [message for message in one.messages if message["role"] != "system"]
        assert [message["role"] for message in turns] == ["user", "assistant"] * (len(turns) // 2)
        value, said = turns[-1]["content"], turns[-2 * (distance + 2)]["content"]
        assert value.lower() in said.lower()
        assert one.distance == distance
        assert value in facts("test")[one.kind].values
        between = turns[-2 * (distance + 1) : -1]
        again += any(re.search(rf"\b{re.escape(value)}\b", message["content"]) for message in between)
    assert again <= 5  # small talk may have the word by chance, as in "Do you ever get cold?"


def test_what_was_never_said_is_not_known():
    for one in recalls(40, unknown=1.0, split="test"):
        assert one.messages[-1]["content"] == "I do not know."
        said = " ".join(message["content"] for message in one.messages[:-1])
        fact = facts()[one.kind]
        assert not any(phrase.replace("{v}", value) in said for phrase in fact.say for value in fact.values)


def test_no_fact_has_the_same_value_in_two_splits():
    for kind, fact in facts().items():
        parts = [set(facts(split)[kind].values) for split in ("train", "validation", "test")]
        assert all(parts), kind
        assert sum(map(len, parts)) == len(fact.values) == len(set().union(*parts))


def test_dialogues_vary_and_are_short():
    tokenizer = load_tokenizer(COURSE)
    dialogues = recall_dialogues(300, distance=6)
    lengths = [len(tokenizer.encode("\n".join(one["content"] for one in messages))) for messages in dialogues]
    assert max(lengths) + 4 * 20 <= 300  # with the names of the speakers
    assert len({messages[-2]["content"] for messages in dialogues}) > 150
    assert len({messages[-1]["content"] for messages in dialogues}) > 100
    roles = Counter(messages[0]["role"] for messages in dialogues)
    assert min(roles["system"], roles["user"]) > 100
    assert recall_dialogues(5) == recall_dialogues(5) != recall_dialogues(5, seed=1)


def test_a_dialogue_is_written_as_messages_and_as_text():
    one = recall_examples(1, distance=1, unknown=0.0)[0]
    messages = one.as_dict()["messages"]
    assert messages[:-1] == one.extra["messages"]
    assert messages[-1] == {"role": "assistant", "content": one.completion.strip()}
    assert one.kind == "1 turn ago"
    assert one.prompt.endswith(f"User: {messages[-2]['content']}\nLlama:")
    about = application("dialogue").examples(2, split="test")[1]
    said = re.split(r"\nUser: |\nLlama: ?", about.prompt)
    text = [message["content"] for message in about.extra["messages"]]
    assert said[0].strip() + "\n\n" + said[1] == text[0]
    assert said[2:-1] == text[1:]


def test_chance_is_one_in_as_many_values_as_the_fact_has():
    jobs = [one for one in recall_examples(400, unknown=0.0) if one.extra["fact"] == "job"]
    assert jobs
    assert chance(jobs) == pytest.approx(100 / 9)
    with pytest.raises(ValueError, match="no example recalls a fact"):
        chance(recall_examples(3, unknown=1.0))


@pytest.mark.parametrize("bad", [{"distance": -1}, {"distance": 21}, {"unknown": 1.5}, {"unknown": -0.1}])
def test_dialogues_refuse_what_cannot_be(bad):
    with pytest.raises(ValueError, match="must be"):
        recall_dialogues(1, **bad)


# ---- question answering


def test_counted_answers_learn_what_answers_a_question():
    def asked(story, question, answer):
        return Example(
            f"{story}\n\nQuestion: {question}\nAnswer:", answer, "who", (), {"story": story, "question": question}
        )

    train = []
    for finder, other, thing in (("Otto", "Mina", "kite"), ("Nora", "Lila", "drum"), ("Pip", "Gus", "bell")) * 5:
        story = f"One day {other} was at home. It was {finder} who found the {thing}."
        train.append(asked(story, f"Who found the {thing}?", finder))
        train.append(asked(story, f"Did {other} sing?", "The story does not say."))
    new = "One day Clara was at home. It was Hugo who found the sled."
    tests = [asked(new, "Who found the sled?", "Hugo"), asked(new, "Did Clara sing?", "The story does not say.")]
    assert CountedAnswers(train)(tests) == ["Hugo", "The story does not say."]
    assert masked_question("Did Otto find Mina's kite?") == "Did NAME find NAME's kite?"
    assert (masked("Otto and Mina"), masked("The story does not say.")) == ("NAME and NAME", "The story does not say.")


def test_a_question_to_a_library_has_one_story_that_names_all_it_names():
    asked = many_stories.ask_libraries(40, n_stories=50)
    for one in asked:
        names = many_stories.names_in(one.extra["question"])
        fitting = [place for place, text in enumerate(one.extra["stories"]) if all(name in text for name in names)]
        assert fitting == [one.extra["place"]]
        assert one.prompt == f"Question: {one.extra['question']}\nAnswer:"
    assert many_stories.names_in("Where did Felix find the golden watch?") == ["Felix", "golden watch"]


def test_retrieval_finds_more_in_more_units_and_in_whole_stories():
    asked = many_stories.ask_libraries(40, n_stories=60)
    shares = [many_stories.found_share(asked, k=k, unit="sentence") for k in (1, 3, 10)]
    assert shares == sorted(shares)
    assert many_stories.found_share(asked) > 90
    given = many_stories.with_retrieved(asked)
    right = [one.extra["stories"][one.extra["place"]] == one.extra["story"] for one in given]
    assert 100 * sum(right) / len(right) == pytest.approx(many_stories.found_share(asked))
    assert all(one.prompt.startswith(one.extra["story"]) for one in given)
    assert [one.completion for one in given] == [one.completion for one in asked]


def test_retrieved_sentences_stand_in_the_order_of_the_stories():
    shelf = many_stories.Library(["Lila sang. Otto slept.", "Mina found a kite. Otto saw it."], unit="sentence")
    prompt = many_stories.retrieve("Who found the kite that Otto saw?", shelf, 2)
    assert prompt == "Mina found a kite. Otto saw it.\n\nQuestion: Who found the kite that Otto saw?\nAnswer:"
    assert many_stories.retrieve("Warum?", shelf) == "Question: Warum?\nAnswer:"
    with pytest.raises(ValueError, match="unit='book' is not one of story, paragraph, sentence"):
        many_stories.Library([], unit="book")
    with pytest.raises(ValueError, match="n_stories=0"):
        many_stories.ask_libraries(1, n_stories=0)


# ---- reports


@pytest.mark.parametrize("n", [0, 1, 12, 20, 36, 99, 100, 108, 145, 199])
def test_numbers_are_read_as_the_valley_writes_them(n):
    assert numbers(f"It was {number(n)} coins, or {n}.") == [n, n]
    assert in_digits(f"{number(n)} pots") == f"{n} pots"


def test_numbers_are_words_of_their_own():
    assert numbers("Someone often weighs a canine; Ten once, and twenty-one twice") == [10, 1, 21, 2]


LEDGER = "price: 3\nsale 1: 2 to Ivy for 6\nsale 2: 4 to Max for 12\nspent: 7 for red kite"


@pytest.mark.parametrize(
    ("report", "invented"),
    [
        ("total: 18\nbalance: 11", []),
        ("Sold two to Ivy for six coins. Total received: eighteen coins. Balance: eleven coins.", []),
        ("total: 19\nbalance: 11", [19]),
        ("total: 18\nbalance: 25", [25]),
        ("Sold five to Ivy for twenty-three coins.", [5, 23]),
        ("sale 9: 2 to Ivy for 6", []),  # a field's name
        ("", []),
    ],
)
def test_a_number_is_invented_if_it_neither_stands_there_nor_follows(report, invented):
    assert invented_numbers(report, LEDGER) == invented


def test_most_numbers_that_are_changed_are_noticed():
    examples = [one for one in application("reports").examples(80, split="test") if not one.kind.endswith("text")]
    changed = noticed = 0
    for one in examples:
        assert invented_numbers(one.completion, one.prompt) == []
        for match in re.finditer(r"(?<!sale )\b\d+\b", one.completion):
            wrong = f"{one.completion[: match.start()]}{int(match[0]) + 17}{one.completion[match.end() :]}"
            changed, noticed = changed + 1, noticed + bool(invented_numbers(wrong, one.prompt))
    assert noticed > 0.8 * changed > 40


def test_a_report_is_scored_field_by_field():
    app = application("reports")
    fields = {"seller": "Ivy", "total": "6", "balance": "6"}
    record = Example("6\n\nFields:\n", "seller: Ivy\ntotal: 6\nbalance: 6", "finance fields", (), {"fields": fields})
    for text, share in (
        ("seller: Ivy\ntotal: 6\nbalance: 7", 2 / 3),
        ("total: 6\nseller: Ivy", 2 / 3),
        ("seller: Ivy\ntotal: 6\nbalance: 6\nspent: 6 for kite", 3 / 4),
        ("Ivy sold for 6.", 0),
    ):
        assert app.score([text], [record])["fields right"] == pytest.approx(100 * share)
    text = Example("6\n\nLedger:", " Ivy took 6. Balance: 6.", "finance text", (), {"fields": fields})
    assert app.score(["Ivy took six coins. Balance: six coins."], [text])["fields right"] == 100
    assert app.score(["seller: Ivy total: 6 balance: 6"], [text])["fields right"] == 0
    ill = Example(
        "\n\nRecord:", " The patient has not recovered.", "medical text", (), {"fields": {"outcome": "not recovered"}}
    )
    assert app.score(["The patient has recovered."], [ill])["fields right"] == 0
    assert fields_of("a: b: c\nnonsense\na: d\n x : y") == {"a": "b: c", "x": "y"}


# ---- translation


def test_who_knows_the_events_knows_the_translation_but_not_a_free_one():
    """Another telling of the same events, and the plain one: the first has a low chrF, and the second has 100."""
    tales = list(stories(30, ValleySettings(seed=1000), split="test"))
    free, again = [], []
    for story in tales:
        telling = LANGUAGES["chinese"](story.things, story.jobs, Dice(7))
        free.append("".join(telling.tell(i, story.events) for i in range(len(story.events))))
        again.append(story.text("chinese"))
    assert 20 < chrf(free, again) < 60
    examples = translations(60, split="test")
    assert chrf([one.completion for one in examples], [one.references for one in examples]) == pytest.approx(100)


def test_a_translation_says_no_more_than_its_source():
    for story in stories(25, ValleySettings(seed=1000)):
        for event in translatable(story):
            for language in LANGUAGES:
                for sentence in wordings(story, event, language):
                    assert sentence.text
                    if "x" in event.roles and "x adjective" in sentence.says and language == "english":
                        assert story.things[event.roles["x"]].adjective in sentence.text
    for one in translations(80, split="test"):
        assert re.search("[\u4e00-\u9fff]", one.completion)
        assert not re.search("[A-Za-z{}]", one.completion)
        assert not re.search("[\u4e00-\u9fff]", one.prompt)
    both = translations(40, direction="both")
    assert {one.kind for one in both} == {"en-zh", "zh-en"}
    with pytest.raises(ValueError, match="direction='en-de' is not one of en-zh, zh-en, both"):
        translations(1, direction="en-de")


def pairs(*texts):
    return [Example(f"{a}\n\nChinese:", f" {b}", "en-zh", (), {"source": a}) for a, b in texts]


def test_a_dictionary_finds_which_words_go_together():
    train = pairs(
        ("Lila sings", "莉拉唱歌"),
        ("Otto sings", "奥托唱歌"),
        ("Lila sleeps", "莉拉睡觉"),
        ("Mina sleeps", "米娜睡觉"),
        ("Otto runs", "奥托跑步"),
        ("Mina runs", "米娜跑步"),
    )
    dictionary = Dictionary(train)
    assert dictionary.translate("Otto sleeps, Lila runs") == "奥托睡觉莉拉跑步"
    assert dictionary.entries["sings"] == ("唱歌", 1.0)
    memory = Memory(train, dictionary)
    assert memory(pairs(("Lila runs", ""))) == ["莉拉跑步"]
    assert Memory(train)(pairs(("nothing known", ""), ("Lila sings", ""))) == ["", "莉拉唱歌"]


def catalog(messages, order="<"):
    """Write a .mo file by the picture in the manual of GNU gettext."""
    originals, texts = ([part.encode() + b"\0" for part in column] for column in zip(*messages, strict=True))
    n, head = len(messages), 28
    tables, data, place = b"", b"", head + 16 * len(messages)
    for part in (*originals, *texts):
        tables += struct.pack(f"{order}2I", len(part) - 1, place)
        data, place = data + part, place + len(part)
    return struct.pack(f"{order}7I", 0x950412DE, 0, n, head, head + 8 * n, 0, place) + tables + data


MESSAGES = [("", "Content-Type: text/plain; charset=UTF-8\n"), ("Log in", "登录"), ("Save", "保存")]


@pytest.mark.parametrize("order", ["<", ">"])
def test_catalogs_are_read_as_pythons_gettext_reads_them(tmp_path, order):
    path = tmp_path / "django.mo"
    path.write_bytes(catalog([*MESSAGES, ("month\x04May", "五月"), ("%d day\0%d days", "%d 天\0%d 天")], order))
    with path.open("rb") as file:
        theirs = gettext.GNUTranslations(file)
    found = dict(read_catalog(path))
    assert found == {"Log in": "登录", "Save": "保存", "May": "五月", "%d day": "%d 天"}
    assert theirs.gettext("Log in") == found["Log in"]
    assert theirs.pgettext("month", "May") == found["May"]
    assert theirs.ngettext("%d day", "%d days", 1) == found["%d day"]


def test_catalogs_of_an_installed_package(tmp_path, monkeypatch):
    folder = tmp_path / "webby" / "conf" / "locale" / "zh_Hans" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (tmp_path / "webby" / "__init__.py").write_text("raise SystemExit('it must not be imported')")
    (folder / "django.mo").write_bytes(catalog([MESSAGES[0], *((f"Message {i}", f"消息{i}") for i in range(60))]))
    monkeypatch.syspath_prepend(tmp_path)
    parts = {split: catalog_examples(split=split, package="webby") for split in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == 60
    assert min(map(len, parts.values())) > 0
    assert parts["train"][0].completion.startswith(" 消息")
    assert "webby" not in sys.modules
    with pytest.raises(ValueError, match="webby has no messages in de"):
        catalog_examples(package="webby", locale="de")
    with pytest.raises(ImportError, match=r"nobody_has_this is not installed; run: pip install"):
        catalog_examples(package="nobody_has_this")
    with pytest.raises(ValueError, match="split='all'"):
        catalog_examples(split="all", package="webby")


@pytest.mark.parametrize("content", [b"", b"no catalog of messages", catalog(MESSAGES)[:40], catalog(MESSAGES)[:-9]])
def test_a_file_that_is_no_catalog_is_refused(tmp_path, content):
    path = tmp_path / "x.mo"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no catalog|is damaged"):
        read_catalog(path)


# ---- stories


def test_a_story_that_says_little_is_not_consistent():
    app = application("generation")
    one = app.examples(1, split="test")[0]
    assert app.score([""], [one])["consistent"] == 0
    assert app.score([one.completion], [one])["consistent"] == 100
    other = app.examples(3, split="test")[2]
    assert app.score([other.completion], [one])["names"] == 0
