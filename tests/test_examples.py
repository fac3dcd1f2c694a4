"""Reading examples: what libraries write is read back, and what is wrong is said in a sentence, with its line."""

import csv
import gzip
import io
import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.data.valley import examples as valley_examples
from llama_minimal.data.valley import stories
from llama_minimal.finetuning import Chat, Labeled, Pair, read_examples
from llama_minimal.finetuning.examples import read_numbered

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
TURNS = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture
def write(tmp_path):
    def write(content, name="data.jsonl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), st.sampled_from(",;\t|"), st.booleans())
def test_a_table_that_python_wrote_is_read_back_with_its_lines(tmp_path_factory, rows, delimiter, quote_all):
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    file, begin = io.StringIO(newline=""), []
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\r\n")
    writer.writerow(["Text", " LABEL"])
    for row in rows:
        # Whatever universal newlines end a line, as Python's own reader of text files has it.
        begin.append(len(io.StringIO(file.getvalue(), newline=None).read().split("\n")))
        writer.writerow(row)
    path = tmp_path_factory.mktemp("table") / "data.csv"
    path.write_bytes(b"\xef\xbb\xbf" + file.getvalue().encode())
    assert read_numbered(path) == ([Labeled(*row) for row in rows], begin)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), st.sampled_from([None, 2]))
def test_a_json_list_is_read_as_json_reads_it(tmp_path_factory, rows, indent):
    path = tmp_path_factory.mktemp("list") / "data.json"
    path.write_text(json.dumps([{"prompt": a, "completion": b} for a, b in rows], indent=indent))
    found, begin = read_numbered(path)
    assert found == [Pair(*row) for row in rows]
    assert begin == [2 + 4 * i if indent else 1 for i in range(len(rows))]


@settings(max_examples=30, deadline=None)
@given(TEXTS, TEXTS)
def test_a_pair_keeps_its_text_and_ends_its_prompt_without_a_space(prompt, completion):
    pair = Pair(prompt, completion)
    assert pair.prompt + pair.completion == prompt + completion
    assert not pair.prompt.endswith(" ")
    assert Pair(pair.prompt, pair.completion) == pair


FORMS = [
    ({"prompt": "A: ", "completion": "b"}, Pair("A:", " b")),
    ({"Prompt": "", "ANSWER": "b", "id": 7}, Pair("", "b")),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, Pair("Add.\n1 2\n", "3")),
    ({"instruction": "Say hi.", "input": None, "output": "hi"}, Pair("Say hi.\n", "hi")),
    ({"instruction": "Say hi.", "input": "", "output": " hi"}, Pair("Say hi.", " hi")),
    ({"question": "Who? ", "answer": "Bo"}, Pair("Who?", " Bo")),
    ({"input": "a", "output": "b"}, Pair("a\n", "b")),
    ({"source": "a", "target": "b"}, Pair("a\n", "b")),
    ({"messages": TURNS}, Chat(tuple(TURNS))),
    ({"conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello."}]}, Chat(tuple(TURNS))),
    ({"text": "a", "label": 3}, Labeled("a", "3")),
    ({"text": "a", "label": 3.0}, Labeled("a", "3")),
    ({"sentence": "a", "label": True}, Labeled("a", "true")),
    ({"review": "a", "Sentiment": " good "}, Labeled("a", " good ")),
]


@pytest.mark.parametrize(("row", "example"), FORMS)
def test_the_names_that_are_known(write, row, example):
    assert read_examples([row]) == read_examples(write(lines(row, row)))[:1] == [example]


def test_what_else_an_iterable_may_hold():
    @dataclass
    class Other:
        text: str
        label: int

    assert read_examples(Other("a", n) for n in (1, 2)) == [Labeled("a", "1"), Labeled("a", "2")]
    assert read_examples((Chat(TURNS), {"messages": TURNS})) == [Chat(TURNS)] * 2


