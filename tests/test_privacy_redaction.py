"""Redaction: against text whose details are known, in prompts, logs, corpora and on the command line."""

import logging

import pytest

from llama_minimal.cli import main
from llama_minimal.data import TokenFile
from llama_minimal.data.document import Document, LongDocument
from llama_minimal.data.valley import CANARIES, stories
from llama_minimal.responsible_ai.privacy.planting import planted_texts
from llama_minimal.responsible_ai.privacy.redaction import (
    KINDS,
    Detail,
    RedactedPrompt,
    RedactingFilter,
    find_details,
    is_card,
    redact,
    redact_document,
    redaction_score,
)
from llama_minimal.tokenizer import load_tokenizer


def totals(planted, **options):
    sums = {kind: [0, 0, 0] for kind in KINDS}
    for text, key in planted:
        for kind, counts in redaction_score(find_details(text, **options), key).items():
            sums[kind] = [a + b for a, b in zip(sums[kind], counts, strict=True)]
    return sums


def test_the_key_stands_where_it_says():
    texts = list(planted_texts(100, seed=3, unusual=0.3))
    words = [text[d.start : d.end] for text, key in texts for d in key]
    assert len(words) > 200
    assert all(word and word == word.strip() for word in words)
    cards = [text[d.start : d.end] for text, key in texts for d in key if d.kind == "card"]
    assert cards
    assert all(map(is_card, cards))
    assert texts == list(planted_texts(100, seed=3, unusual=0.3))
    assert texts != list(planted_texts(100, seed=4, unusual=0.3))


def test_usual_forms_are_found_and_others_are_not():
    usual = totals(planted_texts(300, seed=1))
    for kind, (hits, false, missed) in usual.items():
        assert hits > 40, kind
        assert missed == 0, kind
        assert hits / (hits + false) > (0.8 if kind == "phone" else 0.99), kind
    assert usual["phone"][1] > 0  # numbers of orders look like phones
    unusual = totals(planted_texts(300, seed=1, unusual=0.7))
    assert sum(hits for hits, _, _ in unusual.values()) == 0
    assert sum(missed for *_, missed in unusual.values()) > 300


def test_an_address_book_finds_people_without_a_title():
    texts = list(planted_texts(200, seed=2, unusual=0.7))
    names = {text[d.start : d.end] for text, key in texts for d in key if d.kind == "name"}
    found = totals(texts, names=names)["name"]
    assert found[0] > 100
    assert found[1:] == [0, 0]


def test_the_valleys_secrets_are_taken_out_and_its_stories_stay():
    for sentence in CANARIES:
        assert redact(sentence).endswith("is [CODE].")
    for story in stories(100):
        assert redact(story.text()) == story.text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to a.b+c@mail.example.org.", "Write to [EMAIL]."),
        ("+1 (555) 555-0142, please", "[PHONE], please"),
        ("the page 3.10.2 of 2026-11-29 at 7:30", "the page 3.10.2 of 2026-11-29 at 7:30"),
        ("card 4417 1234 5678 9113 and 4417 1234 5678 9112", "card [CARD] and 4417 1234 5678 9112"),
        ("My PIN is 4-7-1-3!", "My PIN is [CODE]!"),
        ("Dr. Ada Fenn-Reed saw Ada.", "[NAME] saw Ada."),
        ("12 Old Mill Lane, by the mill", "[ADDRESS], by the mill"),
        ("请打555-0101找王小明先生。", "请打[PHONE]找[NAME]先生。"),
        ("", ""),
    ],
)
def test_forms(text, expected):
    assert redact(text) == expected


def test_details_do_not_overlap_and_the_longer_one_stays():
    found = find_details("My password is 555-0142 and my PIN 5550 1423 5550 1421.")
    assert all(a.end <= b.start for a, b in zip(found, found[1:], strict=False))
    text = "secret 4417 1234 5678 9113"
    assert [d.kind for d in find_details(text)] == ["card"]
    assert [d.kind for d in find_details(text, kinds=["code"])] in ([], ["code"])
    with pytest.raises(ValueError, match="there is no kind 'fax'"):
        find_details(text, kinds=["fax"])


