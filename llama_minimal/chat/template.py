"""A chat template: how turns become one text, and which of its tokens are the template's."""

import re
from collections.abc import Collection, Mapping, Sequence

from llama_minimal.chat.sandbox import compile_template, run_template
from llama_minimal.tokenizer import TextCodec
from llama_minimal.tokenizer.companions import Companions

Message = Mapping[str, str]
"""``{"role": "user", "content": "Hello!"}``; most templates know the roles system, user and assistant."""

_FILE, _CONFIG, _MAP = "chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"
_NAMED = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_PRIVATE = range(0xE000, 0xF8FF)  # Unicode leaves these characters to programs


class ChatTemplate:
    """Write turns as the text that a model was trained on, by the Jinja template that came with it.

    The template sees ``messages``, ``add_generation_prompt``, the names of the special tokens (``bos_token`` …), and
    ``raise_exception`` and ``strftime_now``, as in the transformers library. It runs in Jinja's sandbox: it can reach
    no file and no other program, but nothing keeps it from looping for a long time.

    Args:
        tokenizer: its special tokens are what the template may name.
        source: the template.

    Raises:
        ImportError: if Jinja is not installed.
        ValueError: if the template has a mistake.

    Source: the transformers library, version 5.23, ``utils/chat_template_utils.py``, for what a template may use.
    """

    def __init__(self, tokenizer: TextCodec, source: str) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self._variables = _token_names(tokenizer)
        self._template = compile_template(source)

    def render(self, messages: Sequence[Message], *, reply: bool = False) -> str:
        """Return the text of all turns.

        Args:
            messages: the turns.
            reply: end with what stands before an answer, so that the model writes one.

        Raises:
            ValueError: if a message is none, or the template refuses the messages or fails with them.
        """
        variables = self._variables | {"tools": None, "documents": None, "add_generation_prompt": reply}
        return run_template(self._template, messages=_checked(messages), **variables)

    def encode(self, messages: Sequence[Message], *, reply: bool = False) -> list[int]:
        """Return the ids of all turns; nothing is to be put before them, the template writes the beginning itself.

        These are the ids of transformers' ``apply_chat_template(messages, add_generation_prompt=reply)`` but for one
        case: a message that holds the name of a special token, such as ``<|eot_id|>``, holds text. There it becomes
        the token, with which a user could end the turn and speak as somebody else, unless it is called with
        ``sanitize_control_tokens=True``. (A token that was added to a tokenizer without being special is found in
        any text, here as well.)

        Args, Raises: as ``render``.
        """
        plain = _checked(messages)
        text = self.render(plain, reply=reply)
        safe, letters = self._render_hidden(plain, text, reply)
        names = re.compile(_any_of(self.tokenizer.special_tokens))
        if [found.span() for found in names.finditer(text)] == [found.span() for found in names.finditer(safe)]:
            return self.tokenizer.encode(text, allow_special=True)
        return _encode_hidden(self.tokenizer, safe, letters)

    def _render_hidden(self, plain: list[dict[str, str]], text: str, reply: bool) -> tuple[str, dict[int, str]]:
        """Return the text with some letters of the messages hidden, so that the template wrote each name in it.

        A name that lacks its first letter is none. So every such letter is hidden, be it in a name or not: a template
        may cut pieces out of a message, and what is left may be a name. But where it looks for something else that
        begins so, as for ``</think>``, only the letters of whole names are hidden.

        Returns:
            The text, and what each hidden letter was.
        """
        special = self.tokenizer.special_tokens
        written = "".join([self.source, *(value for one in plain for value in one.values())])
        spare = _spare_characters({name[0] for name in special}, unlike=written)
        letters = {ord(stands): letter for letter, stands in spare.items()}
        for pattern in (_any_of(spare), f"(?={_any_of(special)})(?s:.)"):
            first = re.compile(pattern)
            hidden = [{key: first.sub(lambda m: spare[m[0]], value) for key, value in one.items()} for one in plain]
            safe = self.render(hidden, reply=reply)
            if safe.translate(letters) == text:
                break
        return safe, letters

    def encode_with_mask(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Return the ids of all turns, and for each whether the model is to learn it: what the assistant says.

        The assistant's turn is what follows the text before an answer, with what the template writes behind it: a
        special token there is how the model learns to stop. A token that holds the end of the one and the beginning
        of the other is learned.

        Raises:
            ValueError: as ``render``; or if the template writes earlier turns otherwise once others follow.
        """
        whole, ids = self.render(messages), self.encode(messages)
        mask = [False] * len(ids)
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            borders = []
            for until, reply in ((i, True), (i + 1, False)):
                if not whole.startswith(self.render(messages[:until], reply=reply)):
                    raise ValueError(
                        f"the chat template writes the turns up to message {i} otherwise when others follow, so that "
                        "what the model is to learn has no place; give the last answer alone"
                    )
                borders.append(_n_common(self.encode(messages[:until], reply=reply), ids))
            mask[slice(*borders)] = [True] * (borders[1] - borders[0])
        return ids, mask

    def turn_end(self) -> str | None:
        """Return what the template writes behind an answer: a special token's name, else the text up to the next turn.

        It is a ``stop`` of ``generate``. None if the template writes nothing there.
        """
        first, second = ("\ue0f1", "\ue0f2")
        turns = [("user", "a"), ("assistant", first), ("user", second)]
        text = self.render([{"role": role, "content": content} for role, content in turns])
        between = text.partition(first)[2].partition(second)[0]
        found = re.search(_any_of(self.tokenizer.special_tokens), between)
        return found[0] if found else between.rstrip(" ") or None

    def has_place_for(self, role: str) -> bool:
        """Return whether what somebody of this role says before a user's turn is in the text at all."""
        try:
            return "\ue0f1" in self.render([{"role": role, "content": "\ue0f1"}, {"role": "user", "content": "a"}])
        except ValueError:
            return False


def chat_template(tokenizer: TextCodec) -> ChatTemplate | None:
    """Return the chat template beside a tokenizer: chat_template.jinja, else the one in tokenizer_config.json.

    Of several in tokenizer_config.json, it is the one named "default".

    Returns:
        None if there is none.

    Raises:
        ImportError: if there is one, and Jinja is not installed.
        ValueError: if it has a mistake.
    """
    source = tokenizer.companions.chat_template()
    return None if source is None else ChatTemplate(tokenizer, source)


def set_chat_template(tokenizer: TextCodec, source: str) -> ChatTemplate:
    """Give a tokenizer a chat template, which is then saved with it as chat_template.jinja.

    Raises:
        ImportError, ValueError: as ``ChatTemplate``.
    """
    template = ChatTemplate(tokenizer, source)
    old = tokenizer.companions
    tokenizer.companions = Companions(old.files | {_FILE: source.encode("utf-8")}, old.contents)
    return template


def _token_names(tokenizer: TextCodec) -> dict[str, str]:
    """Return what a template may call ``bos_token`` and the like; those that the tokenizer lacks are left out."""
    names = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    found = {}
    for key in _NAMED:
        for file in (_CONFIG, _MAP):
            if key in tokenizer.companions.contents.get(file, {}):
                found[key] = tokenizer.companions.get(file, key)
                break
        else:
            found[key] = names.get(getattr(tokenizer, key.replace("_token", "_id"), None))
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in found.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _checked(messages: Sequence[Message]) -> list[dict[str, str]]:
    if isinstance(messages, str | Mapping) or not len(messages):
        raise ValueError(f"messages={messages!r} must be a list of one message or more")
    for i, message in enumerate(messages):
        texts = isinstance(message, Mapping) and all(isinstance(value, str) for value in message.values())
        if not texts or not {"role", "content"} <= message.keys():
            raise ValueError(
                f'message {i} is {message!r}; it must be like {{"role": "user", "content": "Hello!"}}, with texts only'
            )
    return [dict(message) for message in messages]


def _any_of(names: Collection[str]) -> str:
    """Return a pattern that finds any of the names, the longest first; without names, nothing."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True))) if names else "(?!)"


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _spare_characters(letters: Collection[str], *, unlike: str) -> dict[str, str]:
    """Return for each letter a character that stands nowhere in a text."""
    free = (chr(code) for code in _PRIVATE if chr(code) not in unlike)
    return dict(zip(sorted(letters), free, strict=False))


def _encode_hidden(tokenizer: TextCodec, text: str, letters: dict[int, str]) -> list[int]:
    """Return the ids of a text in which some letters are hidden, so that names of special tokens there are text."""
    parts = re.split(f"({_any_of(tokenizer.special_tokens)})", text)  # text, name, text, name, … text
    ids: list[int] = []
    held = ""
    for i, part in enumerate(parts):
        shown = part.translate(letters)
        if shown == part:
            held += part
        else:
            ids += tokenizer.encode(held, allow_special=True) + _encode_after(
                tokenizer, parts[i - 1] if i else "", shown
            )
            held = ""
    return ids + tokenizer.encode(held, allow_special=True)


def _encode_after(tokenizer: TextCodec, special: str, text: str) -> list[int]:
    """Return the ids that a text has after a special token, with all names in it as text."""
    alone = tokenizer.encode(text)
    if not special or tokenizer.encode(special + "a", allow_special=True)[1:] == tokenizer.encode("a"):
        return alone
    # A text alone gets a space in front, and after a special token none. Nor does it after a line's end.
    newline, both = tokenizer.encode("\n"), tokenizer.encode("\n" + text)
    return both[len(newline) :] if both[: len(newline)] == newline else alone
