"""The turns of a chat, and which of them the model still sees."""

from collections.abc import Iterator, Sequence

from llama_minimal.chat.template import ChatTemplate, Message
from llama_minimal.config.checks import check_integer
from llama_minimal.retrieval import Index


class Conversation:
    """Hold the turns of a chat, and give the model those that fit.

    Args:
        template: writes the turns.
        system: what stands before all turns and is never left out.
        recall: once the oldest turns no longer fit, how many of them are looked up for the latest message: those that
            share the rarest words with it, by BM25.

    Raises:
        ValueError: if the template has no place for a system message, or ``recall`` is no number.
    """

    def __init__(self, template: ChatTemplate, *, system: str | None = None, recall: int = 0) -> None:
        self.template = template
        self.recall = check_integer("recall", recall, at_least=0)
        self.recalled: list[int] = []
        """Which turns the latest prompt holds only because they were looked up, counted from 0."""
        self.messages: list[dict[str, str]] = []
        self.set_system(system)

    def set_system(self, text: str | None) -> None:
        """Put another text before all turns, or none.

        Raises:
            ValueError: if the template has no place for a system message.
        """
        if text is not None and not self.template.has_place_for("system"):
            raise ValueError("this model's chat template has no place for a system message; say it in your first turn")
        self.system = text

    def add(self, role: str, content: str) -> None:
        """Append a message."""
        self.messages.append({"role": role, "content": content})

    def all_messages(self) -> list[dict[str, str]]:
        """Return the system message, if there is one, and all turns."""
        return [*self._system(), *self.messages]

    def prompt(self, max_tokens: int) -> tuple[list[int], int]:
        """Return the ids from which the model answers, and how many of the older turns are left out in them.

        A turn, which is what a user says with all answers to it, is there whole or not at all. The oldest are left out,
        but for those that are looked up: these come first, where they were said, and take at most half of the room
        beside the last turn.

        Args:
            max_tokens: the most that the prompt may have. One last turn that has more is not cut either: it is
                returned, and ``generate`` refuses what does not fit the context.

        Raises:
            ValueError: as ``ChatTemplate.render``.
        """
        turns = list(_turns(self.messages))
        self.recalled = []
        for n_left_out in range(max(1, len(turns))):
            ids = self._encode(turns[n_left_out:])
            if len(ids) <= max_tokens:
                break
        if n_left_out and self.recall:
            return self._with_recalled(turns, max_tokens)
        return ids, n_left_out

    def _with_recalled(self, turns: list[list[Message]], max_tokens: int) -> tuple[list[int], int]:
        """Do what ``prompt`` says where not all turns fit: take the last, those that are found, then the latest."""
        last = len(turns) - 1
        said = ["\n".join(message["content"] for message in turn) for turn in turns]
        asked = next((message["content"] for message in turns[last] if message["role"] == "user"), said[last])
        kept, ids = {last}, self._encode(turns[last:])
        half = min(max_tokens, (len(ids) + max_tokens) // 2)
        for match in Index(said[:last]).search(asked, k=self.recall):
            longer = self._encode([turns[i] for i in sorted({*kept, match.index})])
            if len(longer) <= half:
                kept, ids = {*kept, match.index}, longer
        first = last  # of the turns that are there because they are the latest
        while first > 0:
            longer = self._encode([turns[i] for i in sorted({*kept, first - 1})])
            if len(longer) > max_tokens:
                break
            first, ids = first - 1, longer
            kept.add(first)
        self.recalled = sorted(i for i in kept if i < first)
        return ids, len(turns) - len(kept)

    def _encode(self, turns: Sequence[Sequence[Message]]) -> list[int]:
        return self.template.encode([*self._system(), *(one for turn in turns for one in turn)], reply=True)

    def _system(self) -> list[dict[str, str]]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]


def _turns(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield what each user's message and all until the next are; what stands before the first belongs to it."""
    turn: list[Message] = []
    for message in messages:
        if message["role"] == "user" and any(one["role"] == "user" for one in turn):
            yield turn
            turn = []
        turn.append(message)
    if turn:
        yield turn
