"""A page of HTML that needs nothing else: elements whose text is escaped, tables, and charts drawn as SVG."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

_VOID = frozenset(("meta", "br"))
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 480, 260, 56, 40  # of a chart, and of the place for its labels

STYLE = """
:root { color-scheme: light dark; --line: #8886; --quiet: #666; --good: #17722f; --bad: #b3261e; --a: #2f6db5;
  --b: #c2570c; }
@media (prefers-color-scheme: dark) {
  :root { --quiet: #aaa; --good: #6fce85; --bad: #ff8a80; --a: #7db5f5; --b: #f5a35c; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .3rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); } td.number { text-align: right; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; } th, td { overflow-wrap: anywhere; min-width: 4rem; }
.verdict { border-left: .3rem solid var(--a); padding: .1rem 1rem; font-size: 1.1rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .quiet { color: var(--quiet); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); padding: .6rem; }
svg { width: 100%; max-width: 36rem; height: auto; font: 13px system-ui, sans-serif; fill: currentColor; }
svg .axis { stroke: var(--line); fill: none; } svg .a { stroke: var(--a); } svg .b { stroke: var(--b); }
svg polyline { fill: none; stroke-width: 2; } svg .bar { stroke: none; fill: var(--a); fill-opacity: .45; }
""" + "".join(f"td.h{i} {{ background: rgb(47 109 181 / {i / 12:.2f}); }}\n" for i in range(10))


class Html(str):
    """Text that is HTML already; all other text is escaped when it becomes part of an element."""

    __slots__ = ()


def element(tag: str, /, *children: str, **attributes: object) -> Html:
    """Return an element; ``class_`` stands for the attribute class, and ``aria_label`` for aria-label."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    inside = "".join(f' {key}="{_escaped(str(value))}"' for key, value in named.items())
    if tag in _VOID:
        return Html(f"<{tag}{inside}>")
    return Html(f"<{tag}{inside}>{''.join(map(_escaped, children))}</{tag}>")


def _escaped(text: str) -> str:
    return text if isinstance(text, Html) else escape(visible(text))


def visible(text: str) -> str:
    """Return a text with a sign in the place of each character that HTML may not hold, or that nobody sees."""
    return _UNSEEN.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)


def quoted(text: str, *, longest: int = 600) -> Html:
    """Return what somebody wrote, cut if it is long; its direction and its line ends do not spread to the rest."""
    if len(text) > longest:
        text = f"{text[: longest * 2 // 3]} … {text[-longest // 3 :]}"
    return element("bdi", text, class_="text")


def document(title: str, *content: str) -> str:
    """Return a whole page, which may load nothing and run nothing."""
    rules = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=rules),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element("body", element("main", *content))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Return a table; the first cell of a row is its header, and cells that hold a number stand on the right."""
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    lines = [element("tr", element("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows]
    inside = element("caption", caption), element("thead", head), element("tbody", *lines)
    return element("div", element("table", *inside), class_="scroll")


def _cell(text: str) -> Html:
    is_number = not isinstance(text, Html) and re.match(r"[-−+]?\d", text)
    return element("td", text, class_="number" if is_number else None)


def confusion_table(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """Return how often each label (a row) was given each label (a column); darker is more of its row."""
    head = element("tr", element("th", "wanted ↓, given →", scope="col"), *(_header(name, "col") for name in labels))
    lines = []
    for name, row in zip(labels, counts, strict=True):
        shades = [min(9, 10 * count // max(1, sum(row))) for count in row]
        cells = [element("td", str(n), class_=f"number h{shade}") for n, shade in zip(row, shades, strict=True)]
        lines.append(element("tr", _header(name, "row"), *cells))
    caption = element("caption", "Lines of the test part by the label they have and the one the tuned model gave")
    inside = caption, element("thead", head), element("tbody", *lines)
    return element("div", element("table", *inside), class_="scroll")


def _header(text: str, scope: str) -> Html:
    return element("th", quoted(text, longest=60), scope=scope)


def score_chart(rows: Sequence[tuple[str, float, float, float]], *, alt: str) -> Html:
    """Draw a bar from 0 to 100 for each name, with the interval around its end.

    Args:
        rows: name, value, and the interval's two ends.
    """
    height, scale = 44, (_WIDTH - 50) / 100
    parts = []
    for i, (name, value, low, high) in enumerate(rows):
        top, middle = height * i, height * i + 30
        ends = [1 + scale * end for end in (low, high)]
        parts += [
            _text(1, top + 14, name),
            element("rect", x=1, y=top + 20, width=f"{scale * value:.1f}", height=20, class_="bar"),
            _line(ends[0], middle, ends[1], middle, class_="b"),
            *(_line(end, middle - 5, end, middle + 5, class_="b") for end in ends),
            _text(max(ends) + 6, middle + 4, f"{value:.0f}"),
        ]
    return _svg(parts, alt, height=height * len(rows))


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str, alt: str) -> Html:
    """Draw up to two lines through points (x, y), each with its name."""
    lines = {name: points for name, points in lines.items() if points}
    xs, ys = ([point[i] for points in lines.values() for point in points] for i in (0, 1))
    (x0, x1), (y0, y1) = _span(xs), _span(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return _LEFT + across * (_WIDTH - _LEFT - 20), _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - 20)

    parts = [_line(*place(x0, y0), *place(x1, y0), class_="axis"), _line(*place(x0, y0), *place(x0, y1), class_="axis")]
    for share in (0, 0.5, 1):
        x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
        parts.append(_text(place(x, y0)[0], _HEIGHT - 24, f"{x:.4g}", anchor="middle"))
        parts.append(_text(_LEFT - 6, place(x0, y)[1] + 4, f"{y:.3g}", anchor="end"))
    parts += [_text(_WIDTH / 2, _HEIGHT - 6, x_label, anchor="middle"), _text(4, 12, y_label)]
    for i, (kind, (name, points)) in enumerate(zip("ab", lines.items(), strict=False)):
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        mark = 160 + 150 * i
        parts += [element("polyline", points=path, class_=kind), _line(mark, 8, mark + 24, 8, class_=kind)]
        parts.append(_text(mark + 30, 12, name))
    return _svg(parts, alt, height=_HEIGHT)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _svg(parts: Sequence[str], alt: str, *, height: int) -> Html:
    return element("svg", element("title", alt), *parts, role="img", aria_label=alt, viewBox=f"0 0 {_WIDTH} {height}")


def _line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> Html:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", **{key: f"{value:.1f}" for key, value in ends.items()}, class_=class_)


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
