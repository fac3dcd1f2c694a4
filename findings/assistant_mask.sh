#!/usr/bin/env bash
# The mask of what the assistant says leaves out a part of it, all of it, or takes in what the user says.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3 (Python 3.11).
# Behavior: apply_chat_template(return_assistant_tokens_mask=True) looks up the tokens of an answer's first and last
#   character. A character of several tokens, as a rare Chinese one or an emoji in a byte-level vocabulary, counts with
#   its first token alone. With trim_offsets, the default of the byte-level post-processor, a space belongs to no token:
#   an answer that begins with one ends the search for this turn and all later ones, and one that ends with a space
#   never ends. Nothing is said.
# Seen (what is to be learned of the two answers "Fine" and "你好"):
#   bare answers "Fine", "你" and a third of "好" | with a space before them nothing | with a space after them "Fine",
#   the user's next turn, and all that follows
# Expected: the tokens of the answers. Whoever trains on this mask teaches broken characters, nothing, or the user's
#   part.
# Upstream: huggingface/transformers issues 33091 (nothing) and 47325 (all that follows).
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6 numpy==2.4.6
cat > see.py <<'PY'
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "User: Hello Assistant: Fine User: Thanks Assistant:"
CHAT = [("user", "Hello"), ("assistant", "Fine"), ("user", "Thanks"), ("assistant", "你好")]


def byte_level(trim):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def learned(trim, answer):
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }} {% else %}Assistant:"
        + answer
        + "{% endif %}{% endfor %}"
    )
    tokenizer = byte_level(trim)
    messages = [{"role": role, "content": content} for role, content in CHAT]
    asked = dict(chat_template=template, return_dict=True, return_assistant_tokens_mask=True)
    out = tokenizer.apply_chat_template(messages, **asked)
    return tokenizer.decode([i for i, learn in zip(out["input_ids"], out["assistant_masks"]) if learn])


bare = " {% generation %}{{ m.content }}{% endgeneration %} "
before = "{% generation %} {{ m.content }}{% endgeneration %}\n"
after = " {% generation %}{{ m.content }} {% endgeneration %}"
seen = {}
for name, answer in (("bare", bare), ("a space before", before), ("a space after", after)):
    for trim in (True, False):
        seen[name, trim] = learned(trim, answer)
        print(f"{name}, trim_offsets={trim}: {seen[name, trim]!r}")
wrong = seen["bare", True], seen["a space before", True], seen["a space after", True]
if (
    "好" in wrong[0]
    or "你" not in wrong[0]
    or wrong[1] != ""
    or "User: Thanks" not in wrong[2]
    or "Fine" not in seen["a space before", False]
    or "Thanks" in seen["a space after", False]
):
    sys.exit("changed: a broken character, nothing, and the user's turn before")
PY
timeout 120 venv/bin/python see.py
