"""Scores of written text against references: BLEU, chrF, exact match, and the F1 of an answer's words.

All are percentages, 0 to 100, over a whole list of texts. References come as one text for each hypothesis, or as a
list of texts for each: ``bleu(["the cat sat"], [["the cat sat", "a cat sat"]])``.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from math import exp, log
from typing import Literal

References = Sequence[str] | Sequence[Sequence[str]]

_LONGEST = 4  # words of the longest n-gram that BLEU counts
# Of the signs of ASCII, an apostrophe and a dash join words, and a point and a comma may stand in a number.
_SPLITS = (
    (re.compile(r"([!-&(-+/:-@\[-`{-~])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_MARKUP = (("<skipped>", ""), ("-\n", ""), ("\n", " "), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# sacrebleu's table of Chinese characters, as it works: two of its ranges were written with one digit too many for
# Python's \u, so that they mean U+2001 to U+2A6D (curly quotes, dashes, arrows) and U+2F81 to U+2FA1 instead of the
# rare characters from U+20000 on, which are not split.
_CHINESE = re.compile(
    "([\u2001-\u2a6d\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u4db5\u4e00-\u9fbb"
    "\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef])"
)
_HAN = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_ARTICLES = frozenset(("a", "an", "the"))


def bleu(hypotheses: Sequence[str], references: References, *, tokenize: Literal["13a", "zh"] = "13a") -> float:
    """Return the BLEU of a corpus: how many word n-grams of the hypotheses the references have.

    BLEU = 100 · min(1, e^(1 − r/c)) · (p₁ p₂ p₃ p₄)^¼

    p_n is the share of the hypotheses' n-grams that occur in a reference of their sentence, each at most as often as
    in the reference that has it most often. c counts the words of the hypotheses, r those of the references: of
    several, the one next in length to the hypothesis, the shorter of two. Where nothing matches at a length, 1/2, 1/4
    … of a match counts; where the corpus has no n-gram of a length at all, BLEU is 0: a right answer of three words
    has BLEU 0 (and ``sentence_bleu`` 100). Where nothing matches at all, it is 0 too.

    Args:
        hypotheses: texts as written, without any tokenization.
        references: for each hypothesis one text, or a list of one or more texts. (sacrebleu's lists are one for each
            translator; with as many translators as hypotheses nobody can tell the one from the other.)
        tokenize: ``13a`` for languages with spaces, ``zh`` for Chinese, of which every character is a word.

    Raises:
        ValueError: if there is not a reference for every hypothesis, and none else.

    Sources: Papineni, Roukos, Ward and Zhu 2002, "Bleu: a Method for Automatic Evaluation of Machine Translation";
    Chen and Cherry 2014, "A Systematic Comparison of Smoothing Techniques for Sentence-Level
    BLEU" (the smoothing, as in NIST's program mteval-v13a); Post 2018, "A Call for Clarity in Reporting BLEU Scores"
    (the tokenization). The numbers are those of sacrebleu 2.6.0 with its defaults.
    """
    pairs = _paired(hypotheses, references)
    return _bleu([_bleu_counts(text, several, tokenize) for text, several in pairs], _LONGEST)


def sentence_bleu(hypothesis: str, references: str | Sequence[str], *, tokenize: Literal["13a", "zh"] = "13a") -> float:
    """Return the BLEU of one sentence, in which only n-grams count that are no longer than the sentence.

    For a corpus use ``bleu``; the average of its sentences is another number.

    Raises:
        ValueError: if there is no reference.

    Sources: as for ``bleu``, whose arguments these are; sacrebleu calls it the effective order.
    """
    ((text, several),) = _paired([hypothesis], [references])
    counts = _bleu_counts(text, several, tokenize)
    return _bleu([counts], max(1, min(_LONGEST, counts[0])))


def chrf(hypotheses: Sequence[str], references: References, *, order: int = 6, beta: float = 2) -> float:
    """Return the chrF of a corpus: the F-score of character n-grams, without spaces.

    chrF = 100 · (1 + β²) · P · R / (β² · P + R)

    P is the share of the hypotheses' n-grams that the references have, R the share of the references' n-grams that
    the hypotheses have, both averaged over the lengths 1 to ``order``; a length of which either side has none is left
    out. Of several references, the one with the best score of its sentence counts.

    Args:
        hypotheses: texts as written, in any language.
        references: for each hypothesis one text, or a list of one or more texts.
        order: characters of the longest n-gram.
        beta: recall counts β times as much as precision.

    Raises:
        ValueError: if there is not a reference for every hypothesis, and none else.

    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation". The numbers are those of
    sacrebleu 2.6.0 with its defaults, which make it chrF2.
    """
    if order < 1 or not beta > 0:
        raise ValueError(f"order={order} and beta={beta} must be at least 1, and more than 0")
    chosen = []
    for text, several in _paired(hypotheses, references):
        counts = [_chrf_counts(text, one, order) for one in several]
        chosen.append(max(counts, key=lambda each: _f_score(each, beta)))  # of equals the first
    totals = [tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*chosen, strict=True)]
    return 100 * _f_score(totals, beta)


def exact_match(hypotheses: Sequence[str], references: References, *, normalize: bool = True) -> float:
    """Return how many of a hundred hypotheses are one of their references.

    Punctuation and articles do not count: "35" is then "3.5", and "the" is the answer "A". Where numbers, code or
    options are asked for, compare all characters.

    Args:
        hypotheses, references: answers, and for each one right answer or a list of them.
        normalize: compare ``answer_words``; False: compare all characters.

    Raises:
        ValueError: if there is not a reference for every hypothesis, and none else.

    Source: Rajpurkar, Zhang, Lopyrev and Liang 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text".
    """
    pairs = _paired(hypotheses, references)
    form: Callable = answer_words if normalize else str
    return 100 * sum(form(text) in [form(one) for one in several] for text, several in pairs) / len(pairs)


def token_f1(hypotheses: Sequence[str], references: References) -> float:
    """Return the average F1 of the words that an answer and a right answer have in common, in percent.

    F1 = 2 · P · R / (P + R), with P = common / words of the answer and R = common / words of the reference. Words are
    those of ``answer_words``; one that both have twice is common twice. Of several references the best counts. Where
    either has no words, F1 is 1 if both have none, else 0.

    Raises:
        ValueError: if there is not a reference for every hypothesis, and none else.

    Source: Rajpurkar et al. 2016, as for ``exact_match``.
    """
    pairs = _paired(hypotheses, references)
    best = [max(_f1(answer_words(text), answer_words(one)) for one in several) for text, several in pairs]
    return 100 * sum(best) / len(pairs)


def answer_words(text: str) -> list[str]:
    """Return the words of an answer as SQuAD compares them, and of Chinese the characters.

    Lower case, without punctuation, and without the articles a, an, the: "The red hat." is "red hat".
    """
    letters = "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    return [word for word in _HAN.sub(r" \1 ", letters).split() if word not in _ARTICLES]


def _f1(words: list[str], reference: list[str]) -> float:
    common = (Counter(words) & Counter(reference)).total()
    if not words or not reference:
        return float(words == reference)
    return 2 * common / (len(words) + len(reference))


def _paired(hypotheses: Sequence[str], references: References) -> list[tuple[str, list[str]]]:
    """Return each hypothesis with its references."""
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("a single text was given; give a list of hypotheses, and as many references")
    hypotheses, references = list(hypotheses), list(references)
    if not hypotheses:
        raise ValueError("there is no hypothesis; give at least one")
    if len(references) != len(hypotheses):
        raise ValueError(
            f"{len(references)} references for {len(hypotheses)} hypotheses; give each hypothesis one text, or its "
            "list of texts (sacrebleu has them the other way, a list per translator: turn that with zip(*lists))"
        )
    pairs = []
    for i, (text, several) in enumerate(zip(hypotheses, references, strict=True)):
        several = [several] if isinstance(several, str) else list(several) if isinstance(several, Sequence) else several
        if not several or not isinstance(several, list) or not all(isinstance(one, str) for one in several):
            raise ValueError(f"hypothesis {i} has the references {several!r}; give a text, or a list of texts")
        if not isinstance(text, str):
            raise ValueError(f"hypothesis {i} is {text!r}; give a text")
        pairs.append((text, several))
    return pairs


def _words(text: str, tokenize: str) -> list[str]:
    if tokenize == "13a":
        text = text.rstrip()
        for mark, meaning in _MARKUP:
            text = text.replace(mark, meaning)
        text = f" {text} "
    elif tokenize == "zh":
        text = _CHINESE.sub(r" \1 ", text.strip())
    else:
        raise ValueError(f"tokenize={tokenize!r} is not one of 13a, zh")
    for pattern, apart in _SPLITS:
        text = pattern.sub(apart, text)
    return text.split()


def _bleu_counts(text: str, references: list[str], tokenize: str) -> list[int]:
    """Return the words of a hypothesis and of the reference next in length, then the n-grams and matches by length."""
    words, others = _words(text, tokenize), [_words(one, tokenize) for one in references]
    nearest = min((abs(len(one) - len(words)), len(one)) for one in others)[1]
    matches = []
    for n in range(1, _LONGEST + 1):
        most = Counter()
        for one in others:
            most |= _ngrams(one, n)
        matches.append((_ngrams(words, n) & most).total())
    return [len(words), nearest, *(max(0, len(words) - n) for n in range(_LONGEST)), *matches]


def _bleu(counts: list[list[int]], longest: int) -> float:
    c, r, *rest = map(sum, zip(*counts, strict=True))
    totals, matches = rest[:_LONGEST], rest[_LONGEST:]
    if not any(matches) or not all(totals[:longest]):
        return 0.0
    precisions, credit = [], 1.0
    for total, match in zip(totals[:longest], matches, strict=False):
        if not match:
            credit /= 2
        precisions.append((match or credit) / total)
    return 100 * min(1.0, exp(1 - r / c)) * exp(sum(map(log, precisions)) / longest)


def _chrf_counts(text: str, reference: str, order: int) -> list[tuple[int, int, int]]:
    """Return for each length the n-grams of both, and the common ones."""
    text, reference = "".join(text.split()), "".join(reference.split())
    counts = []
    for n in range(1, order + 1):
        ours, theirs = _ngrams(text, n), _ngrams(reference, n)
        # Beyond the reference's length no n-gram could be right.
        counts.append((ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()))
    return counts


def _f_score(counts: Sequence[tuple[int, ...]], beta: float) -> float:
    both = [row for row in counts if row[0] and row[1]]
    if not any(match for *_, match in both):
        return 0.0
    precision = sum(match / ours for ours, _, match in both) / len(both)
    recall = sum(match / theirs for _, theirs, match in both) / len(both)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _ngrams(items: Sequence[str], n: int) -> Counter:
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))