def test_what_the_corpus_command_writes_and_compressed_files(write):
    made = [one for story in stories(3) for one in valley_examples(story, "qa")]
    text = lines(*[{**one.as_dict(), "text": one.text} for one in made])
    found = read_examples(write(gzip.compress(text.encode()), "qa.jsonl.gz"))
    assert [one.prompt + one.completion for one in found] == [one.text for one in made]
    assert read_examples(write(("\ufeff" + text).encode("utf-16"), "qa.jsonl")) == found


def test_blank_lines_trailing_commas_and_windows_line_ends(write):
    table = 'text,label,,\r\n\r\n"a\r\nb",x,,\r\n,,,\r\nc,y\r\n'
    assert read_numbered(write(table, "t.csv")) == ([Labeled("a\r\nb", "x"), Labeled("c", "y")], [3, 6])
    assert read_numbered(write('\n{"text": "a", "label": "b"}\r\n\n{"text": "c", "label": "d"}'))[1] == [2, 4]


def test_the_limit_of_pythons_csv_is_raised_and_put_back(write):
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    assert read_examples(write(f"text,label\n{long},a\n", "t.csv")) == [Labeled(long, "a")]
    with pytest.raises(ValueError, match=r"begins in line 3 has a cell of more than 1,000,000 characters"):
        read_examples(write(f"text,label\nok,a\n{'x' * 1_000_001},a\n", "t.csv"))
    assert csv.field_size_limit() == before


