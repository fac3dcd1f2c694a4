"""The turns of a chat, and which of them the model still sees."""

from collections.abc import Iterator, Sequence

from llama_minimal.chat.template import ChatTemplate, Message


class Conversation:
    """Hold the turns of a chat, and give the model those that fit.

    Args:
        template: writes the turns.
        system: what stands before all turns and is never left out.

    Raises:
        ValueError: if the template has no place for a system message.
    """

    def __init__(self, template: ChatTemplate, *, system: str | None = None) -> None:
        self.template = template
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
        """Return the ids from which the model answers, and how many of the oldest turns are left out in them.

        A turn, which is what a user says with all answers to it, is there whole or not at all.

        Args:
            max_tokens: the most that the prompt may have. One last turn that has more is not cut either: it is
                returned, and ``generate`` refuses what does not fit the context.

        Raises:
            ValueError: as ``ChatTemplate.render``.
        """
        turns = list(_turns(self.messages))
        for n_left_out in range(max(1, len(turns))):
            kept = [message for turn in turns[n_left_out:] for message in turn]
            ids = self.template.encode([*self._system(), *kept], reply=True)
            if len(ids) <= max_tokens:
                break
        return ids, n_left_out

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
