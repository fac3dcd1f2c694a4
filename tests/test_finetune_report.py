"""The tuning tool's pieces: the page of the report, intervals, and the search."""

import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from llama_minimal.finetuning.kinds import Pair
from llama_minimal.finetuning.measuring import Measured, difference, interval, recommend
from llama_minimal.finetuning.page import document, element, line_chart, quoted, score_chart, visible
from llama_minimal.finetuning.report import render, side_by_side
from llama_minimal.finetuning.search import Arm, affordable_steps, arms, n_rounds, schedule, search
from llama_minimal.finetuning.summary import answers_summary

VOID = {"meta", "br"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title></bdi></main><img src=http://example.com/x onerror=alert(1)>",
    "\"double\" 'single' & &amp; &lt;",
    "nul \x00 escape \x1b[31m delete \x7f next line \x85 lone \ud83d noncharacter \uffff",
    "مرحبا \u202eright to left\u202c שלום \u2066isolate",
    "w" * 5000,
    "{% raw %}{{ }}` ${x} <!-- --> ]]>",
    "",
]


class Page(HTMLParser):
    """Read a page; note its elements and texts, and fail where they are not nested as they should."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


def report(*, kind="labels", texts=HOSTILE, **changes):
    """Return the values of a report in which everything that a user wrote is one of the texts."""
    rows = [
        ("a baseline", "baseline", 40.0),
        ("the base model, untuned", "before", 30.0),
        ("the tuned model", "tuned", 60.0),
    ]
    scores = [
        {"name": name, "kind": kind, "score": value, "low": value - 9, "high": value + 9, "macro_f1": value}
        for name, kind, value in rows
    ]
    labels = list(texts[:3])
    examples = [
        {"prompt": text, "wanted": text, "before": text, "after": text, "score": 100.0 * (i % 2)}
        for i, text in enumerate(texts)
    ]
    return {
        "recommended": "the tuned model",
        "verdict": "Use the tuned model. " + texts[1],
        "task": {"kind": kind, "metric": "accuracy", "labels": labels if kind == "labels" else []},
        "n_measured": 10,
        "notes": [texts[0]],
        "scores": scores,
        "examples": examples,
        "confusion": {"labels": labels, "counts": [[3, 0, 1], [0, 0, 0], [1, 1, 1]]} if kind == "labels" else None,
        "base": texts[1],
        "search": [{"name": "one", "losses": {"4": 0.5, "8": None}}, {"name": "two", "losses": {"4": 0.75}}],
        "rounds": ["4", "8"],
        "chosen": {"name": "one", "steps": 16, "best_step": 2, "validation_loss": 0.25},
        "curve": [{"step": 1, "loss": 0.75}, {"step": 2, "loss": 0.5, "validation_loss": 0.25}],
        "forgetting": {"text": texts[0], "before": 0.5, "after": 0.625, "why": ""},
        "cost": {"minutes": 1.5, "tokens": 100, "parameters": 1000, "parameters_trained": 10, "bytes": {"model": 4000}},
        "data": {"name": texts[1], "sha256": "ab", "n_examples": 30, "split": {"training": 20}, "findings": texts},
        "command": texts[2],
        "versions": {"torch": "2"},
    } | changes


@pytest.mark.parametrize("kind", ["labels", "pairs", "chat"])
def test_a_report_holds_what_users_wrote_as_text_alone(kind):
    """Parsed, the page has the same elements whatever the texts are, and the texts are all there."""
    harmless = Page(render(report(kind=kind, texts=[f"text {i}" for i in range(len(HOSTILE))])))
    found = Page(render(report(kind=kind)))
    strip = [(tag, sorted(set(attrs) - {"class"})) for tag, attrs in harmless.elements]
    assert [(tag, sorted(set(attrs) - {"class"})) for tag, attrs in found.elements] == strip
    for text in HOSTILE[:3] + HOSTILE[4:5] + HOSTILE[6:7]:
        assert text in found.text


def test_a_report_loads_nothing_and_runs_nothing():
    text = render(report())
    page = Page(text)
    for tag, attrs in page.elements:
        assert tag not in {"script", "iframe", "object", "embed", "link", "img", "form", "base", "a", "image", "use"}
        assert not {"src", "href", "srcset", "action", "style", "background"} & set(attrs)
        assert not [name for name in attrs if name.startswith("on")]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    metas = [attrs for tag, attrs in page.elements if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    policy = next(attrs["content"] for attrs in metas if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert any(attrs.get("name") == "viewport" for attrs in metas)


def test_a_report_is_accessible():
    """Tables have captions and headers with a scope, drawings say in words what they show, the page its language."""
    page = Page(render(report()))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") == 6
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in page.elements if tag == "th")
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert len(drawings) == 2
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 20 for attrs in drawings)
    assert ("html", {"lang": "en"}) in page.elements
    assert tags.count("h1") == 1


def test_no_character_that_html_forbids_is_left():
    """Source: the HTML standard, "Text": no control characters but white space, no surrogates, no noncharacters."""
    text = render(report())
    assert not re.search("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", text)
    text.encode("utf-8")
    assert visible("a\x00b\x1bc\r\nd\te") == "a\u2400b\u241bc\u240d\nd\te"


def test_long_texts_are_cut_and_keep_their_beginning_and_end():
    text = "begin " + "x" * 5000 + " end"
    (shown,) = Page(quoted(text, longest=90)).texts
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert len(shown) < 100


def test_what_was_forgotten_is_unknown_without_a_text():
    unknown = {"text": None, "before": None, "after": None, "why": "there is no such text."}
    page = Page(render(report(forgetting=unknown)))
    assert "Unknown: there is no such text." in page.text
    assert "0.500 bits per byte before and 0.625 after: +0.125" in Page(render(report())).text


def test_a_search_shows_each_round():
    page = Page(render(report()))
    after = page.text.split("after 8 steps")[1]
    assert after.startswith("one0.500divergedtwo0.750–Chosen: one, trained for 16 steps.")


def test_a_report_survives_json():
    values = report(texts=[text for text in HOSTILE if "\ud83d" not in text])
    assert render(json.loads(json.dumps(values))) == render(values)


def test_elements_escape_texts_and_attributes():
    assert element("p", "a < b", title='say "<"') == '<p title="say &quot;&lt;&quot;">a &lt; b</p>'
    assert Page(document("<b>", element("p", "<"))).text.strip().endswith("<")


def test_points_of_a_chart_are_where_their_values_are():
    points = [(0, 2.0), (10, 1.0), (20, 1.5)]
    page = Page(line_chart({"loss": points}, x_label="steps", y_label="loss", alt="a falling loss"))
    (path,) = [attrs["points"] for tag, attrs in page.elements if tag == "polyline"]
    found = np.array([list(map(float, pair.split(","))) for pair in path.split()])
    xs, ys = np.array(points).T
    for drawn, values, sign in ((found[:, 0], xs, 1), (found[:, 1], ys, -1)):
        slope, _ = np.polyfit(values, drawn, 1)
        assert np.sign(slope) == sign
        np.testing.assert_allclose(np.corrcoef(values, drawn)[0, 1], sign, atol=1e-4)


def test_a_bar_is_as_long_as_its_score():
    rows = [("a", 25.0, 20.0, 30.0), ("b", 100.0, 90.0, 100.0), ("c", 0.0, 0.0, 5.0)]
    page = Page(score_chart(rows, alt="three bars"))
    widths = [float(attrs["width"]) for tag, attrs in page.elements if tag == "rect"]
    assert widths == pytest.approx([widths[1] / 4, widths[1], 0], abs=0.1)


def test_examples_are_right_ones_and_wrong_ones_in_order():
    scores = [100.0] * 20 + [0.0] * 3
    texts = list(map(str, range(23)))
    found = side_by_side(texts, texts, None, texts, scores, n=8)
    assert [one["score"] for one in found] == [100.0] * 5 + [0.0] * 3
    assert [int(one["prompt"]) for one in found] == [0, 1, 2, 3, 4, 20, 21, 22]
    assert len(side_by_side(texts, texts, None, texts, [0.0] * 23, n=8)) == 8


def test_wilsons_interval_is_where_the_normal_test_ends():
    """By definition p is in the interval if |p̂ − p| ≤ z √(p(1 − p)/n): its ends are the roots."""
    scores = [100.0] * 17 + [0.0] * 3
    for end in interval(scores):
        p = end / 100
        assert abs(0.85 - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 20), rel=1e-6)
    assert interval([100.0] * 10)[1] == pytest.approx(100)
    assert 60 < interval([100.0] * 10)[0] < 80


def test_a_bootstrap_interval_is_about_that_of_the_normal_distribution():
    scores = np.random.default_rng(0).uniform(0, 100, 400)
    low, high = interval(list(scores))
    error = scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - 1.96 * error, scores.mean() + 1.96 * error), abs=0.6)
    gain, low, high = difference(list(scores + 3), list(scores))
    assert (gain, low, high) == pytest.approx((3, 3, 3))
    with pytest.raises(ValueError, match="cannot be compared"):
        difference([1.0], [1.0, 2.0])


def measured(name, kind, right, n=100):
    scores = tuple([100.0] * right + [0.0] * (n - right))
    return Measured(name=name, kind=kind, predictions=("",) * n, scores=scores)


@pytest.mark.parametrize(
    ("tuned", "baseline", "before", "wanted", "words"),
    [
        (90, 60, 50, "tuned", "It does better than b: 90.0 against 60.0, a difference of 30.0"),
        (60, 90, 50, "b", "It does better than tuned: 90.0 against 60.0"),
        (60, 60, 50, "b", "It does as well as tuned, and costs less"),
        (60, 50, 61, "before", "that may be chance"),
    ],
)
def test_the_best_is_recommended_and_of_equals_the_cheaper(tuned, baseline, before, wanted, words):
    all_ = [
        measured("b", "baseline", baseline),
        measured("before", "before", before),
        measured("tuned", "tuned", tuned),
    ]
    chosen, verdict = recommend(all_)
    assert chosen.name == wanted
    assert verdict.startswith(f"Use {wanted}.")
    assert words in verdict
    assert ("chance" in verdict) == (abs(tuned - max(baseline, before)) < 2)


def test_where_nothing_is_right_nothing_is_recommended():
    ways = [measured(name, kind, 0) for name, kind in [("b", "baseline"), ("base", "before"), ("new", "tuned")]]
    chosen, verdict = recommend(ways)
    assert chosen is None
    assert verdict.startswith("Use none of them: over 100 test examples new scores 0.0, and so does all else.")
    assert recommend([*ways, measured("c", "baseline", 1)])[0].name == "c"
    asking, examples = SimpleNamespace(labels=(), metric="exact match"), [Pair("a", "b")] * 100
    material = SimpleNamespace(asking=asking, kind="pairs", split=SimpleNamespace(test=examples))
    summary = answers_summary(material, examples, ways)
    assert (summary["recommended"], summary["verdict"]) == (None, verdict)
    assert verdict in render(report(kind="pairs", verdict=summary["verdict"]))


def test_what_is_given_is_not_searched():
    assert {arm.method for arm in arms("labels", dim=256)} == {"head", "lora", "full"}
    assert {arm.method for arm in arms("pairs", dim=256)} == {"lora", "full"}
    assert arms("chat", dim=256, method="full", lr=0.5) == [Arm(method="full", lr=0.5)]
    assert {(arm.method, arm.rank) for arm in arms("pairs", dim=256, rank=3)} == {("lora", 3)}
    wide, narrow = (arms("pairs", dim=dim, method="full") for dim in (4096, 256))
    assert [arm.lr * 16 for arm in wide] == pytest.approx([arm.lr for arm in narrow], rel=0.1)


def test_halving_keeps_the_better_half_and_doubles_the_steps():
    ways = [Arm(method="full", lr=lr) for lr in (1.0, 2.0, 3.0, 4.0, 5.0)]
    asked = []

    def loss(arm, steps):
        asked.append((arm.lr, steps))
        return {1.0: math.nan, 2.0: math.inf}.get(arm.lr, 10 - arm.lr if steps > 10 else arm.lr)

    assert search(ways, steps=80, loss=loss).lr == 5.0
    first, second = [(lr, 10) for lr in (1.0, 2.0, 3.0, 4.0, 5.0)], [(3.0, 20), (4.0, 20), (5.0, 20)]
    third = [(5.0, 40), (4.0, 40)]
    assert asked == first + second + third
    assert search(ways[:1], steps=80, loss=None) == ways[0]


@pytest.mark.parametrize("n", range(1, 9))
def test_the_steps_that_are_affordable_take_the_time_that_there_is(n):
    """Counted training by training, the search and the last training take the seconds that were given."""
    steps = affordable_steps(n, seconds=1000, per_step=0.1, per_validation=0.5, validations=(2, 10), at_most=10**6)
    trainings = [each for count, each in schedule(n, steps=steps) for _ in range(count)] + [steps]
    seconds = sum(0.1 * each + 2 * 0.5 for each in trainings) + 8 * 0.5
    assert 930 < seconds <= 1000
    assert affordable_steps(n, seconds=1000, per_step=0.1, per_validation=0.5, validations=(2, 10), at_most=500) == 500
    least = affordable_steps(n, seconds=-5, per_step=0.1, per_validation=0.5, validations=(2, 10), at_most=500)
    assert least == 4 * 2 ** n_rounds(n)