P = {"prompt": "a", "completion": "b"}
BAD = [
    ("t.jsonl", "", "is empty"),
    ("t.csv", " \n\n", "is empty"),
    ("t.csv", "text,label\n", "no rows below its header"),
    ("t.json", "[]", "holds no rows"),
    ("t.txt", "a", r"ends in '\.txt'; examples are read from files that end in \.jsonl"),
    ("t.csv", "words,mark\na,b\n", "names 'words', 'mark' are not enough .* known are prompt and completion"),
    ("t.csv", "text,Text,label\na,b,c\n", "two columns with the name 'text'"),
    ("t.csv", "text,label,prompt,answer\na,b,c,d\n", "prompt and answer as well as text and label; leave"),
    ("t.csv", 'text,label\n"a\nb",c\nd,\n', r"line 4 has nothing in 'label'\. Every row needs text and label"),
    ("t.csv", "text,label\na,b\nc,d,e\n", "line 3 has not the 2 cells of the header but 3"),
    ("t.csv", 'text,label\na,b\n"c,d\ne,f\n', "begins in line 3 opens a quotation mark that is never closed"),
    ("t.csv", 'text,label\n"a" b,c\n', "begins in line 2 goes on after a closing quotation mark"),
    ("t.csv", "text,label\n" + "a,\n" * 9, "each of lines 2, 3, 4 and 6 more has nothing in 'label'"),
    ("t.csv", b"text,label\nok,a\n\xe9t\xe9,b\n", r"not UTF-8: byte 0xe9 at offset 16 \(line 3\)"),
    ("t.csv", "text,label\n" + "ok,a\n" * 9 + "a\0b,c\n", "line 11 has a NUL character in 'text'"),
    ("t.jsonl", lines(*[P] * 9) + '{"prompt": "a\0b"}', "line 10 holds a NUL character"),
    ("t.jsonl", lines(P, {"prompt": "a\0", "completion": "b"}), "line 2 has a NUL character in 'prompt'"),
    ("t.jsonl", '{"prompt": "\\ud800", "completion": "b"}', r"half a character .* in 'prompt'"),
    ("t.jsonl", lines(P, {"prompt": "a", "completion": None}), "line 2 has null for 'completion'"),
    ("t.jsonl", lines(P) + '{"prompt": "a", "completion": NaN}', "line 2 has NaN for 'completion'"),
    ("t.jsonl", lines(P) + '{"prompt": "a", "prompt": "b", "completion": "c"}', "line 2 has 'prompt' twice"),
    ("t.jsonl", lines(P, {"prompt": "a", "completion": 4}), "line 2 has int 4 for 'completion', which must be a text"),
    ("t.jsonl", lines(P, {"prompt": "a", "completion": ["b"]}), r"has list \['b'\] for 'completion'"),
    ("t.jsonl", lines(P, {"prompt": "a", "completion": " \n"}), "line 2 has nothing in 'completion'"),
    ("t.jsonl", lines(P, P, {"text": "a", "label": "b"}), "line 3 has no 'prompt' but 'text', 'label'"),
    ("t.jsonl", lines(P, ["a"], "b"), "each of lines 2, 3 is no JSON object, such as"),
    ("t.jsonl", "[1, 2]\n[3, 4]\n", "each of lines 1, 2 is no JSON object, such as"),
    ("t.jsonl", lines(P) + "{'prompt': 1}\n", "line 2 is not JSON: Expecting property name"),
    ("t.jsonl", "[" * 100_000, "is not JSON: maximum recursion"),
    ("t.jsonl", "[1] 2", "The list has ended, and '2' follows in line 1"),
    ("t.jsonl", "{" * 9 + "\n" + '{"a":' * 100_000, "line 1 is not JSON: .*; line 2 is not JSON: maximum recursion"),
    ("t.jsonl", lines(P, {"prompt": "x" * 1_000_000, "completion": "b"}), "line 2 is longer than 1,000,000"),
    (
        "t.json",
        '[{"text": "a", "label": 1},\n{"text": "b" "label": 1}]',
        r"Expecting ',' delimiter in line 2, column 14",
    ),
    ("t.json", '[{"text": "a", "label": 1}\n', r"Expecting ',' or '\]' in line 2"),
    ("t.json", '[{"text": "a", "label": 1},\n{"text": "b"}]', "line 2 has no 'label' but 'text'"),
    ("t.jsonl", lines({"messages": "hi"}), "has str 'hi' for its messages"),
    ("t.jsonl", lines({"messages": [{"role": "tool", "content": "x"}]}), "a turn with the role str 'tool'; roles are"),
    ("t.json", '[{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}]', "line 1 has 'role' twice"),
    ("t.jsonl", lines({"messages": ["hi"]}), "a turn with str 'hi'"),
    ("t.jsonl", lines({"messages": TURNS[:1]}), "no turn in which the assistant says something"),
    ("t.jsonl", lines({"messages": [*TURNS, {"role": "system", "content": "x"}]}), "system turn that is not the first"),
    ("t.jsonl", lines({"messages": [{"role": "user", "content": None}]}), "has null for 'content'"),
    ("t.csv.gz", gzip.compress(b"text,label\na,b\n")[:-9], "damaged or cut short"),
    ("t.csv", b"PK\x03\x04" + bytes(40), "a zip archive, not text"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_what_is_wrong_is_said(write, name, content, message):
    path = write(content, name)
    with pytest.raises(ValueError, match=message) as error:
        read_examples(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700 + len(str(path))


def test_many_things_wrong_are_one_error(write):
    with pytest.raises(ValueError, match=r"and 5 lines in all do not fit"):
        read_examples(write(lines(P, [1], {"prompt": 1, "completion": "b"}, {}, {"prompt": ""}, {"completion": ""})))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "there are no examples"),
        ({"text": ["a"], "label": ["b"]}, "dict .* holds no rows; give a file's name, or a list"),
        (5, "int 5 holds no rows"),
        (b"data.csv", "holds no rows"),
        (["a"], "row 1 is str 'a', not a dict"),
        ([{"text": "a", "label": float("nan")}], "row 1 has NaN for 'label'"),
        ([{"text": "a", 1: "b", "label": "c", "TEXT": "d"}], "row 1 has 'text' twice"),
        ([Pair("a", "b"), Labeled("a", "b")], "row 2 has no 'prompt' but 'text', 'label'"),
    ],
)
def test_iterables_that_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_examples(source)


def test_no_such_file_a_folder_and_a_pointer(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.csv"):
        read_examples(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder; give one file"):
        read_examples(tmp_path)
    with pytest.raises(ValueError, match="a pointer of Git LFS"):
        read_examples(write("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"))
