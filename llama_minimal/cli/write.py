"""``llama-minimal generate``: a model folder in, text out."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Any

import tyro

from llama_minimal.cli.console import check_counts
from llama_minimal.cli.several import ProcessFlags, loaded, together
from llama_minimal.settings import Sampling, Scheme


@dataclass(frozen=True, kw_only=True)
class WriteFlags:
    """How to write."""

    max_new_tokens: int = 200
    """The most tokens to write."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(default_factory=lambda: Sampling(temperature=0.8, top_p=0.95))
    stop: tuple[str, ...] = ()
    """Texts that end the writing."""
    seed: int = 0
    """The same seed writes the same text."""
    compile: bool = False
    """Compile the step of one token: slow at first, then fast."""
    device: str | None = None
    """cuda, mps (Apple) or cpu; left out: the first of these that is there."""
    devices: tuple[str, ...] = ()
    """Several devices that share the layers, such as: cuda:0 cuda:1"""
    dtype: str | None = None
    """float32, bfloat16 or float16; left out: as in the file."""
    adapter: str | None = None
    """Folder of an adapter for the model, or the name of one that comes with it."""
    quantize: Scheme | None = None
    """Keep the weights in so few bits; left out: as in the file."""
    window: int | None = None
    """See so many tokens of the text, its first and its latest, so that it may be longer than the model's context."""
    sinks: int | None = None
    """With --window: how many of them are the first; left out: 4."""
    recalled: int | None = None
    """With --window: how many of the tokens that have left it each query looks up; left out: none."""
    offload: int | None = None
    """Keep so many layers on the device, and bring each other one there when its turn comes; 0 keeps none."""

    def __post_init__(self) -> None:
        check_counts(self, "max_new_tokens", "window")
        check_counts(self, "offload", least=0)
        self._check_window()
        if abs(self.seed) >= 1 << 62:
            raise ValueError(f"--seed {self.seed} is too large; give a number of 18 digits or fewer")
        if "" in self.stop:
            raise ValueError("--stop has an empty text, which would end everything before it starts; leave it out")
        if self.device and self.devices:
            raise ValueError("--device names one device and --devices several; give one of them")

    def _check_window(self) -> None:
        check_counts(self, "sinks", "recalled", least=0)
        if self.window is None:
            if self.sinks is not None:
                raise ValueError(f"--sinks {self.sinks} says how many tokens of a --window are the first; give one")
            if self.recalled is not None:
                raise ValueError(f"--recalled {self.recalled} is for tokens that have left a --window; give one")
        elif self.window <= (sinks := 4 if self.sinks is None else self.sinks):
            raise ValueError(f"--window {self.window} has no place beside --sinks {sinks}; give at least {sinks + 1}")
        elif self.compile:
            raise ValueError("--compile is for a cache in which tokens stay where they are; leave out it or --window")

    @property
    def cache(self) -> Any:
        """What keeps the keys and values, as ``generate`` takes it."""
        if self.window is None:
            return None
        from llama_minimal.long_context import Window

        return Window(size=self.window, n_sinks=4 if self.sinks is None else self.sinks, n_recalled=self.recalled or 0)


