"""ONNX: a model's step as a graph that other runtimes and other hardware run, and a runner that writes with it.

One graph reads prompts and single tokens alike, of any number of texts and with a cache of any length:

    tokens, positions (B, T) · places (B, N) · keys, values (L, B, K, S, Dh)
        → logits (B, N, V) · new_keys, new_values (L, B, K, T, Dh)

``places`` are those tokens whose next one is wanted. S slots of the past come in, the T new ones go out; to keep them
is the runner's work, so the graph holds no state. ``load`` returns a model for ``generate`` and ``evaluate``.

Source: the ONNX operators, version 20; PyTorch's exporter, ``torch.onnx.export(dynamo=True)``.
"""

# L layers, B batch, T time, N places, S slots, K kv heads, Dh head width, D model width, V vocabulary

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llama_minimal.checkpoint.text_side import GENERATION, read_end_ids, write_generation_config
from llama_minimal.config import LlamaConfig, read_json
from llama_minimal.files import update_folder
from llama_minimal.inputs import vocabulary_of
from llama_minimal.integrations.quiet import quiet
from llama_minimal.kv_cache import KVCache
from llama_minimal.lora import refuse_adapters
from llama_minimal.model import Llama
from llama_minimal.observing import reading
from llama_minimal.quantization import refuse_quantized
from llama_minimal.tokenizer import TextCodec, load_tokenizer

MODEL, CONFIG = "model.onnx", "llama_minimal.json"
INPUTS, OUTPUTS = ("tokens", "positions", "places", "keys", "values"), ("logits", "new_keys", "new_values")
_DATA = f"{MODEL}.data"  # the weights: one ONNX file ends at 2 GB


class _Past:
    """Be the cache of one step: what came in stands before what is new, which is handed out instead of kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.new: list[tuple[Tensor, Tensor]] = []

    def write(self, layer: int, k: Tensor, v: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.new.append((k, v))
        return torch.cat((self.keys[layer], k), dim=2), torch.cat((self.values[layer], v), dim=2)

    def mask(self, positions: Tensor) -> Tensor:
        """Return (B, 1, T, S + T): the slots before a row's first new token are its past, and new ones see no later."""
        slots = torch.arange(self.keys.size(3), device=positions.device)
        past = (slots < positions[:, :1, None]).expand(-1, positions.size(1), -1)  # (B, T, S)
        visible = torch.cat((past, positions[:, None] <= positions[:, :, None]), dim=2)
        return torch.where(visible, 0.0, float("-inf")).to(self.keys.dtype)[:, None]


class _Step(nn.Module):
    """Be what the graph computes."""

    def __init__(self, model: Llama) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, positions: Tensor, places: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        past = _Past(keys, values)
        x = self.model.hidden_states(tokens, positions=positions, cache=past)  # (B, T, D)
        x = x.gather(1, places[:, :, None].expand(-1, -1, x.size(2)))  # (B, N, D)
        new_keys, new_values = (torch.stack(part) for part in zip(*past.new, strict=True))
        return self.model.output(x), new_keys, new_values


def export(model: Llama, folder: str | Path, tokenizer: TextCodec | None = None) -> Path:
    """Write a model as an ONNX graph with its weights, its config and its tokenizer.

    Args:
        model: in float32, on the CPU; adapters merged.
        folder: is made; in one that is there, what this writes is replaced.

    Returns:
        The graph's file, ``model.onnx``; the weights are in ``model.onnx.data`` beside it.

    Raises:
        ValueError: if the model is of a kind that the graph cannot be; the message says what to do.
        ImportError: if the extra is not installed.
    """
    _need("onnx", "onnxscript")
    _check(model)
    with (
        update_folder(Path(folder), last=MODEL, obsolete=(_DATA, CONFIG, GENERATION)) as temporary,
        quiet("torch.onnx"),
        reading(model),
    ):
        program = torch.onnx.export(_Step(model).eval(), _example(model.config), **_ways(model.config))
        program.save(temporary / MODEL, external_data=True)
        (temporary / CONFIG).write_text(json.dumps(model.config.to_dict(), indent=2), encoding="utf-8")
        if tokenizer:
            tokenizer.save(temporary)
        if model.eos_ids and not (temporary / GENERATION).exists():
            write_generation_config(model, tokenizer, temporary)
    return Path(folder) / MODEL


def _check(model: Llama) -> None:
    if not isinstance(model, Llama) or model.output is None or model.tok_embeddings is None:
        raise ValueError("only a whole model becomes a graph, not a part or a stage of one; give a Llama")
    refuse_quantized(model, "export it to ONNX")
    if model.config.labels:
        raise ValueError("the model tells labels apart and writes no text; ONNX export is for models that write")
    if vocabulary := vocabulary_of(model):
        raise ValueError(f"a graph reads tokens alone, and the model {', '.join(vocabulary.inputs)} too")
    refuse_adapters(model, "make a graph")
    weight = next(model.parameters())
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        kind = str(weight.dtype).removeprefix("torch.")
        raise ValueError(f"the model is {kind} on {weight.device}; give model.float().cpu(), which runs everywhere")


