"""The report of a fine-tuning as a page of HTML, from the values that are also in ``report.json``.

It begins with what to use. What users wrote is escaped, and the page loads nothing and runs nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llama_minimal.finetuning.page import (
    Html,
    confusion_table,
    document,
    element,
    line_chart,
    quoted,
    score_chart,
    table,
)

Report = Mapping[str, Any]

_MANY = 20  # labels, beyond which a confusion matrix is no help
_KINDS = {
    "labels": "texts with labels",
    "pairs": "prompts with completions",
    "chat": "conversations",
}


def render(report: Report) -> str:
    """Return the page.

    Args:
        report: as ``FineTuning.report`` gives it, or ``json.loads`` of a ``report.json``.
    """
    parts = (_verdict, _scores, _examples, _confusion, _curve, _search, _forgetting, _cost, _data, _again)
    return document(f"Fine-tuning on {report['data']['name']}", *(part(report) for part in parts))


def _verdict(report: Report) -> Html:
    data = report["data"]
    return element(
        "header",
        element("h1", "Fine-tuning on ", quoted(data["name"])),
        element("p", report["verdict"], class_="verdict"),
        element("p", f"{data['n_examples']:,} {_KINDS[report['task']['kind']]}; base model: ", quoted(report["base"])),
    )


def _scores(report: Report) -> Html:
    task, scores = report["task"], report["scores"]
    names = [f"{one['name']} (baseline)" if one["kind"] == "baseline" else one["name"] for one in scores]
    bars = [(name, one["score"], one["low"], one["high"]) for name, one in zip(names, scores, strict=True)]
    words = "; ".join(f"{name} {value:.1f}" for name, value, _, _ in bars)
    rows = [(name, f"{value:.1f}", f"{low:.1f} to {high:.1f}") for name, value, low, high in bars]
    columns = ("who answers", "score", "95 % interval")
    if task["labels"]:
        columns += ("macro-F1",)
        rows = [(*row, f"{one['macro_f1']:.1f}") for row, one in zip(rows, scores, strict=True)]
    caption = f"{task['metric']}, 0 to 100, over {report['n_measured']:,} examples of the test part"
    explained = "The search did not look at these examples. Of a hundred such intervals about 95 hold the score that "
    explained += "endlessly many examples of this kind would give."
    left_out = [element("p", note, class_="quiet") for note in report["notes"]]
    return _section(
        "Before, after, and baselines",
        score_chart(bars, alt=f"Scores: {words}"),
        table(caption, columns, rows),
        element("p", explained, class_="quiet"),
        *left_out,
    )


def _examples(report: Report) -> Html:
    rows = []
    for one in report["examples"]:
        right = one["score"] >= 50
        mark = element("span", "right" if right else "wrong", class_="good" if right else "bad")
        if report["task"]["metric"] == "chrF":
            mark = element("span", f"{one['score']:.0f}")
        before = quoted(one["before"]) if one["before"] is not None else element("span", "not asked", class_="quiet")
        rows.append((quoted(one["prompt"]), quoted(one["wanted"]), before, quoted(one["after"]), mark))
    columns = ("text", "wanted", "before", "after", "after is")
    return _section("Examples", table("Of the test part: right ones and wrong ones", columns, rows))


def _confusion(report: Report) -> Html:
    confusion = report["confusion"]
    if confusion is None:
        return Html()
    if len(confusion["labels"]) > _MANY:
        return element("p", f"There are {len(confusion['labels'])} labels: report.json has the confusion matrix.")
    return _section("Which label is taken for which", confusion_table(confusion["labels"], confusion["counts"]))


def _curve(report: Report) -> Html:
    points = report["curve"]
    lines = {
        "training": [(point["step"], point["loss"]) for point in points],
        "validation": [(point["step"], point["validation_loss"]) for point in points if "validation_loss" in point],
    }
    chosen = report["chosen"]
    words = f"Loss against steps of training, from {points[0]['loss']:.3f} to {points[-1]['loss']:.3f}; "
    words += f"lowest on the validation part, {chosen['validation_loss']:.3f}, after step {chosen['best_step']}"
    chart = line_chart(lines, x_label="steps", y_label="loss, nats", alt=words)
    return _section("Learning curve", chart, element("p", f"{words}; the weights of that step are kept."))


def _search(report: Report) -> Html:
    rows = [(one["name"], *(_loss(one["losses"], step) for step in report["rounds"])) for one in report["search"]]
    chosen = element("p", f"Chosen: {report['chosen']['name']}, trained for {report['chosen']['steps']} steps.")
    if not rows:
        return _section("Search", chosen, element("p", "The command left nothing to search."))
    columns = ("way to tune", *(f"after {step} steps" for step in report["rounds"]))
    caption = "Lowest loss on the validation part; after each round the better half goes on"
    return _section("Search", table(caption, columns, rows), chosen)


def _loss(losses: Mapping[str, float | None], step: str) -> str:
    if step not in losses:
        return "–"
    return "diverged" if losses[step] is None else f"{losses[step]:.3f}"


def _forgetting(report: Report) -> Html:
    found = report["forgetting"]
    if found["before"] is None:
        return _section("What was forgotten", element("p", f"Unknown: {found['why']}"))
    change = found["after"] - found["before"]
    words = f"On {found['text']} the model needed {found['before']:.3f} bits per byte before and {found['after']:.3f} "
    words += f"after: {change:+.3f}. " + ("More is worse." if change > 0 else "Nothing was lost there.")
    note = [element("p", found["why"], class_="quiet")] if found["why"] else []
    return _section("What was forgotten", element("p", words), *note)


def _cost(report: Report) -> Html:
    cost = report["cost"]
    share = cost["parameters_trained"] / cost["parameters"]
    rows = [
        ("minutes in all", f"{cost['minutes']:.1f}"),
        ("tokens of the last training", f"{cost['tokens']:,}"),
        ("parameters trained", f"{cost['parameters_trained']:,} ({share:.1%})"),
        ("parameters of the model", f"{cost['parameters']:,}"),
        *((f"on the disk, {name}", f"{size / 1e6:.2f} MB") for name, size in cost["bytes"].items()),
    ]
    return _section("Cost", table("What it took", ("what", "how much"), rows))


def _data(report: Report) -> Html:
    data = report["data"]
    rows = [(name, f"{size:,}") for name, size in data["split"].items()]
    findings = [element("li", quoted(finding)) for finding in data["findings"]]
    found = element("ul", *findings) if findings else element("p", "The checks found nothing wrong.")
    return _section("The data", table("Examples of each part", ("part", "examples"), rows), found)


def _again(report: Report) -> Html:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return _section(
        "The same again",
        element("pre", element("code", report["command"])),
        element("p", f"SHA-256 of the file: {report['data']['sha256']}. {versions}.", class_="quiet"),
    )


def _section(title: str, *content: str) -> Html:
    return element("section", element("h2", title), *content)


def side_by_side(
    prompts: Sequence[str],
    wanted: Sequence[str],
    before: Sequence[str] | None,
    after: Sequence[str],
    scores: Sequence[float],
    *,
    n: int = 12,
) -> list[dict[str, Any]]:
    """Return some examples for the report: about as many right ones as wrong ones, in the order of the test part.

    Args:
        before: answers before the tuning; None if there were none.
        scores: of the answers after, 0 to 100; from 50 on they count as right.
    """
    right = [i for i, score in enumerate(scores) if score >= 50]
    wrong = [i for i, score in enumerate(scores) if score < 50]
    n_wrong = min(len(wrong), max(n // 2, n - len(right)))
    chosen = sorted([*right[: n - n_wrong], *wrong[:n_wrong]])
    return [
        {
            "prompt": prompts[i],
            "wanted": wanted[i],
            "before": before[i] if before is not None else None,
            "after": after[i],
            "score": scores[i],
        }
        for i in chosen
    ]
