"""``llama-minimal chat``: turn by turn, by the model's chat template; without one, line by line."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from llama_minimal.cli.console import check_counts
from llama_minimal.cli.processes import is_one_of_several
from llama_minimal.cli.write import DraftFlags, WriteFlags, load_for_writing, print_pieces, print_stream

_HELP = """\
  /reset          forget all turns
  /system TEXT    say this before all turns, from the next answer on; without a text, say nothing there
  /save FILE      append the conversation to a .jsonl file, as a line that fine-tuning reads
  An empty line ends the chat; a space in front of a / makes it part of a message."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """Talk with a model, if its folder has a chat template; an empty line or Ctrl-D ends it.

    An adapter named chat that comes with the model is used, unless another is given. Without a template the model has
    not learned to answer: it continues one line after another.
    """

    folder: tyro.conf.Positional[str]
    """Folder of a model (a training run, Hugging Face, Meta), or a hub id."""
    system: str | None = None
    """What the model is told before all turns, if its template has a place for that."""
    recall: int = 0
    """When the context is full: how many of the old turns to look up for each message, by the words that they share."""
    draft: tyro.conf.OmitArgPrefixes[DraftFlags] = field(default_factory=DraftFlags)
    write: tyro.conf.OmitArgPrefixes[WriteFlags] = field(default_factory=WriteFlags)

    def __post_init__(self) -> None:
        check_counts(self, "recall", least=0)
        if self.recall and self.write.window:
            raise ValueError("--recall is for turns that are left out, and with a --window all are read; give one")

    def run(self) -> None:
        if is_one_of_several():
            raise ValueError("chat is a conversation with one process; start it without torchrun, or use generate")
        from llama_minimal.adaptive_computation.speculative import check_draft
        from llama_minimal.chat import Conversation, chat_template

        own = None if self.write.adapter else _own_adapter(self.folder)
        flags = replace(self.write, adapter=own) if own else self.write
        model, tokenizer = load_for_writing(self.folder, flags)
        if own:
            print(f"(with the adapter for chat that comes with {self.folder})")
        template = chat_template(tokenizer)
        if template is None and (self.system is not None or self.recall):
            flag = "--recall" if self.system is None else "--system"
            raise ValueError(f"{flag} is for a model with a chat template, and {self.folder} has none; leave it out")
        draft = check_draft(self.draft.load(flags), model, tokenizer)  # now, and not after the first message
        if template is None:
            _continue_lines(model, tokenizer, flags, draft)
        else:
            _Talk(model, Conversation(template, system=self.system, recall=self.recall), flags, draft).run()


def _own_adapter(folder: str) -> str | None:
    """Return the adapter for chat that comes with a model, if there is one."""
    from llama_minimal.checkpoint import COURSE

    own = (COURSE if folder == "course" else Path(folder).expanduser()) / "adapters" / "chat"
    return own.name if own.is_dir() else None


def _continue_lines(model: Any, tokenizer: Any, flags: WriteFlags, draft: Any) -> None:
    print("This model has no chat template: it does not answer, it continues what you type.")
    print("Type the beginning of a text. An empty line ends the chat.")
    while prompt := _ask():
        try:
            print_stream(model, tokenizer, prompt, flags, draft=draft)
        except ValueError as error:  # too long, say: the next line may fit
            print(error)


class _Talk:
    """Read what the user types, and answer."""

    def __init__(self, model: Any, conversation: Any, flags: WriteFlags, draft: Any) -> None:
        self.model, self.conversation, self.flags, self.draft = model, conversation, flags, draft
        end = conversation.template.turn_end()
        self.stop = flags.stop if end is None else (*flags.stop, end)
        self.commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/save": self._save,
            "/help": lambda _: print(_HELP),
        }

    def run(self) -> None:
        print("Type a message; /help lists the commands. An empty line ends the chat.")
        while line := _ask():
            try:
                self._take(line)
            except (ValueError, OSError) as error:  # the next line may be better
                print(error)

    def _take(self, line: str) -> None:
        if not line.startswith("/"):
            self._answer(line.removeprefix(" ") if line.startswith(" /") else line)
            return
        name, _, rest = line.partition(" ")
        if name not in self.commands:
            raise ValueError(f"{name} is no command; /help lists them, and a space in front makes this a message")
        self.commands[name](rest.strip())

    def _answer(self, message: str) -> None:
        """Print the answer to a message, and remember both, or neither if there is none."""
        talk, pieces, is_whole = self.conversation, [], False
        talk.add("user", message)
        try:
            print_pieces(_without_first_space(_kept(self._stream(), pieces)))
            is_whole = True
        except KeyboardInterrupt:  # ends the answer, not the chat
            print("(stopped)")
        finally:
            if pieces or is_whole:
                talk.add("assistant", "".join(pieces))
            else:
                talk.messages.pop()

    def _stream(self) -> Iterable[str]:
        from llama_minimal.generation import stream
        from llama_minimal.long_context import context_of

        flags, context = self.flags, context_of(self.model.config, self.flags.cache)
        ids, n_left_out = self.conversation.prompt(context - min(flags.max_new_tokens, context // 2))
        if n_left_out:
            print(_left_out(n_left_out, self.conversation.recalled))
        n_answers = sum(message["role"] == "assistant" for message in self.conversation.messages)
        options = {"sampling": flags.sampling, "max_new_tokens": flags.max_new_tokens, "compile": flags.compile}
        options |= {"draft": self.draft, "cache": flags.cache}
        tokenizer = self.conversation.template.tokenizer
        return stream(self.model, tokenizer, ids, stop=self.stop, seed=flags.seed + n_answers, **options)

    def _reset(self, _: str) -> None:
        self.conversation.messages.clear()
        print("All turns are forgotten.")

    def _system(self, text: str) -> None:
        self.conversation.set_system(text or None)
        print("The model will be told this." if text else "The model will be told nothing before the turns.")

    def _save(self, name: str) -> None:
        if not name:
            raise ValueError("/save needs the name of a file, such as /save talks.jsonl")
        if not self.conversation.messages:
            raise ValueError("there is nothing to save yet")
        path = Path(name).expanduser()
        try:
            self._append(path)
        except OSError as error:
            raise ValueError(
                f"could not write {path}: {error.strerror}; give a file in a folder that is there, such as "
                f"/save talks.jsonl"
            ) from None
        print(f"saved as a line of {path}")

    def _append(self, path: Path) -> None:
        if path.exists() and not _holds_conversations(path):
            raise ValueError(f"{path} is there and holds no conversations; give another name")
        line = json.dumps({"messages": self.conversation.all_messages()}, ensure_ascii=False)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _left_out(n: int, recalled: list[int]) -> str:
    turns = "turn" if n == 1 else f"{n} turns"
    if not recalled:
        return f"(the context is full; the model no longer sees the first {turns})"
    which = ", ".join(str(i + 1) for i in recalled)
    return f"(the context is full; the model no longer sees {n} of the first turns, but looked up number {which})"


def _kept(pieces: Iterable[str], kept: list[str]) -> Iterable[str]:
    for piece in pieces:
        kept.append(piece)
        yield piece


def _without_first_space(pieces: Iterable[str]) -> Iterable[str]:
    """Leave out the space with which words begin: on the screen there is nothing before it."""
    pieces = iter(pieces)
    yield next(pieces, "").removeprefix(" ")
    yield from pieces


def _holds_conversations(path: Path) -> bool:
    """Return whether the first line of a file is a conversation, or there is none."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    try:
        return not first or "messages" in json.loads(first)
    except (ValueError, TypeError):
        return False


def _ask() -> str:
    try:
        return input("\n> ")
    except (EOFError, KeyboardInterrupt):
        return ""
