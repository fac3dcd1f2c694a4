"""``llama-minimal convert``: write a model in another format, or in fewer bits."""

import math
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import tyro

from llama_minimal.cli.console import check_counts, warn
from llama_minimal.cli.ways import is_graph
from llama_minimal.cli.write import WriteFlags, load_as_asked
from llama_minimal.settings import RoundingMethod, Scheme

_ROW = 512  # tokens, or the model's context if that is shorter


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a model in another format, in fewer bits, or with an adapter in its weights; its tokenizer comes along."""

    source: tyro.conf.Positional[str]
    """Folder of a model, or a hub id."""
    target: tyro.conf.Positional[Path]
    """Folder to write; with --format gguf also a file, such as model.gguf."""
    format: Literal["huggingface", "meta", "native", "gguf", "onnx"] | None = None
    """Format to write, gguf for llama.cpp, onnx for onnxruntime (in float32); left out: huggingface, or of a model in
    few bits native."""
    gguf_type: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] | None = None
    """With --format gguf: how its matrices are kept; left out: as they are."""
    quantize: Scheme | None = None
    """Write the weights in so few bits."""
    method: RoundingMethod = "rtn"
    """With --quantize, how: rtn rounds each number to the nearest; gptq and awq lose less, and read --corpus."""
    corpus: str | None = None
    """With --method gptq or awq: ordinary text to calibrate on, as for train: a file, a folder, valley, python-docs."""
    calibration_tokens: int = 16_384
    """With --corpus: how many tokens of it."""
    dtype: str | None = None
    """float32, bfloat16 or float16; left out: as it is."""
    adapter: str | None = None
    """Folder of an adapter to merge into the weights, or the name of one that comes with the model."""
    n_shards: int = 1
    """Files in the meta format, one per model-parallel rank."""
    max_shard_gb: float = 5.0
    """Size of a file in the huggingface format, in gigabytes."""

    def __post_init__(self) -> None:
        check_counts(self, "n_shards", "calibration_tokens")
        if not 1e-9 <= self.max_shard_gb < math.inf:
            raise ValueError(f"--max-shard-gb {self.max_shard_gb} must be a positive number of gigabytes, such as 5")
        if self.method != "rtn" and not self.quantize:
            raise ValueError(f"--method {self.method} says how to quantize; say to what with --quantize, such as int4")
        if self.method != "rtn" and not self.corpus:
            raise ValueError(f"--method {self.method} calibrates on text; name one with --corpus, such as valley")
        if self.method == "rtn" and self.corpus:
            raise ValueError("--corpus is for --method gptq or awq; rtn reads no text, so leave it out")
        if self.gguf_type and self.format != "gguf":
            raise ValueError(f"--gguf-type {self.gguf_type} is for GGUF files; add --format gguf")
        if self.format is None and self.target.suffix == ".gguf":
            raise ValueError(f"{self.target} ends as GGUF files do; add --format gguf, or give a folder another name")
        if self.format == "onnx" and (self.quantize or self.dtype not in (None, "float32")):
            raise ValueError("the graph of --format onnx is float32; leave out --quantize and --dtype")
        if self.format == "gguf" and self.quantize:
            raise ValueError(
                f"GGUF has bits of its own: instead of --quantize {self.quantize} say --gguf-type q8_0 or q4_0"
            )

    def run(self) -> None:
        from llama_minimal.checkpoint import companions_of, save, save_gguf
        from llama_minimal.lora import merge_and_unload
        from llama_minimal.quantization import quantization_of, quantize

        self._check_target()
        if is_graph(self.source):
            raise ValueError(
                f"{self.source} is an ONNX graph, of which no format is made; convert what it was made from"
            )
        dtype = "float32" if self.format == "onnx" else self.dtype
        model, tokenizer = load_as_asked(self.source, WriteFlags(dtype=dtype, device="cpu", adapter=self.adapter))
        if self.adapter:
            merge_and_unload(model)
        if self.quantize:
            rows = None if self.method == "rtn" else self._calibration(model, tokenizer)
            quantize(model, self.quantize, method=self.method, calibration=rows, dtype=self.dtype or "bfloat16")
        if self.format == "gguf":
            path = self.target if self.target.suffix == ".gguf" else self.target / "model.gguf"
            save_gguf(model, path, tokenizer, number_type=self.gguf_type)
            print(f"saved in {path}")
            return
        if self.format == "onnx":
            self._write_graph(model, tokenizer)
            return
        format = self.format or ("native" if quantization_of(model) else "huggingface")
        limits = {"n_shards": self.n_shards, "max_shard_bytes": int(self.max_shard_gb * 1e9)}
        save(model, self.target, tokenizer, format=format, **limits)
        if tokenizer is None:
            companions_of(self.source).save(self.target)
        print(f"saved in {self.target}")

    def _check_target(self) -> None:
        if self.target.exists() and (not self.target.is_dir() or any(self.target.iterdir())):
            what = "not empty" if self.target.is_dir() else "a file"
            kind = "file" if self.target.suffix == ".gguf" else "folder"
            raise ValueError(f"{self.target} is {what}; give a new {kind}")

    def _write_graph(self, model: Any, tokenizer: Any) -> None:
        import torch

        from llama_minimal.integrations import onnx

        onnx.export(model, self.target, tokenizer)
        length = min(64, model.config.max_seq_len)
        tokens = torch.randint(model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
        far = onnx.difference(model, onnx.OnnxLlama(self.target), tokens)
        print(f"saved in {self.target}; over {tokens.numel()} tokens its logits differ by at most {far:.1e}")

    def _calibration(self, model: Any, tokenizer: Any) -> Any:
        """Return the first tokens of the text, in batches of eight rows."""
        import torch

        from llama_minimal.data import documents
        from llama_minimal.prompts import check_tokens

        if tokenizer is None:
            raise ValueError(f"--method {self.method} reads text, and {self.source} has no tokenizer; use --method rtn")
        tokens = (chain(tokenizer.start_ids, tokenizer.encode_iterable(d.chunks())) for d in documents(self.corpus))
        ids = list(islice(chain.from_iterable(tokens), self.calibration_tokens))  # and reads no further
        if len(ids) < self.calibration_tokens:
            warn(
                f"--method {self.method} calibrates on {len(ids):,} tokens where {self.calibration_tokens:,} were "
                f"asked for: --corpus {self.corpus} has no more; a longer text serves better"
            )
        length = min(_ROW, model.config.max_seq_len, len(ids))
        rows = check_tokens(model.config, ids[: len(ids) // length * length]).reshape(-1, length)
        return torch.from_numpy(rows).split(8)