def _example(config: LlamaConfig) -> tuple[Tensor, ...]:
    """Return inputs to trace with: no size is 1, which the exporter would take for the only one."""
    B, T, S = 2, 3, 5
    positions = torch.arange(S, S + T).expand(B, T).contiguous() % config.max_seq_len
    past = torch.zeros(config.n_layers, B, config.n_kv_heads, S, config.head_dim)
    return torch.zeros(B, T, dtype=torch.long), positions, torch.tensor([[T - 1, 0]] * B), past, past.clone()


def _ways(config: LlamaConfig) -> dict[str, Any]:
    # The exporter's optimizer turns each product's matrix around in advance: of one that is used twice it makes two.
    is_used_twice = config.tie_embeddings or config.share_layers > 1
    batch, time, places, slots = (torch.export.Dim.DYNAMIC for _ in range(4))
    shapes = ({0: batch, 1: time}, {0: batch, 1: time}, {0: batch, 1: places}, *({1: batch, 3: slots},) * 2)
    names = {"input_names": INPUTS, "output_names": OUTPUTS}
    return {"dynamo": True, "dynamic_shapes": shapes, "verbose": False, "optimize": not is_used_twice, **names}


def _need(*libraries: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in libraries if find_spec(name) is None]:
        raise ImportError(f"{missing[0]} is not installed; run: pip install 'llama_minimal[onnx]'")


class OnnxLlama(nn.Module):
    """Be a model to ``generate``, ``stream`` and ``evaluate``, computed by onnxruntime.

    Args:
        folder: what ``export`` wrote.
        providers: of onnxruntime's, such as ``["CUDAExecutionProvider"]``; None: the CPU.

    Raises:
        ValueError: if the folder has no such graph, or this onnxruntime lacks a provider.
        ImportError: if the extra is not installed.
    """

    device = torch.device("cpu")  # where tokens go in and logits come out, whatever computes in between

    def __init__(self, folder: str | Path, *, providers: list[str] | None = None) -> None:
        super().__init__()
        _need("onnxruntime")
        import onnxruntime

        folder = Path(folder)
        if not (folder / MODEL).is_file() or not (folder / CONFIG).is_file():
            raise ValueError(f"{folder} has no {MODEL} with its {CONFIG}; write them with integrations.onnx.export")
        known, providers = onnxruntime.get_available_providers(), providers or ["CPUExecutionProvider"]
        if unknown := [name for name in providers if name not in known]:
            raise ValueError(f"this onnxruntime has no {unknown[0]}, only {', '.join(known)}")
        self.config = LlamaConfig.from_dict(read_json(folder / CONFIG))
        self.eos_ids = read_end_ids(folder, vocab_size=self.config.vocab_size)
        self.session = onnxruntime.InferenceSession(folder / MODEL, providers=providers)

    def make_cache(self, *, batch_size: int, max_seq_len: int, kind: Any = KVCache) -> KVCache:
        """Build what keeps the keys and values between the steps."""
        if kind is not KVCache:
            raise ValueError("the graph reads keys and values as they are; leave out cache=")
        return KVCache(self.config, batch_size=batch_size, max_seq_len=max_seq_len)

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Return the logits of each next token, (B, T, V); arguments as of ``Llama.forward``."""
        return self._run(tokens, torch.arange(tokens.size(1)).expand_as(tokens), positions, cache)

    def next_logits(
        self,
        tokens: Tensor,
        last: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return the logits of what follows each row, (B, V); arguments as of ``Llama.next_logits``."""
        places = torch.full_like(tokens[:, 0], tokens.size(1) - 1) if last is None else last
        return self._run(tokens, places[:, None], positions, cache)[:, 0]

    def _run(self, tokens: Tensor, places: Tensor, positions: Tensor | None, cache: KVCache | None) -> Tensor:
        B, T = tokens.shape
        if self.config.max_seq_len < T:
            raise ValueError(f"{T} tokens do not fit the context of {self.config.max_seq_len} tokens (max_seq_len)")
        where = torch.arange(T).expand(B, T) if positions is None else positions
        n_seen = 0 if positions is None or cache is None else int(positions[:, 0].max())
        if cache is None:
            empty = torch.zeros(self.config.n_layers, B, self.config.n_kv_heads, 0, self.config.head_dim)
            past = (empty, empty)
        else:
            past = tuple(torch.stack([one[:, :, :n_seen] for one in part]) for part in (cache.keys, cache.values))
        given = zip(INPUTS, (tokens, where, places, *past), strict=True)
        answers = self.session.run(OUTPUTS, {name: x.contiguous().numpy() for name, x in given})
        logits, keys, values = map(torch.from_numpy, answers)
        if cache is not None:
            for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
                cache.write(layer, k, v, positions)
        return logits


def load(folder: str | Path, *, providers: list[str] | None = None) -> tuple[OnnxLlama, TextCodec | None]:
    """Return the model that ``export`` wrote, and its tokenizer if it had one.

    Args, Raises: as ``OnnxLlama``.
    """
    model = OnnxLlama(folder, providers=providers)
    has_tokenizer = any((Path(folder) / name).exists() for name in ("tokenizer.json", "tokenizer.model"))
    tokenizer = load_tokenizer(folder) if has_tokenizer else None
    if tokenizer and model.eos_ids:
        tokenizer.eos_ids = model.eos_ids
    return model, tokenizer


def difference(model: Llama, other: nn.Module, tokens: Tensor) -> float:
    """Return the largest difference of any logit of two models, over tokens (B, T)."""
    with torch.no_grad():
        return (model(tokens) - other(tokens)).abs().max().item()
