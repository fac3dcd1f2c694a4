"""LLaMA: embeddings, a stack of blocks, a norm and an output layer."""

# B batch, T time, D model width, V vocabulary

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llama_minimal.attention import document_mask, document_positions
from llama_minimal.block import Block
from llama_minimal.compiling import turn
from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_seed
from llama_minimal.devices import find_device, find_dtype, float64_device
from llama_minimal.kv_cache import KVCache, LayeredCache, make_cache
from llama_minimal.linear import Linear
from llama_minimal.normalization import make_norm
from llama_minimal.positions import make_position_table


class Llama(nn.Module):
    """Predict the next token from those before it.

    The names of modules and parameters are Meta's. Any of ``tok_embeddings``, ``norm``, ``output`` may be
    None and any layer left out of ``layers``: what remains is one stage of a pipeline, with the same names.

    Source: Touvron et al. 2023, "LLaMA", §2.2.

    Example:
        >>> model = Llama(preset("tiny"))
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 512])
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.eos_ids: tuple[int, ...] | None = None  # tokens that end a text, where a checkpoint names them
        # Not drawn here: on the meta device PyTorch would import its compiler for that.
        self.tok_embeddings = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.dim), freeze=False)
        blocks = [Block(config) for _ in range(config.n_layers // config.share_layers)]
        self.layers = nn.ModuleDict({str(i): blocks[i // config.share_layers] for i in range(config.n_layers)})
        # A post-norm block ends with a norm already (Vaswani et al. 2017, §3.1).
        self.norm = make_norm(config) if config.norm_placement == "pre" else None
        self.output = Linear(config.dim, config.n_outputs, bias=False)
        self.positions = make_position_table(config)
        self._tie()
        if not self.tok_embeddings.weight.is_meta:
            self.init_weights()

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
        loss: Callable[[Tensor, nn.Module], Any] | None = None,
    ) -> Tensor:
        """Return the logits of each next token.

        Args:
            tokens: (B, T) ids. (In a later pipeline stage: hidden states (B, T, D).)
            positions: (B, T) positions of the tokens; None means 0 … T−1.
            cache: keys and values of the tokens before these. With a cache and no positions, the tokens are
                the prompt, and fill it from its first slot.
            documents: (B, T) which document of a packed row a token belongs to: it sees no other, and counts its
                position from the document's beginning. Instead of positions and cache.
            loss: of what ``output`` reads, (B, T, D), and ``output``: its result is returned instead of the logits.

        Returns:
            (B, T, V), or with a classification head (B, T, labels).

        Raises:
            ValueError: if there are more tokens than ``max_seq_len``, or one has no embedding (a GPU stops instead).
        """
        with turn(self):
            x = self.hidden_states(tokens, positions=positions, cache=cache, documents=documents)
            return x if self.output is None else self.output(x) if loss is None else loss(x, self.output)

    def hidden_states(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
        last: Tensor | None = None,
    ) -> Tensor:
        """Return what ``output`` reads, (B, T, D).

        Args:
            last: (B,) of each row the one token that is asked for, (B, 1, D): of the others the last layer makes keys
                and values, which is all that later tokens read of them.
            tokens, positions, cache, documents: as in ``forward``.
        """
        x, rope, where = self.begin(tokens, positions, cache, documents)
        for i, (name, layer) in enumerate(self.layers.items(), start=1):
            if i == len(self.layers) and last is not None:
                where["last"] = last
            x = layer(x, rope, layer=0 if cache is None else int(name), **where)
        return x if self.norm is None else self.norm(x)

    def begin(
        self, tokens: Tensor, positions: Tensor | None, cache: KVCache | None, documents: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None, dict[str, Any]]:
        """Return what the first layer reads, (B, T, D), and what every layer needs beside it: rope, mask and so on."""
        if tokens.dim() < 2:
            raise ValueError(f"tokens of shape {tuple(tokens.shape)} must be (B, T); give a single row as tokens[None]")
        T = tokens.size(1)
        if self.config.max_seq_len < T:
            raise ValueError(f"{T} tokens do not fit the context of {self.config.max_seq_len} tokens (max_seq_len)")
        where = torch.arange(T, device=tokens.device)[None] if positions is None else positions  # (1 or B, T)
        if hasattr(cache, "places"):  # a window has slid
            where = cache.places(where)
        mask = None if cache is None or positions is None else cache.mask(positions)  # (B, 1, T, S)
        if documents is not None:
            if not (positions is cache is None):
                raise ValueError("documents say where tokens stand; leave out positions and cache")
            if documents.shape != (shape := tokens.shape[:2]):
                raise ValueError(f"documents of shape {tuple(documents.shape)} must be (B, T), here {tuple(shape)}")
            where, mask = document_positions(documents), document_mask(documents)
        x = tokens if self.tok_embeddings is None else self._embed(tokens)  # (B, T, D)
        rope = None
        if self.config.position == "rope":
            rope = tuple(table.unsqueeze(-2) for table in self.positions(where))  # (1 or B, T, 1, Dh/2)
        elif self.config.position == "sinusoidal" and self.tok_embeddings is not None:
            x = x + self.positions(where)[0].type_as(x)
        return x, rope, {"cache": cache, "positions": positions, "mask": mask}

    def next_logits(
        self,
        tokens: Tensor,
        last: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return the logits of what follows each row, (B, V).

        Args:
            last: (B,) where in ``tokens`` each row's last token stands; None means at the end.
            tokens, positions, cache: as in ``forward``.
        """
        with turn(self):
            return self.output(self.last_states(tokens, last, positions=positions, cache=cache))

    def last_states(self, tokens: Tensor, last: Tensor | None = None, **where: Any) -> Tensor:
        """Return what ``output`` reads of each row's last token, (B, D); arguments as of ``next_logits``."""
        T = tokens.size(1)
        if last is None and T > 1:
            last = torch.full(tokens.shape[:1], T - 1, device=tokens.device)
        return self.hidden_states(tokens, last=last if T > 1 else None, **where)[:, 0]

    def make_cache(self, *, batch_size: int, max_seq_len: int, **options: Any) -> LayeredCache | KVCache:
        """Build a cache in the model's dtype, each layer's part on the device of that layer.

        Args:
            options: ``n_kv_heads``, those that this process has; ``kind``, such as ``QuantizedKVCache``.
        """
        devices = {int(name): b.runs_on or next(b.parameters()).device for name, b in self.layers.items()}
        options |= {"batch_size": batch_size, "max_seq_len": max_seq_len}
        return make_cache(self.config, devices, dtype=next(self.parameters()).dtype, **options)

    @property
    def device(self) -> torch.device:
        """Where tokens go in and logits come out."""
        return next(self.parameters()).device

    def _embed(self, tokens: Tensor) -> Tensor:
        try:
            return self.tok_embeddings(tokens)
        except RuntimeError:
            if tokens.dtype in (torch.int64, torch.int32):
                raise
            name = str(tokens.dtype).removeprefix("torch.")
            raise ValueError(f"tokens are {name}, but ids are int64 (or int32): give tokens.long()") from None
        except IndexError:  # looked at only when something is wrong: it would cost every step
            unknown = tokens[(tokens < 0) | (tokens >= self.tok_embeddings.num_embeddings)]
            raise ValueError(
                f"token id {int(unknown[0])} is not among the model's ids 0 to {self.tok_embeddings.num_embeddings - 1}"
            ) from None

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights from N(0, 0.02²), those that write to the residual stream smaller.

        ``wo`` and ``w2`` get 0.02 / √(2·n_layers): 2·n_layers of them add up in the stream. Norms start at 1,
        biases at 0. Source: Radford et al. 2018, "GPT-1", §4.1 (0.02); 2019, "GPT-2", §2.3 (1/√N).
        """
        residual_std = 0.02 / (2 * self.config.n_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                std = residual_std if name.endswith(("wo.weight", "w2.weight")) else 0.02
                parameter.normal_(std=std, generator=generator)

    def blocks(self) -> list[Block]:
        """Return the blocks in order, each once: a shared one stands under several names in ``layers``."""
        return list({id(block): block for block in self.layers.values()}.values())

    def _tie(self) -> None:
        if self.config.tie_embeddings and self.output is not None and isinstance(self.tok_embeddings, nn.Embedding):
            self.output.weight, self.output.is_table = self.tok_embeddings.weight, True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Llama":
        super()._apply(fn, recurse)
        self._tie()  # moving off the meta device makes new parameters, two where there was one
        return self


def build(
    config: LlamaConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    seed: int | None = 0,
) -> Llama:
    """Build a model on any device without a second copy, and draw its weights from a seed.

    Args:
        device: "meta" gives the shapes without any memory.
        dtype: float32, bfloat16, float16 or float64.
        seed: None leaves the memory as it is, for a checkpoint to fill.

    Raises:
        ValueError: if there is no such device, or it has no such dtype.
    """
    if not isinstance(config, LlamaConfig):
        raise ValueError(f"config={config!r} must be a LlamaConfig, such as preset('tiny')")
    dtype, seed = find_dtype(dtype), None if seed is None else check_seed(seed)
    is_meta = str(device) == "meta"
    device = torch.device("meta") if is_meta else find_device(device)
    if dtype == torch.float64 and float64_device(device) != device:
        raise ValueError(f"{device} has no float64; give dtype=torch.float32, or device='cpu'")
    with torch.device("meta"):
        model = Llama(config).to(dtype)
    if is_meta:
        return model
    # What ``to_empty`` does, without the half second in which it imports a computer algebra system.
    model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
    if seed is not None:
        model.init_weights(torch.Generator(device).manual_seed(seed))
    return model
