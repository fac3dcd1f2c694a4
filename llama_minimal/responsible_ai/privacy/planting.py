"""Text with personal details whose places are known: what a redactor is measured on.

No detail is anybody's: phones are of the numbers kept for fiction (555-0100 to 555-0199), mail addresses of the domains
kept for examples (RFC 2606), cards and streets are made up, people live in the Llama Valley.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from llama_minimal.responsible_ai.privacy.redaction import Detail, is_card

_FIRST = "Ada Hugo Lila Marta Nora Otto Pip Sasha Vera Willa".split()
_LAST = "Ashdown Brook Fenn Hollis Marsh Pell Quill Reed Thorne Wick".split()
_HAN_FIRST = "小明 丽 建国 芳 雨 文静".split()
_HAN_LAST = "王 李 张 刘 陈 杨".split()
_STREETS = "Mill Willow Bridge Orchard Ferry Old Mill".split()
_WORDS = "zero one two three four five six seven eight nine".split()

# {kind} stands for a detail. The first list is in forms that most people would write down for a rule …
USUAL = (
    "Call me at {phone} before noon.",
    "My number is {phone}, but I am seldom at home.",
    "Write to {email} if the boat is late.",
    "{name} left a basket at {address}.",
    "Please send the seeds to {address}, not to the mill.",
    "The card {card} was found by the well.",
    "{name} asked for {name} at the market.",
    "The secret number of the mill is {code}.",
    "My PIN is {code}, and I keep forgetting it.",
    "请打{phone}找{han_name}先生。",
    "{han_name}医生住在{han_address}。",
    "磨坊的密码是{code}。",
    "有事请写信到{email}。",
)
# … the second in forms that people use all the same, and which no rule here was written for.
UNUSUAL = (
    "Call me at {spelled_phone}, says the note.",
    "Write to {spelled_email} if the boat is late.",
    "{bare_name} left a basket by the door of {bare_address}.",
    "You know {bare_name} from the ferry; her number ends in {phone_end}.",
    "告诉{bare_han_name}，船来晚了。",
)
# Numbers and names that are nobody's detail.
HARMLESS = (
    "The price was {number} coins for {small} pears.",
    "It was 38.5 degrees on 2026-11-{day}, and {small}.2.1 was the page.",
    "Mount Willow is {number} steps high, and Street Market begins at 7.",
    "Order {order} came with the ferry at {small}:30.",
    "The years 1998-2004 were good for plums.",
    "今年有{number}只天鹅，第{small}页有图。",
)


class Planted(NamedTuple):
    """A text, and the details that stand in it."""

    text: str
    details: list[Detail]


def planted_texts(n: int, *, seed: int = 0, unusual: float = 0.0, harmless: float = 0.3) -> Iterator[Planted]:
    """Yield n short texts of four sentences, with the answer key.

    Args:
        unusual: share of the sentences whose details are in forms that no rule was written for.
        harmless: share of the sentences that hold numbers and names, and no detail.
    """
    rng = random.Random(seed)
    for _ in range(n):
        text, details = "", []
        for _ in range(4):
            dice = rng.random()
            forms = HARMLESS if dice < harmless else UNUSUAL if dice < harmless + unusual else USUAL
            text, details = _add(text, details, rng.choice(forms), rng)
        yield Planted(text, details)


def _add(text: str, details: list[Detail], form: str, rng: random.Random) -> Planted:
    text += " " if text else ""
    while "{" in form:
        before, rest = form.split("{", 1)
        name, form = rest.split("}", 1)
        kind, value = _MAKERS[name](rng)
        text += before
        if kind:
            details = [*details, Detail(len(text), len(text) + len(value), kind)]
        text += value
    return Planted(text + form, details)


def _phone(rng: random.Random) -> str:
    end = f"01{rng.randrange(100):02}"
    return rng.choice((f"555-{end}", f"(555) 555-{end}", f"+1 555 555 {end}", f"555.555.{end}"))


def _card(rng: random.Random) -> str:
    first = "".join(str(rng.randrange(10)) for _ in range(15))
    digits = next(first + last for last in "0123456789" if is_card(first + last))
    return rng.choice(("", " ", "-")).join(digits[i : i + 4] for i in range(0, 16, 4))


def _email(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST).lower()}.{rng.choice(_LAST).lower()}@example.{rng.choice(('com', 'org', 'net'))}"


def _spelled(text: str) -> str:
    return " ".join(_WORDS[int(c)] if c.isdigit() else c for c in text)


def _order(rng: random.Random) -> str:
    return "-".join(str(rng.randrange(10 ** (n - 1), 10**n)) for n in rng.choice(((3, 4), (4, 3))))


def _person(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"


def _han_person(rng: random.Random) -> str:
    return rng.choice(_HAN_LAST) + rng.choice(_HAN_FIRST)


_MAKERS = {
    "phone": lambda rng: ("phone", _phone(rng)),
    "email": lambda rng: ("email", _email(rng)),
    "card": lambda rng: ("card", _card(rng)),
    "name": lambda rng: ("name", f"{rng.choice(('Mrs.', 'Mr.', 'Dr.', 'Miss'))} {_person(rng)}"),
    "address": lambda rng: ("address", f"{rng.randrange(1, 300)} {rng.choice(_STREETS)} "
                                       f"{rng.choice(('Street', 'Road', 'Lane'))}"),
    "code": lambda rng: ("code", rng.choice(("", " ")).join(str(rng.randrange(10)) for _ in range(4))),
    "han_name": lambda rng: ("name", _han_person(rng)),
    "han_address": lambda rng: ("address", f"{rng.choice(('柳树', '河边', '果园'))}路{rng.randrange(1, 99)}号"),
    "spelled_phone": lambda rng: ("phone", _spelled(f"55501{rng.randrange(100):02}")),
    "spelled_email": lambda rng: ("email", _email(rng).replace("@", " at ").replace(".", " dot ")),
    "bare_name": lambda rng: ("name", _person(rng)),
    "bare_address": lambda rng: ("address", f"{rng.choice(_STREETS)} {rng.choice(('House', 'Cottage', 'Farm'))}"),
    "bare_han_name": lambda rng: ("name", _han_person(rng)),
    "phone_end": lambda rng: ("phone", f"01{rng.randrange(100):02}"),
    "number": lambda rng: ("", f"{rng.randrange(2, 400)}"),
    "small": lambda rng: ("", f"{rng.randrange(2, 12)}"),
    "day": lambda rng: ("", f"{rng.randrange(10, 30)}"),
    "order": lambda rng: ("", _order(rng)),
}  # fmt: skip
