"""Small tokenizers of the kinds that published models have, for several test files."""

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from llama_minimal.data import documents

WORDS = "the quick brown fox jumps over the lazy dog and a cat sat on the mat hello world how are you today".split()
SPECIAL = ("<|im_start|>", "<|im_end|>")


@cache
def docs() -> str:
    return "\n".join(document.text for document in documents("python-docs"))[:60_000]


@cache
def sentencepiece_model(**changes) -> bytes:
    """Train a BPE model with LLaMA-2's settings: bytes for unknown characters, spaces as they are, a space in front."""
    lines = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))] * 30
    settings = {"vocab_size": 420, "model_type": "bpe", "split_digits": True, "byte_fallback": True}
    settings |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    settings |= {"allow_whitespace_only_pieces": True, "hard_vocab_limit": False, "minloglevel": 2}
    lines += ["two  spaces", " ".join("abcdefghijklmnopqrstuvwxyz0123456789[]/<>|_漢")] * 5
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **(settings | changes))
    return out.getvalue()


# As LLaMA-1 and -2 have them, in the order of their ids.
RUNS = (2, 4, 8, 5, 16, 6, 12, 13, 10, 14, 3, 9, 7, 11, 15)


@cache
def spaced_model(runs: tuple[int, ...] = RUNS, score: float = -1e9, extra: tuple[str, ...] = ()) -> bytes:
    """Give runs of spaces one score for all, the lowest, as in LLaMA's own tokenizer.model."""
    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model())
    pieces = {piece.piece: piece for piece in model.pieces if set(piece.piece) != {"▁"} or piece.piece == "▁"}
    del model.pieces[:]
    model.pieces.extend(pieces.values())
    for name in [*("▁" * n for n in runs), *extra]:
        model.pieces.add(piece=name, score=score, type=1)
    return model.SerializeToString()


def byte_fallback(*, metaspace: bool = False, start: tuple[str, ...] = ("<s>",), end: tuple[str, ...] = ()):
    """Build the same as a tokenizer.json, in the form in which LLaMA-2's was published, or with Metaspace."""
    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    vocab = {library.id_to_piece(i): i for i in range(library.get_piece_size())}
    ordinary = [p for p, i in vocab.items() if not library.is_control(i) and not library.is_byte(i)]
    merges = [(p[:k], p[k:]) for p in ordinary for k in range(1, len(p)) if p[:k] in vocab and p[k:] in vocab]
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
        steps = [decoders.Metaspace(replacement="▁", prepend_scheme="first"), decoders.ByteFallback(), decoders.Fuse()]
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    names = ["<unk>", "<s>", "</s>", *SPECIAL]
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return frame(made, start, end)


def byte_level(*, start: tuple[str, ...] = (), end: tuple[str, ...] = ()):
    """Train a byte-level tokenizer.json, as GPT-2's and Llama 3's are."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<s>", "</s>", *SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False, special_tokens=names)
    made.train_from_iterator([" ".join(WORDS), " é è ê 漢字 " * 9], trainer)
    return frame(made, start, end)


def frame(made, start, end):
    """Let the post-processor put tokens before and after every text."""
    if start or end:
        names = [(name, made.token_to_id(name)) for name in {*start, *end}]
        made.post_processor = processors.TemplateProcessing(single=" ".join([*start, "$A", *end]), special_tokens=names)
    return made


def put(folder: Path, **files) -> Path:
    """Write files: tokenizers, bytes or JSON; ``tokenizer_json`` is tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / ".".join(name.rsplit("_", 1))
        if isinstance(content, tokenizers.Tokenizer):
            content.save(str(path))
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
    return folder