@dataclass(frozen=True, kw_only=True)
class DraftFlags:
    """What writes ahead."""

    draft: str | None = None
    """What proposes tokens, several of which the model checks at once: prompt-lookup, or a small model like folder."""
    draft_tokens: int | None = None
    """How many at once; left out: 4 of a model's, 10 of those looked up."""

    def __post_init__(self) -> None:
        if self.draft_tokens is not None:
            check_counts(self, "draft_tokens")
            if self.draft is None:
                raise ValueError(
                    f"--draft-tokens {self.draft_tokens} says how many a --draft proposes; give one, or none"
                )

    def load(self, write: WriteFlags, device: str | None = None) -> Any:
        """Return the draft, or None; a model in the dtype and on the device on which the large one gives logits."""
        if self.draft is None:
            return None
        if write.window:
            raise ValueError("--draft may propose what is not kept, which a --window cannot take back; leave one out")
        if write.compile:
            raise ValueError("--compile is for steps of one token, and with --draft a step has several; leave one out")
        from llama_minimal.adaptive_computation import ModelDraft, PromptLookup
        from llama_minimal.quantization import quantization_of, quantize

        size = {} if self.draft_tokens is None else {"n": self.draft_tokens}
        if self.draft == "prompt-lookup":
            return PromptLookup(**size)
        device = device or next(iter(write.devices), write.device)
        flags = replace(write, device=device, devices=(), adapter=None, quantize=None)
        model, tokenizer = load_as_asked(self.draft, flags)
        if write.quantize and quantization_of(model) is None:  # else it stays as it was saved
            quantize(model, write.quantize, dtype=dtype_of(write) or "bfloat16")
        return ModelDraft(model=model, tokenizer=tokenizer, **size)


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Continue a prompt, and print the text as it is written.

    Several processes: torchrun --nproc-per-node 2 -m llama_minimal generate … --tensor 2
    """

    folder: tyro.conf.Positional[str]
    """Folder of a model (a training run, Hugging Face, Meta), or a hub id."""
    prompt: Annotated[str, tyro.conf.arg(aliases=["-p"])] = ""
    """Text to continue; left out, the model starts from nothing. "-" reads it from standard input."""
    num_samples: int = 1
    """Texts to write: the second with the seed after the first's, and so on."""
    special_tokens: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read names of special tokens in the prompt, such as <|eot_id|>, as those tokens; otherwise they are text."""
    draft: tyro.conf.OmitArgPrefixes[DraftFlags] = field(default_factory=DraftFlags)
    write: tyro.conf.OmitArgPrefixes[WriteFlags] = field(default_factory=WriteFlags)
    processes: tyro.conf.OmitArgPrefixes[ProcessFlags] = field(default_factory=ProcessFlags)

    def __post_init__(self) -> None:
        check_counts(self, "num_samples")

    def run(self) -> None:
        with loaded(self.folder, self.write, self.processes, command="generate") as (model, tokenizer, mesh):
            prompt = self.prompt
            if prompt == "-":  # which the first process reads for all
                prompt = mesh.first(_read_input) if mesh else _read_input()
            draft = together(mesh, lambda: self.draft.load(self.write, str(mesh.device) if mesh else None))
            for i in range(self.num_samples):
                title = "\n" if i else ""
                title += f"--- sample {i + 1} ---\n" if self.num_samples > 1 else ""
                flags = replace(self.write, seed=self.write.seed + i)
                options = {"special": self.special_tokens, "mesh": mesh, "draft": draft}
                print_stream(model, tokenizer, prompt, flags, title=title, **options)


def load_for_writing(folder: str, flags: WriteFlags) -> tuple[Any, Any]:
    """Load a model and its tokenizer onto the device that was asked for.

    Raises:
        ValueError: if there is no tokenizer, or the model writes no text.
    """
    model, tokenizer = load_as_asked(folder, flags)
    check_can_write(folder, model, tokenizer)
    return model, tokenizer


def check_can_write(folder: str, model: Any, tokenizer: Any) -> None:
    """Raise ValueError if there is no tokenizer, or the model tells labels apart."""
    from llama_minimal.prompts import check_writes

    check_writes(model.config, folder)
    if tokenizer is None:
        raise ValueError(f"{folder} has no tokenizer.json or tokenizer.model; put the model's tokenizer there")


def load_as_asked(folder: str, flags: WriteFlags) -> tuple[Any, Any]:
    """Load a model onto the devices and in the dtype that were asked for, and its tokenizer if it has one."""
    from llama_minimal.checkpoint import load
    from llama_minimal.cli.ways import load_another_way
    from llama_minimal.devices import find_device

    if (found := load_another_way(folder, flags)) is not None:
        return found
    options = {"dtype": dtype_of(flags), "adapter": flags.adapter, "quantize": flags.quantize}
    return load(folder, device=find_device(flags.device), **options)


def dtype_of(flags: WriteFlags) -> str | None:
    """Return the dtype that was asked for, or None.

    Raises:
        ValueError: if it is none that weights can have.
    """
    if flags.dtype not in ("float32", "bfloat16", "float16", None):
        raise ValueError(f"--dtype {flags.dtype} is not one of float32, bfloat16, float16")
    return flags.dtype


def print_stream(
    model: Any,
    tokenizer: Any,
    prompt: str,
    flags: WriteFlags,
    *,
    title: str = "",
    special: bool = False,
    mesh: Any = None,
    draft: Any = None,
) -> None:
    """Print a prompt and its continuation; nothing before the first piece is there, so that an error stands alone."""
    from llama_minimal.generation import stream

    pieces = stream(
        model,
        tokenizer,
        tokenizer.encode_prompt(prompt, allow_special=True) if special and prompt else prompt,
        max_new_tokens=flags.max_new_tokens,
        sampling=flags.sampling,
        stop=flags.stop,
        seed=flags.seed,
        compile=flags.compile,
        draft=draft,
        cache=flags.cache,
    )
    first = together(mesh, lambda: next(pieces, ""))
    if mesh and not mesh.is_main:
        for _ in pieces:  # computes its part
            pass
        return
    print_pieces(chain((title + prompt + first,), pieces))


def print_pieces(pieces: Iterable[str]) -> None:
    """Print a text as it comes, and end its line; an error before the first piece finds nothing printed."""
    pieces = iter(pieces)
    first = next(pieces, "")
    try:
        for piece in chain((first,), pieces):
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def _read_input() -> str:
    """Read standard input; a byte order mark, and the line end that the shell adds, are not part of the text."""
    if sys.stdin is None:  # as after <&- in a shell
        raise ValueError("--prompt - reads standard input, which is closed; give the text itself")
    text = sys.stdin.read().removeprefix("\ufeff")
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
