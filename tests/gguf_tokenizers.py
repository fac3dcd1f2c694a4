"""Tokenizers and models of every kind that a GGUF file can hold, for the tests and for the check against llama.cpp."""

import base64
import json
from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from wild_tokenizers import SPECIAL, byte_fallback, byte_level, docs, put, sentencepiece_model, spaced_model

from llama_minimal.config import RopeScaling
from llama_minimal.tokenizer import Tokenizer, load_tokenizer

MUCH = 96  # tokens of context, three times what the scalings below were trained for

# Every switch that the format knows, away from LLaMA's default.
KNOWN = [
    {},
    {"n_kv_heads": 2},
    {"head_dim": 8},
    {"head_dim": 24, "n_kv_heads": 1},
    {"bias": True},
    {"bias": "attention", "n_kv_heads": 2},
    {"bias": "feed_forward"},
    {"tie_embeddings": True},
    {"rope_theta": 500_000.0},
    {"norm_eps": 0.01},
    {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    {"rope_scaling": RopeScaling(kind="ntk", factor=4.0)},
    {"rope_scaling": RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=32)},
    {"rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=32), "rope_theta": 500_000.0},
    {"rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=32)},
    {"rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=32, attention_factor=1.4)},
]


def smollm() -> Library:
    """Train a tokenizer.json with the cuts of SmolLM2's: digits one by one, then GPT-2's."""
    made = Library(models.BPE())
    cuts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(cuts), decoders.ByteLevel()
    names = ["<|endoftext|>", *SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False, special_tokens=names)
    made.train_from_iterator(docs().splitlines(), trainer)
    return made


def llama3_ranks() -> bytes:
    """Return a tokenizer.model as Meta's Llama 3 has it, of a vocabulary that Llama 3's cuts have made."""
    ours = Tokenizer.train([docs()], vocab_size=700, special_tokens=(), pattern="llama3")
    lines = [base64.b64encode(ours.token_bytes(i)) + b" %d\n" % i for i in range(ours.vocab_size)]
    return b"".join(lines)


def llama3_json(folder: Path) -> dict:
    """Return the tokenizer.json that is published beside those ranks."""
    content = json.loads(load_tokenizer(put(folder, tokenizer_model=llama3_ranks())).as_tokenizer_json())
    byte_level = json.loads(processors.ByteLevel(trim_offsets=False).__getstate__())
    return content | {"post_processor": {"type": "Sequence", "processors": [byte_level, content["post_processor"]]}}


def all_kinds(folder: Path):
    """Yield (name, tokenizer)."""
    for pattern in ("llama", "gpt2", "llama3"):
        yield f"ours-{pattern}", Tokenizer.train([docs()], vocab_size=700, pattern=pattern)
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    files = {
        "gpt2-json": {"tokenizer_json": byte_level(), "tokenizer_config_json": ends | {"bos_token": None}},
        "smollm-json": {"tokenizer_json": smollm(), "tokenizer_config_json": {"eos_token": "<|im_end|>"}},
        "llama3-ranks": {"tokenizer_model": llama3_ranks()},
        "llama3-json": {"tokenizer_json": llama3_json(folder / "ranks")},
        "llama2-json": {"tokenizer_json": byte_fallback(), "tokenizer_config_json": ends},
        "llama2-model": {"tokenizer_model": sentencepiece_model()},
        "llama2-spaces": {"tokenizer_model": spaced_model()},
        "no-space-in-front": {"tokenizer_model": sentencepiece_model(add_dummy_prefix=False)},
    }
    for name, contents in files.items():
        yield name, load_tokenizer(put(folder / name, **contents))
