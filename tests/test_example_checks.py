"""What is said about examples before a training, and that no part of a split knows another."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.chat import ChatTemplate
from llama_minimal.data.duplicates import Duplicates
from llama_minimal.data.valley import examples as valley_examples
from llama_minimal.data.valley import stories
from llama_minimal.finetuning import Chat, Labeled, Pair, read_examples
from llama_minimal.finetuning.checking import as_labels, check_examples, recognize, split_examples
from llama_minimal.finetuning.grouping import answer_of, near_groups, prompt_of
from llama_minimal.tokenizer import Tokenizer

WORDS = (
    "otter mole mill barn rain snow bread honey lamp boat hill field song drum rope nest pear plum moss fern".split()
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([" ".join(WORDS)], vocab_size=300)


def sentence(seed, n=12):
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def labeled(n, labels=("good", "bad"), start=0):
    return [Labeled(sentence(start + i), labels[i % len(labels)]) for i in range(n)]


def found(examples, tokenizer, **options):
    findings = check_examples(examples, tokenizer=tokenizer, **{"max_tokens": 200} | options)
    return {one.kind: one for one in findings.found}, findings


def test_nothing_is_said_of_good_examples(tokenizer):
    by_kind, findings = found(labeled(30), tokenizer)
    assert by_kind == {}
    assert findings.kept == tuple(labeled(30))
    assert findings.stops == ()


FILLER = labeled(30, start=100)
CASES = {
    "repeated": ([FILLER[0], Labeled(f" {FILLER[1].text.upper()} ", "bad")], [31, 32], "goes on", "of an earlier one"),
    "nearly repeated": (
        [Labeled(sentence(7, 30) + end, "bad") for end in ("", " x")],
        [32],
        "goes on",
        "nearly the words",
    ),
    "contradicting": ([Labeled(FILLER[0].text, "bad")], [1, 31], "goes on", "another answer elsewhere"),
    "empty": (
        [Labeled(" ", "good"), Labeled("word", "\n")],
        [31, 32],
        "goes on",
        "were left out: no text, or no answer",
    ),
    "long": ([Labeled(sentence(1, 300), "good")], [31], "goes on", "was left out: more than 200 tokens"),
    "single labels": ([Labeled(sentence(1), "{odd}")], [31], "goes on", r"appears once ('{odd}')"),
    "uneven labels": (labeled(130, ("good",)), [1, 3, 5], "goes on", "only 15 'bad': whoever always says the first is"),
    "similar labels": ([Labeled(sentence(1), "GOOD. ")] * 2, [31, 32], "goes on", "nearly 'good' ('GOOD. '); if it is"),
    "answer in prompt": (
        [Labeled("a Good mole", "good")],
        [31],
        "goes on",
        "has the answer in the prompt (3 % of all)",
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_is_said(kind, tokenizer):
    more, samples, severity, words = CASES[kind]
    finding = found(FILLER + more, tokenizer)[0][kind]
    assert (list(finding.samples), finding.severity) == (samples[:3], severity)
    assert finding.n >= len(samples)
    assert words in finding.sentence
    assert f"{finding.n} example" in finding.sentence


def test_lines_are_named_where_they_are_known(tokenizer):
    by_kind, _ = found([*FILLER, FILLER[0]], tokenizer, lines=range(2, 33))
    assert by_kind["repeated"].sentence.startswith(
        "1 example (line 32) has the prompt and the answer of an earlier one"
    )


def test_what_makes_no_sense_stops(tokenizer):
    one = found(labeled(30, ("good",)), tokenizer)[1].stops
    assert [finding.kind for finding in one] == ["one label"]
    assert "the label 'good': there is nothing to tell apart" in one[0].sentence
    different = found([Labeled(sentence(i), f"label {i}") for i in range(30)], tokenizer)[1].stops
    assert "fewer than two come twice" in different[0].sentence
    few = found(labeled(19), tokenizer)[1].stops
    assert few[0].sentence.startswith("19 examples (examples 1, 2, 3 …) can be used, and at least 20 are needed")
    none = found([Labeled("", "x")], tokenizer)[1]
    assert none.stops[0].sentence.startswith("0 examples can be used")
    assert none.kept == ()
    with pytest.raises(ValueError, match="the examples are 1 Pair, 1 Labeled; give a list of one kind"):
        found([Pair("a", "b"), Labeled("a", "b")], tokenizer)
    with pytest.raises(ValueError, match="the examples are none"):
        found([], tokenizer)


def test_chats_are_counted_as_their_template_writes_them(tokenizer):
    chats = [
        Chat([{"role": "user", "content": sentence(i)}, {"role": "assistant", "content": "moss"}]) for i in range(20)
    ]
    template = ChatTemplate(
        tokenizer, "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    )
    lengths = [len(template.encode(chat.messages)) for chat in chats]
    kept = found(chats, tokenizer, template=template, max_tokens=sorted(lengths)[9])[1].kept
    assert kept == tuple(c for c, n in zip(chats, lengths, strict=True) if n <= sorted(lengths)[9])
    with pytest.raises(ValueError, match="no chat template"):
        found(chats, tokenizer)


def test_near_groups_are_those_of_all_pairs_compared_one_by_one():
    made = [one for story in stories(40) for one in valley_examples(story, "sentiment")]
    examples = read_examples([one.as_dict() for one in made])
    sketch = Duplicates()
    # All prompts end in the same words, which do not count.
    signatures = [sketch.signature(f"{one.prompt.removesuffix('Sentiment:')} {answer_of(one)}") for one in examples]
    near = {i: {i} for i in range(len(examples))}
    for i, j in itertools.combinations(range(len(examples)), 2):
        if (signatures[i] == signatures[j]).mean() >= 0.8:
            joined = near[i] | near[j]
            near |= dict.fromkeys(joined, joined)
    groups = near_groups(examples)
    assert {frozenset(group) for group in groups.members()} == {frozenset(group) for group in near.values()}
    assert len(groups.members()) < len(examples)


def leaks(split):
    """Count the pairs of examples in different parts that are the same text, near it, or have the same prompt."""
    sketch = Duplicates()
    parts = [[(prompt_of(one), sketch.signature(f"{prompt_of(one)} {answer_of(one)}")) for one in part] for part in
             (split.train, split.validation, split.test)]  # fmt: skip
    return sum(
        p.split() == q.split() or (a == b).mean() >= 0.8
        for one, other in itertools.combinations(parts, 2)
        for (p, a), (q, b) in itertools.product(one, other)
    )


@pytest.mark.parametrize("task", ["qa", "sentiment"])
def test_no_part_knows_another(task):
    made = [one for story in stories(60) for one in valley_examples(story, task)][:120]
    examples = read_examples([one.as_dict() for one in made] + [made[0].as_dict()])
    split = split_examples(examples, seed=0)
    assert leaks(split) == 0
    sizes = [len(part) for part in (split.train, split.validation, split.test)]
    assert sum(sizes) == len(examples)
    assert all(abs(n - share * len(examples)) <= 6 for n, share in zip(sizes, (0.8, 0.1, 0.1), strict=True))
    # Cut anywhere instead, the same examples leak.
    apart = random.Random(0).sample(examples, len(examples))
    split = type(split)(tuple(apart[:-40]), tuple(apart[-40:-20]), tuple(apart[-20:]))
    assert leaks(split) > 2


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 120), st.integers(0, 10), st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_parts_have_the_labels_in_proportion(n, seed, weights):
    labels = [f"label {i}" for i, weight in enumerate(weights) for _ in range(weight)]
    examples = labeled(n, labels)
    split = split_examples(examples, seed=seed)
    assert split == split_examples(examples, seed=seed)
    parts = (split.train, split.validation, split.test)
    assert sorted((one.text, one.label) for part in parts for one in part) == sorted(
        (e.text, e.label) for e in examples
    )
    assert all(parts)
    position = {one.text: i for i, one in enumerate(examples)}
    for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
        assert [position[one.text] for one in part] == sorted(position[one.text] for one in part)
        assert abs(len(part) - share * n) < 2.5
        counts, totals = Counter(one.label for one in part), Counter(one.label for one in examples)
        assert all(abs(counts[label] - share * totals[label]) <= 1.5 for label in totals)


def test_another_seed_is_another_split_and_a_single_label_is_trained_on():
    examples = [*labeled(40), Labeled("one of a kind", "odd")]
    splits = [split_examples(examples, seed=seed) for seed in range(8)]
    assert len({split.test for split in splits}) > 4
    assert all(examples[-1] in split.train for split in splits)


def test_the_smallest_list_and_labels_that_all_differ():
    split = split_examples([Pair(sentence(i), sentence(-i)) for i in range(20)], seed=0)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [16, 2, 2]
    split = split_examples([Labeled(sentence(i), str(i)) for i in range(20)], seed=0)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [18, 1, 1]
    with pytest.raises(ValueError, match="20 examples have 1 different prompts; three parts need at least 3"):
        split_examples([Labeled("same", "ab"[i % 2]) for i in range(20)], seed=0)
    for shares in ((0.9, 0.1), (0.9, 0.1, 0.0), (0.8, 0.1, 0.2), (float("nan"), 0.1, 0.1)):
        with pytest.raises(ValueError, match="three numbers above 0 with a sum of 1"):
            split_examples(labeled(20), seed=0, shares=shares)


def test_where_everything_resembles_everything_a_note_says_so():
    text = sentence(0, 200)
    examples = [Labeled(f"{WORDS[i % 20]} {text} {WORDS[i // 2]}", "ab"[i % 2]) for i in range(40)]
    split = split_examples(examples, seed=0)
    assert len(split.validation) == len(split.test) == 4
    assert "40 of 40 examples resemble each other" in split.notes[0]


def test_an_instruction_before_every_prompt_does_not_make_them_alike():
    examples = [Pair(f"{sentence(0, 100)}\n\nText: {sentence(i)}\nAnswer:", f" {sentence(-i, 3)}") for i in range(30)]
    assert len(near_groups(examples).members()) == 30
    assert split_examples(examples, seed=0).notes == ()


def test_labels_in_disguise_are_recognized():
    pairs = [Pair(f"{sentence(i)}\nIt is ", ("good", "bad")[i % 2]) for i in range(20)]
    task = recognize(pairs)
    assert (task.kind, task.labels) == ("pairs", ("good", "bad"))
    assert "only 2 different completions: labels in disguise" in task.sentence
    assert as_labels(pairs)[1] == Labeled(f"{sentence(1)}\nIt is", "bad")
    assert recognize(labeled(3)).labels == ("good", "bad")
    assert recognize([Pair(sentence(i), f"answer {i // 2}") for i in range(20)]).labels == ()
    assert recognize([Pair(sentence(i), "long " * (8 + i % 2)) for i in range(20)]).labels == ()
    assert recognize([Chat([{"role": "assistant", "content": "a"}])] * 3).kind == "chat"


def test_equal_prompts_stay_together_whatever_their_answers():
    pairs = [Pair(f"Tell of number {i // 3}.", sentence(i, 40)) for i in range(60)]
    for seed in range(3):
        split = split_examples(pairs, seed=seed)
        prompts = [{one.prompt for one in part} for part in (split.train, split.validation, split.test)]
        assert sum(map(len, prompts)) == 20