def test_half_a_detail_is_a_miss_and_what_touches_none_is_false():
    key = [Detail(10, 18, "phone"), Detail(30, 40, "name")]
    found = [Detail(10, 15, "phone"), Detail(28, 41, "address"), Detail(50, 60, "phone")]
    counts = redaction_score(found, key)
    assert counts["phone"] == (0, 1, 1)
    assert counts["name"] == (1, 0, 0)
    assert counts["address"] == (0, 0, 0)


def test_a_prompt_gets_its_details_back_in_the_answer():
    prompt = RedactedPrompt.of("Mrs. Ada Fenn (ada@example.com) asks Mrs. Ada Fenn for 555-0101 or 555-0102.")
    assert prompt.text == "[NAME-1] ([EMAIL-1]) asks [NAME-1] for [PHONE-1] or [PHONE-2]."
    assert prompt.restore("Dear [NAME-1], call [PHONE-2], not [PHONE-3].") == (
        "Dear Mrs. Ada Fenn, call 555-0102, not [PHONE-3]."
    )


def test_a_placeholder_that_the_prompt_has_itself_is_given_to_no_detail():
    text = "Explain what [NAME-1] and [NAME-3] mean to Dr. Otto Reed and Mrs. Ada Fenn."
    prompt = RedactedPrompt.of(text)
    assert prompt.text == "Explain what [NAME-1] and [NAME-3] mean to [NAME-2] and [NAME-4]."
    assert prompt.restore(prompt.text) == text


def test_a_log_is_redacted_before_it_is_written(caplog):
    logger, lines = logging.getLogger("llama_minimal.test"), []
    handler = logging.StreamHandler()
    handler.emit = lambda record: lines.append(handler.format(record))
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)
    try:
        logger.warning("prompt of %s: %s", "ada@example.com", {"phone": "555-0142"})
        try:
            raise ValueError("no such card: 4417123456789113")
        except ValueError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    text = "\n".join(lines)
    assert "prompt of [EMAIL]: {'phone': '[PHONE]'}" in text
    assert "no such card: [CARD]" in text
    assert "4417" not in text


def test_a_document_that_is_not_in_memory_is_redacted_across_its_chunks():
    line = "Write to ada@example.com or call (555) 555-0142. "
    for text in (line * 3000, "\n".join([line] * 3000)):
        pieces = [text[i : i + 997] for i in range(0, len(text), 997)]
        found = redact_document(LongDocument("log", lambda pieces=pieces: iter(pieces)))
        assert found.text == redact(text)
        assert "@" not in found.text
        assert found.text == found.text  # read again, the same
    assert redact_document(Document("a", line)).text == redact(line)


def test_train_redact_takes_the_details_out_of_tokenizer_and_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [f"The ferry left at {n}. Write to ada{n}@example.com or call 555-01{n:02}." for n in range(40)]
    (tmp_path / "a.txt").write_text("\n***\n".join(texts), encoding="utf-8")
    flags = (
        "--corpus a.txt --document-separator *** --preset tiny --vocab-size 280 --dim 16 --n-layers 1 --n-heads 2 "
        "--warmup-steps 1 --batch-size 4 --seq-len 16 --samples 0 --steps 1 --device cpu"
    ).split()
    for out, more in (("with", ["--redact"]), ("without", [])):
        main(["train", "--out", out, *flags, *more])
        tokenizer = load_tokenizer(tmp_path / out)
        files = [TokenFile.open(tmp_path / out / "data", split) for split in ("train", "validation")]
        text = " ".join(tokenizer.decode(file.tokens.tolist()) for file in files)
        assert text.count("The ferry left at") == 40
        assert text.count("[EMAIL] or call [PHONE].") == 40 * bool(more)
        assert text.count("@example.com") == 40 * (not more)
