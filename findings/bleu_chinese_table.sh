#!/usr/bin/env bash
# The Chinese tokenization of BLEU splits arrows and curly quotes, and does not split rare Chinese characters.
#
# Versions: sacrebleu 2.6.0 (Python 3.11).
# Behavior: the table of Chinese characters in the tokenizer "zh" has ranges such as '\u20000' to '\u2a6d6'. Python
#   reads four digits after \u, so the two ends are the texts '\u2000' + '0' and '\u2a6d' + '6', and all characters from
#   U+2001 to U+2A6D lie between them: dashes, curly quotes, arrows, mathematical signs. Those from U+20000 on, which
#   are meant, do not.
# Seen:
#   "a→b" is split into 3 tokens, "don’t" into 3; two characters of Extension B stay 1 token
# Expected: the other way around. The score of a text with rare characters, or with typographic quotes in its Latin
#   words, is another than the documentation says.
# Upstream: mjpost/sacrebleu issue 298.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check sacrebleu==2.6.0
cat > see.py <<'PY'
import sys

from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

split = TokenizerZh()
texts = ("小羊驼", "a→b", "don’t", "\U00020000\U00020001")
counts = [len(split(text).split()) for text in texts]
for text, count in zip(texts, counts):
    print(f"{text}: {count} tokens")
if counts != [3, 3, 3, 1]:
    sys.exit("changed: 3, 3, 3 and 1 before")
PY
timeout 60 venv/bin/python see.py
