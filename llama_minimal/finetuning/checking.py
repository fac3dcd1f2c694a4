"""Look at examples before anything is trained on them, and say what is wrong."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llama_minimal.chat import ChatTemplate
from llama_minimal.finetuning.encoding import encode_examples
from llama_minimal.finetuning.grouping import (
    Task,
    answer_of,
    as_labels,
    exact_groups,
    near_groups,
    plain,
    prompt_of,
    recognize,
)
from llama_minimal.finetuning.kinds import Chat, Example, Labeled
from llama_minimal.finetuning.splitting import Split, split_examples
from llama_minimal.tokenizer import TextCodec

__all__ = [
    "LEAST",
    "Finding",
    "Findings",
    "Split",
    "Task",
    "as_labels",
    "check_examples",
    "recognize",
    "split_examples",
]

LEAST = 20  # examples, so that two of them are left to choose by, and two to test on
_UNEVEN = 5  # times as many examples with one label as with another
_SHOWN = 3
_WERE, _HAVE = ("was", "were"), ("has", "have")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the examples that their owner should know.

    Args:
        kind: its name: ``repeated``, ``nearly repeated``, ``contradicting``, ``empty``, ``long``, ``few``,
            ``one label``, ``single labels``, ``uneven labels``, ``similar labels`` or ``answer in prompt``.
        n: how many examples it is about.
        samples: the numbers of the first of them, of lines where those are known.
        severity: whether training makes sense all the same.
        sentence: all that in words.
    """

    kind: str
    n: int
    samples: tuple[int, ...]
    severity: Literal["stops", "goes on"]
    sentence: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found.

    Args:
        found: the findings; those that stop first.
        kept: the examples that can be trained on: neither empty nor too long.
    """

    found: tuple[Finding, ...]
    kept: tuple[Example, ...]

    @property
    def stops(self) -> tuple[Finding, ...]:
        """Return the findings for which no training makes sense."""
        return tuple(finding for finding in self.found if finding.severity == "stops")


def check_examples(
    examples: Sequence[Example],
    *,
    tokenizer: TextCodec,
    max_tokens: int,
    template: ChatTemplate | None = None,
    lines: Sequence[int] | None = None,
) -> Findings:
    """Return what is wrong with examples, and those that can be trained on.

    Args:
        examples: of one kind.
        tokenizer: counts the tokens.
        max_tokens: examples are left out that ``encode_examples`` makes longer.
        template: writes the turns of a chat.
        lines: the line of each example, to be named; left out: they are numbered from 1.

    Raises:
        ValueError: if there are no examples, or of several kinds, or a chat does not fit its template.
    """
    recognize(examples)
    report = _Report(lines or range(1, len(examples) + 1), "examples" if lines is None else "lines")
    labels = list(map(answer_of, examples)) if isinstance(examples[0], Labeled) else None
    encoded = encode_examples(tokenizer, examples, template=template, labels=labels and sorted(set(labels)))
    empty = {i for i, one in enumerate(examples) if not answer_of(one).strip() or _is_empty(one)}
    long = {i for i, one in enumerate(encoded) if len(one.ids) > max_tokens} - empty
    report.add("empty", empty, _WERE, "left out: no text, or no answer")
    report.add("long", long, _WERE, f"left out: more than {max_tokens:,} tokens")
    kept = [i for i in range(len(examples)) if i not in empty | long]
    chosen = [examples[i] for i in kept]
    if len(kept) < LEAST:
        needed = f"be used, and at least {LEAST} are needed: two to choose by and two to test on"
        report.add("few", kept, ("can", "can"), needed, severity="stops", least=0)
    if chosen:
        _check_repeats(chosen, kept, report)
        _check_answers(chosen, kept, report)
        if recognize(chosen).labels:
            _check_labels([answer_of(one) for one in chosen], kept, report)
    found = sorted(report.findings, key=lambda finding: finding.severity != "stops")
    return Findings(tuple(found), tuple(chosen))


class _Report:
    """Collect findings, with the lines in which the examples are."""

    def __init__(self, lines: Sequence[int], unit: str) -> None:
        self.findings: list[Finding] = []
        self._lines, self._unit = lines, unit

    def add(
        self,
        kind: str,
        which: Iterable[int],
        verb: tuple[str, str],
        rest: str,
        *,
        severity: Literal["stops", "goes on"] = "goes on",
        least: int = 1,
    ) -> None:
        """Add a finding about these examples, if they are at least so many; the verb is for one, and for several."""
        which = sorted(which)
        if len(which) < least:
            return
        one = len(which) == 1
        samples = tuple(self._lines[i] for i in which[:_SHOWN])
        unit = self._unit.removesuffix("s") if one else self._unit
        where = f" ({unit} {', '.join(map(str, samples))}{' …' if len(which) > _SHOWN else ''})" if which else ""
        sentence = f"{len(which):,} example{'' if one else 's'}{where} {verb[not one]} {rest}"
        self.findings.append(Finding(kind=kind, n=len(which), samples=samples, severity=severity, sentence=sentence))


def _check_repeats(chosen: list[Example], kept: list[int], report: _Report) -> None:
    again = {kept[k] for group in exact_groups(chosen).members() for k in group[1:]}
    near = {kept[k] for group in near_groups(chosen).members() for k in group[1:]} - again
    stay = "of an earlier one; they stay in one part with it, so that nothing is tested that was learned"
    report.add("repeated", again, _HAVE, f"the prompt and the answer {stay}")
    report.add("nearly repeated", near, _HAVE, f"nearly the words {stay}")


def _check_answers(chosen: list[Example], kept: list[int], report: _Report) -> None:
    prompts, given = [plain(prompt_of(one)) for one in chosen], [plain(answer_of(one)) for one in chosen]
    answers = defaultdict(set)
    for prompt, answer in zip(prompts, given, strict=True):
        answers[prompt].add(answer)
    contrary = [i for i, prompt in zip(kept, prompts, strict=True) if len(answers[prompt]) > 1]
    report.add("contradicting", contrary, _HAVE, "a prompt that has another answer elsewhere: nobody can know which")
    if not isinstance(chosen[0], Chat):
        told = [i for i, prompt, answer in zip(kept, prompts, given, strict=True) if _holds(prompt, answer)]
        share = f"{100 * len(told) / len(chosen):.0f} % of all"
        rest = f"the answer in the prompt ({share}): a leak, unless it is to be found there"
        report.add("answer in prompt", told, _HAVE, rest)


def _check_labels(labels: list[str], kept: list[int], report: _Report) -> None:
    places = defaultdict(list)
    for i, label in zip(kept, labels, strict=True):
        places[label].append(i)
    single = [label for label, which in places.items() if len(which) == 1]
    if len(places) - len(single) < 2:
        what = f"the label {labels[0]!r}" if len(places) == 1 else "labels of which fewer than two come twice"
        report.add("one label", kept, _HAVE, f"{what}: there is nothing to tell apart", severity="stops")
        return
    once = f"a label that appears once ({_some(single)}): it is trained on and cannot be tested"
    report.add("single labels", [i for label in single for i in places[label]], _HAVE, once)
    most = max(places, key=lambda label: len(places[label]))
    least = min((label for label in places if label not in single), key=lambda label: len(places[label]))
    if len(places[most]) >= _UNEVEN * len(places[least]):
        share = f"{100 * len(places[most]) / len(labels):.0f} %"
        uneven = f"{most!r}, and only {len(places[least])} {least!r}: whoever always says the first is right in {share}"
        report.add("uneven labels", places[most], ("is", "are"), f"{uneven}, so look at macro-F1 too")
    _check_spellings(places, report)


def _check_spellings(places: dict[str, list[int]], report: _Report) -> None:
    forms = defaultdict(list)
    for label in sorted(places, key=lambda label: -len(places[label])):
        forms[_form(label)].append(label)
    for usual, *others in forms.values():
        which = [i for label in others for i in places[label]]
        rest = f"a label that is nearly {usual!r} ({_some(others)}); if it is the same, write it so"
        report.add("similar labels", which, _HAVE, rest)


def _form(label: str) -> str:
    """Return the letters and digits of a label, if it has any."""
    text = unicodedata.normalize("NFKC", label).casefold()
    return re.sub(r"[\W_]+", "", text) or text.strip()


def _holds(prompt: str, answer: str) -> bool:
    """Return whether the words of the answer stand in the prompt, one after the other."""
    found = re.escape(plain(answer).strip(".!?"))
    return bool(found) and re.search(rf"(?<!\w){found}(?!\w)", plain(prompt)) is not None


def _some(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:_SHOWN])) + (" …" if len(labels) > _SHOWN else "")


def _is_empty(example: Example) -> bool:
    return isinstance(example, Labeled) and not example.text.strip()
