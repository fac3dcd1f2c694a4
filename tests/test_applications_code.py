"""Code as an application: what counts as right is checked by other means, and what only looks right does not count."""

import json
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from llama_minimal.applications import application
from llama_minimal.applications.code import KINDS, baselines, completion, examples, functions, score, sql
from llama_minimal.applications.code.baselines import look_up, n_grams

SPLITS = ("train", "validation", "test")
needs_limits = pytest.mark.skipif(sys.platform == "win32", reason="programs are not run on Windows")


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_the_same_everywhere_and_short_lists_begin_long_ones(kind):
    texts = [(one.prompt, one.completion) for one in examples(40, split="test", seed=3, kinds=[kind])]
    assert [(one.prompt, one.completion) for one in examples(9, split="test", seed=3, kinds=[kind])] == texts[:9]
    source = (
        "import json; from llama_minimal.applications.code import examples\n"
        f"print(json.dumps([(e.prompt, e.completion) for e in examples(40, split='test', seed=3, kinds=[{kind!r}])]))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(done.stdout) == [list(pair) for pair in texts]
    assert len({one for one, _ in texts}) > 35
    assert texts != [(one.prompt, one.completion) for one in examples(40, split="test", seed=4, kinds=[kind])]


@pytest.mark.parametrize("kind", KINDS)
def test_splits_have_no_prompt_in_common_and_prompts_are_short(kind):
    prompts = {split: {one.prompt for one in examples(200, split=split, kinds=[kind])} for split in SPLITS}
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["validation"] & prompts["test"]
    assert max(len(text) for some in prompts.values() for text in some) < 450


def test_kinds_come_in_turn_and_wrong_requests_are_refused():
    assert [one.kind for one in examples(5)] == ["completion", "function", "sql", "completion", "function"]
    assert application("code").examples is examples
    for wrong, message in [
        ({"n": 0}, "at least 1"),
        ({"n": 3, "split": "dev"}, "split='dev' is not one of"),
        ({"n": 3, "kinds": ["poem"]}, "one or more of completion, function, sql"),
        ({"n": 3, "kinds": "sql"}, "one or more of completion, function, sql"),
    ]:
        with pytest.raises(ValueError, match=message):
            examples(**wrong)


def test_when_no_new_examples_come_it_says_so():
    one = examples(1, kinds=["sql"])[0]
    with pytest.raises(ValueError, match="hardly more than 1 different examples, not n=2; ask for fewer"):
        functions.draw(2, [lambda dice: one, lambda dice: None], "0")


# ---- lines of the library


def test_lines_are_the_librarys_own_and_files_keep_to_their_split():
    root, files = Path(sysconfig.get_paths()["stdlib"]), {}
    for split in SPLITS:
        some = examples(100, split=split, kinds=["completion"])
        files[split] = {one.extra["file"] for one in some}
        for one in some:
            text = (root / one.extra["file"]).read_text(encoding="utf-8")
            assert f"{one.prompt}{one.completion}" in text.replace("\r\n", "\n")
            assert one.prompt.endswith(one.extra["beginning"])
            assert not one.prompt.endswith(" ")
            assert "\n" not in one.completion
            assert completion.parses(one.extra["beginning"], one.completion)
    assert not files["train"] & files["test"]
    assert not files["train"] & files["validation"]
    assert not any(re.search(r"(^|/)(tests?|site-packages)/", name) for some in files.values() for name in some)


@pytest.mark.parametrize(
    ("beginning", "rest", "expected"),
    [
        ("x", " = 1", True),
        ("    return", " x", True),
        ("if x", " > 1:", True),
        ("for x", " in y: pass", True),
        ("def f", "(x):", True),
        ("x", "", False),
        ("x", "   ", False),
        ("x", "  # a comment", False),
        ("return", " ", False),
        ("", "# a comment", False),
        ("x =", "", False),
        ("x", "\ny = 1", False),  # what comes after the line is not part of it
        ("x", " = (", False),
        ("x", "\x00", False),
        ("else", ":", False),
    ],
)
def test_a_line_parses_only_if_it_says_more_than_its_beginning(beginning, rest, expected):
    assert completion.parses(beginning, rest) is expected


def test_nothing_at_all_parses_nowhere():
    some = examples(60, split="test", kinds=["completion"])
    for nothing in ("", "# TODO", "\n"):
        scores = score([nothing] * 60, some)
        assert (scores["correct"], scores["parses"]) == (0, 0)


# ---- functions


def drawn(seed: int) -> list:
    dice = Random(seed)
    return [(task, task.example(dice)) for task in functions.tasks()]


def value(source: str, argument: object) -> str | None:
    """Run our own code, here: it is ours."""
    names: dict = {}
    exec(source, names)
    try:
        return repr(names["f"](argument))
    except (TypeError, ValueError, IndexError):
        return None


def test_every_function_does_what_its_description_was_computed_to_be():
    for _, one in drawn(1):
        source = one.prompt + one.completion
        assert [value(source, argument) for argument in one.extra["inputs"]] == one.extra["expected"], source


def test_hidden_inputs_tell_a_constant_from_its_neighbors():
    caught = Counter()
    for _, one in drawn(2):
        numbers = [
            match for match in re.finditer(r"(?<=[<>%+=] )[2-9]\b", one.completion) if "% 2" not in one.completion
        ]
        for match in numbers[:1]:
            for other in (int(match[0]) - 1, int(match[0]) + 1):
                changed = f"{one.completion[: match.start()]}{other}{one.completion[match.end() :]}"
                results = [value(one.prompt + changed, argument) for argument in one.extra["inputs"]]
                caught[results != one.extra["expected"]] += 1
    assert caught[True] > 400
    assert caught[True] / caught.total() > 0.97


def test_compositions_are_held_out_and_their_parts_are_not():
    tasks = {split: [task for task in functions.tasks() if task.split() == split] for split in SPLITS}
    assert min(map(len, tasks.values())) > 40
    for part in ("reduce", "map", "keep"):
        seen = {(task.family.argument, getattr(task, part).code) for task in tasks["train"]}
        assert {(task.family.argument, getattr(task, part).code) for task in tasks["test"]} <= seen
    assert {task.name for task in tasks["train"]}.isdisjoint(task.name for task in tasks["test"])


@needs_limits
def test_a_right_function_may_be_written_otherwise_and_a_wrong_one_fails():
    one = next(e for _, e in drawn(0) if e.completion == "    return sum(x * x for x in xs if x % 2 == 0)")
    for right in (
        "return sum(x * x for x in xs if x % 2 == 0)",
        "    return sum([x ** 2 for x in xs if not x % 2])\n",
        "total = 0\n    for x in xs:\n        if x % 2 == 0:\n            total += x * x\n\n    return total\nDone.",
        "print('[]')\n    return sum(x * x for x in xs if x % 2 == 0)",
    ):
        assert functions.passes(right, one), right
    for wrong in (
        "",
        "pass",
        "return sum(x * x for x in xs if x % 2 == 1)",
        "return float(sum(x * x for x in xs if x % 2 == 0))",  # equal, and of another type
        "return sum(x * x for x in xs if x % 2 == 0",
        "return xs.pop()",
        "raise SystemExit(0)",
        "import sys; print(['0']); sys.exit()",
        "return 'é' * 10**9",
        "\x00",
    ):
        assert not functions.passes(wrong, one), wrong
    assert not functions.passes("while True: pass", one, timeout=0.5)


@needs_limits
def test_one_function_cannot_spoil_another():
    some = examples(3, split="test", kinds=["function"])
    spoiler = "import builtins, json; builtins.repr = json.dumps = lambda x: '0'; import os; os._exit(0)"
    assert score([some[0].completion, spoiler, some[2].completion], some)["correct"] == pytest.approx(200 / 3)


# ---- SQL


def rows_of(seed: int) -> list[dict]:
    found = sql.answer(
        "select seller, good, day, price, place from prices join sellers using (seller)", sql.market(seed)
    )
    return [dict(zip(("seller", "good", "day", "price", "place"), row, strict=True)) for row in found]


def test_queries_answer_their_questions_as_python_does():
    """Read the question anew, and answer it with a loop."""
    patterns = {
        "good": r"of (\w+s)\b(?! have)",
        "seller": r"by ([A-Z]\w+)",
        "place": r"at the (\w+)",
        "day": r"on day (\d)",
        "above": r"above (\d+)",
        "below": r"below (\d+)",
    }
    figures = {
        "the highest price": max,
        "the lowest price": min,
        "the total price": sum,
        "the average price": lambda prices: sum(prices) / len(prices),
        "the number": len,
    }
    checked = 0
    for one in examples(400, kinds=["sql"]):
        text = one.extra["question"]
        figure = next((f for words, f in figures.items() if f"What is {words} of" in text), None)
        rest = text.partition(" of offers")[2]
        if figure is None:
            continue
        asked = {name: match[1] for name, pattern in patterns.items() if (match := re.search(pattern, rest))}
        group = re.search(r"for each (\w+)", text)
        for seed in (0, 1):
            groups: dict = {}
            for row in rows_of(seed):
                row |= {"day": str(row["day"])}
                fits = all(row[name] == asked[name] for name in ("good", "seller", "place", "day") if name in asked)
                if fits and int(asked.get("above", 0)) < row["price"] < int(asked.get("below", 999)):
                    groups.setdefault(row[group[1]] if group else "", []).append(row["price"])
            given = sql.answer(one.completion, sql.market(seed))
            assert {str(row[0]) if group else "": row[-1] for row in given} == {k: figure(v) for k, v in groups.items()}
        checked += 1
    assert checked > 150


def test_rows_count_and_their_order_if_it_was_asked_for():
    ordered = "select good, price from prices order by price"
    plain = "select good, price from prices"
    assert sql.same_answers("select good, price from prices order by price asc", ordered)
    assert not sql.same_answers("select good, price from prices order by price desc", ordered)
    assert sql.same_answers("select good, price from prices order by good", plain)
    assert not sql.same_answers("select price, good from prices", plain)
    assert not sql.same_answers("select distinct good from prices", "select good from prices")
    joined = "select price from prices join sellers using (seller) where place = 'mill'"
    within = "select price from prices where seller in (select seller from sellers where place = 'mill')"
    assert sql.same_answers(joined, within)
    assert not sql.same_answers("", "")


def test_an_answer_copied_from_the_market_that_is_shown_does_not_count():
    for one in examples(150, split="test", kinds=["sql"]):
        rows = sql.answer(one.completion, sql.market(0))
        values = ", ".join("(" + ", ".join(repr(value) for value in row) + ")" for row in rows)
        copied = f"values {values}"
        assert sql.answer(copied, sql.market(0)) == rows
        assert not sql.same_answers(copied, one.completion)


@pytest.mark.parametrize(
    "query",
    [
        "delete from prices",
        "insert into prices values ('Nora', 'pies', 1, 1)",
        "update prices set price = 1",
        "drop table prices",
        "create table more (x)",
        "create temp table more (x)",
        "pragma user_version = 3",
        "attach database 'file' as other",
        "vacuum into 'file'",
        "begin",
        "select * from sqlite_master",
        "select load_extension('x')",
        "select randomblob(100)",
        "select price from prices; select 1",
        "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n",
        "select count(*) from prices a, prices b, prices c, prices d",
        "select a.price from prices a, prices b",  # too many rows
        f"select '{'x' * 20_000}'",
        "select",
        "I sell apples.",
        "select 1\x00",
        "select '\ud800'",
    ],
)
def test_a_query_reads_a_little_and_does_nothing_else(query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sql.answer("select * from prices", sql.market(0))
    assert sql.answer(query, sql.market(0)) is None
    assert sql.answer("select * from prices", sql.market(0)) == before
    assert not list(tmp_path.iterdir())


def test_no_two_offers_have_the_same_price():
    for seed in (0, 1):
        prices = sql.answer("select price from prices", sql.market(seed))
        assert len(set(prices)) == len(prices) > 100


# ---- score and baselines


@needs_limits
def test_the_answer_key_scores_100_and_nothing_scores_0():
    some = examples(12, split="test")
    right = score([one.completion.strip() for one in some], some)
    assert list(right) == ["correct", "chrF", "parses", "completion", "function", "sql"]
    assert set(right.values()) == {100.0}
    assert set(score([""] * 12, some).values()) == {0.0}
    with pytest.raises(ValueError, match="11 predictions for 12 examples"):
        score([""] * 11, some)


def test_the_nearest_example_of_one_that_is_known_is_itself():
    train = examples(300)
    known = [one for one in train if one.kind != "completion"]
    assert look_up(train)(known) == [one.completion.strip() for one in known]


def test_the_nearest_example_gets_the_constants_at_hand():
    train = examples(300, kinds=["sql"])
    near = next(one for one in train if "of apples" in one.extra["question"])
    text = near.extra["question"].replace("apples", "pies")
    other = type(near)(f"Question: {text}\nSQL:", "", "sql", extra={"question": text})
    assert look_up(train)([other]) == [near.completion.strip().replace("apples", "pies")]


def test_a_line_is_completed_by_the_most_frequent_one_of_this_beginning():
    train, test = examples(400, kinds=["completion"]), examples(100, split="test", kinds=["completion"])
    lines = Counter(line.strip() for one in train for line in f"{one.prompt}{one.completion}".split("\n"))
    completed = 0
    for one, text in zip(test, look_up(train)(test), strict=True):
        beginning = one.extra["beginning"].strip()
        fits = {line: n for line, n in lines.items() if line.startswith(beginning) and line != beginning}
        assert (lines[f"{beginning}{text}"] or lines[f"{beginning} {text}"]) == max(fits.values()) if fits else not text
        completed += bool(fits)
    assert completed > 5


def test_n_grams_write_what_they_have_counted():
    train = examples(30, kinds=["sql"])
    assert n_grams(train)(train[:1])[0].startswith("select ")
    assert set(baselines(train)) == {"n-grams", "nearest example"}
    assert n_grams(train)(examples(1, kinds=["function"])) == look_up(train)(examples(1, kinds=["function"])) == [""]
