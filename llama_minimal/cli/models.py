"""``llama-minimal evaluate`` and ``info``: look at a model."""

from array import array
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from llama_minimal import cost
from llama_minimal.cli.console import check_counts, human, print_plugins, table
from llama_minimal.cli.several import ProcessFlags, loaded, together
from llama_minimal.cli.write import WriteFlags, load_for_writing
from llama_minimal.config import PRESETS, LlamaConfig, preset
from llama_minimal.settings import Scheme


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model's loss, perplexity and bits per byte on a text.

    `evaluate course` measures the shipped model on stories it has not seen, beside n-gram models, as its card says.
    """

    folder: tyro.conf.Positional[str]
    """Folder of a model, a hub id, or: course."""
    corpus: str | None = None
    """python-docs, python-source, valley, a file, folder, glob or address; left out: the run's own validation text."""
    text_field: str = "text"
    """Field of the lines of a .jsonl file that holds the text."""
    document_separator: str | None = None
    """Line that separates the documents of a text file, such as: <|endoftext|>"""
    seq_len: int | None = None
    """Tokens that the model sees at once; left out: its whole context."""
    stride: int | None = None
    """From the beginning of one such sequence to that of the next; left out: seq_len, and none overlap."""
    batch_size: int = 8
    """Sequences per forward pass."""
    max_batches: int | None = None
    """Stop after so many batches."""
    device: str | None = None
    """cuda, mps (Apple) or cpu; left out: the first of these that is there."""
    adapter: str | None = None
    """Folder of an adapter for the model, or the name of one that comes with it."""
    quantize: Scheme | None = None
    """Keep the weights in so few bits; left out: as in the file."""
    application: str | None = None
    """Score the model's answers instead: generation, dialogue, sentiment, translation, question_answering, code,
    reports, or one of an installed package."""
    n_examples: Annotated[int, tyro.conf.arg(aliases=["--n"])] = 200
    """With --application: how many test examples. Under torchrun only the long name: --n might be its --nnodes."""
    seed: int = 0
    """With --application: which stories the examples are about."""
    retrieve: bool = False
    """With --application question_answering: ask about one of 100 stories, without them and with the one found."""
    data: Path | None = None
    """With `evaluate course`: the encoded training text, such as runs/course/data; left out: generated anew."""
    write_card: bool = False
    """With `evaluate course`: write what was measured into the model's card."""
    processes: tyro.conf.OmitArgPrefixes[ProcessFlags] = field(default_factory=ProcessFlags)

    def __post_init__(self) -> None:
        check_counts(self, "seq_len", "batch_size", "max_batches", "n_examples", "stride")
        check_counts(self, "seed", least=0)

    def run(self) -> None:
        if self.application or self.retrieve:
            return self._score()
        if self.folder == "course" and self.corpus is None:
            if self.adapter or self.quantize:
                raise ValueError("the card is that of the course model alone; name a text with --corpus")
            if self.processes.check("evaluate") > 1:
                raise ValueError("the card is measured by one process; for several, name a text with --corpus")
            from llama_minimal.cli.course import evaluate_course

            return evaluate_course(data=self.data, write=self.write_card)
        if self.write_card or self.data:
            raise ValueError("--write-card and --data go with: llama-minimal evaluate course, without --corpus")
        with loaded(self.folder, self._flags, self.processes, command="evaluate") as (model, tokenizer, mesh):
            self._evaluate(model, tokenizer, mesh)

    @property
    def _flags(self) -> WriteFlags:
        return WriteFlags(device=self.device, adapter=self.adapter, quantize=self.quantize)

    def _score(self) -> None:
        if self.corpus or self.data or self.write_card or not self.application:
            raise ValueError("--application goes without --corpus, --data, --write-card; --retrieve needs it")
        if self.processes.check("evaluate") > 1:
            raise ValueError("--application is for one process; start it without torchrun, --tensor and --pipeline")
        from llama_minimal.cli.applications import evaluate_application

        options = {"n": self.n_examples, "seed": self.seed, "batch_size": self.batch_size, "retrieve": self.retrieve}
        evaluate_application(self.application, lambda: load_for_writing(self.folder, self._flags), **options)

    def _evaluate(self, model: Any, tokenizer: Any, mesh: Any) -> None:
        from llama_minimal.evaluation import Evaluation, n_windows, sliding_batches, sum_loss, uniform_loss

        seq_len = self.seq_len or model.config.max_seq_len
        sizes = {"size": seq_len, "stride": self.stride or seq_len}
        tokens, n_bytes = together(mesh, lambda: self._tokens(model, tokenizer, seq_len))
        n_batches = -(-n_windows(len(tokens), **sizes) // self.batch_size)
        if self.max_batches and self.max_batches < n_batches:
            n_batches, n_bytes = self.max_batches, None  # the bytes are those of the whole text
        batches = islice(sliding_batches(tokens, **sizes, batch_size=self.batch_size), n_batches)
        is_silent = mesh is not None and not mesh.is_main
        bar = tqdm(batches, total=n_batches, unit="batch", leave=False, disable=True if is_silent else None)
        total, count = sum_loss(model, bar, device=model.device)
        if is_silent:
            return
        result = Evaluation(total=total, n_tokens=count, n_bytes=n_bytes)
        rows = [
            ("tokens", f"{int(count):,}"),
            ("loss, nats per token", f"{result.loss:.4f}"),
            ("  of a uniform guess", f"{uniform_loss(model.config.vocab_size):.4f}"),
            ("perplexity", f"{result.perplexity:.3f}"),
        ]
        rows += [("bits per byte", f"{result.bits_per_byte:.4f}")] if result.bits_per_byte is not None else []
        print(table(rows))

    def _tokens(self, model: Any, tokenizer: Any, seq_len: int) -> tuple[Any, int]:
        """Return token ids, which the model knows, and the bytes of text they stand for."""
        from llama_minimal.prompts import check_tokens

        if seq_len > model.config.max_seq_len:
            raise ValueError(f"--seq-len {seq_len} must be between 1 and the model's {model.config.max_seq_len}")
        tokens, n_bytes = self._text(tokenizer)
        return check_tokens(model.config, tokens), n_bytes

    def _text(self, tokenizer: Any) -> tuple[Any, int]:
        import numpy as np

        from llama_minimal.data import TokenFile, documents

        if self.corpus is None:
            if not (Path(self.folder) / "data").is_dir():
                raise ValueError(f"{self.folder} has no validation text of its own; name one with --corpus")
            file = TokenFile.open(Path(self.folder) / "data", "validation")
            file.check_tokenizer(tokenizer)
            return file.tokens, file.n_bytes
        ids, n_bytes = array("I"), 0
        for document in documents(self.corpus, text_field=self.text_field, separator=self.document_separator):
            ids.extend(tokenizer.start_ids)
            ids.extend(tokenizer.encode_iterable(document.chunks()))
            n_bytes += sum(len(chunk.encode("utf-8")) for chunk in document.chunks())
        return np.array(ids), n_bytes


@dataclass(frozen=True, kw_only=True)
class Info:
    """Show what a model costs: parameters by component, arithmetic per token, memory."""

    model: tyro.conf.Positional[str | None] = None
    """A preset, or a model as `generate` takes it; left out: a list of presets and of what packages bring."""
    context: int | None = None
    """Tokens of context to count with; left out: the model's longest."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Format of weights and cache."""

    def __post_init__(self) -> None:
        check_counts(self, "context")

    def run(self) -> None:
        if self.model is None:
            print(table([(name, human(sum(cost.parameters(config).values()))) for name, config in PRESETS.items()]))
            print_plugins()
            return
        config = find_config(self.model)
        if self.context is not None:
            config = config.replace(max_seq_len=self.context)
        parts = cost.parameters(config)
        flops = cost.flops_per_token(config, context=config.max_seq_len)
        memory = cost.memory(config, precision=self.precision)
        total = sum(parts.values())
        shape = f"{config.n_layers} layers, width {config.dim}, {config.n_heads} heads ({config.n_kv_heads} kv)"
        print(f"{self.model}: {shape}, feed-forward {config.hidden_dim}, vocabulary {config.vocab_size}")
        rows = [(name, f"{n:,}  {n / total:6.1%}") for name, n in [*parts.items(), ("total", total)]]
        print("\nparameters", table(rows), sep="\n")
        print(f"\nfloating-point operations of one token, forward, after {config.max_seq_len:,} tokens")
        print(table([(name, human(n)) for name, n in [*flops.items(), ("total", sum(flops.values()))]]))
        rows = [
            *_saved_weights(self.model),
            (f"weights, {self.precision}", human(memory.weights, "B")),
            (f"key/value cache, {self.precision}, {config.max_seq_len:,} tokens", human(memory.kv_cache, "B")),
            ("training: weights, gradients, AdamW in fp32", human(memory.training, "B")),
        ]
        print("\nmemory", table(rows), sep="\n")


def _saved_weights(model: str) -> list[tuple[str, str]]:
    """Return a row that says in how many bits a folder keeps its weights, and their bytes; none if it does not."""
    from llama_minimal.checkpoint import open_checkpoint

    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file() or (how := open_checkpoint(folder).quantization) is None:
        return []
    n_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return [(f"weights, {how.scheme}, as they are saved", human(n_bytes, "B"))]


def find_config(model: str) -> LlamaConfig:
    """Return the shape of a preset, or of a model as ``generate`` takes it.

    Raises:
        ValueError: if it is neither.
    """
    from llama_minimal.checkpoint import read_config

    if model in PRESETS:
        return preset(model)
    try:
        return read_config(model)
    except FileNotFoundError as missing:
        if "/" in model:  # a path or a hub id, which no preset has
            raise
        try:
            return preset(model)
        except ValueError as unknown:
            raise ValueError(f"{missing}; as a name, it is an {unknown}") from None
