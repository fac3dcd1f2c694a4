"""Reports in three professional styles: the vet's record, the market ledger, the council's ruling."""

from typing import NamedTuple

from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.english import English
from llama_minimal.data.valley.story import Story
from llama_minimal.data.valley.world import CHARACTERS


class Report(NamedTuple):
    """A report as text and as fields; both say the same."""

    style: str  # medical, finance, legal
    title: str
    text: str
    fields: dict[str, str | int]


def report(story: Story, dice: Dice) -> Report | None:
    """Return the report that a story calls for, if any."""
    makers = {"sick_day": _vet, "market_day": _ledger, "council": _ruling}
    return makers[story.shape](story, dice) if story.shape in makers else None


def _roles(story: Story, *kinds: str) -> dict[str, str | int]:
    roles: dict[str, str | int] = {}
    for event in story.events:
        if event.kind in kinds:
            roles |= event.roles
    return roles


def _say(story: Story, dice: Dice, section: str, roles: dict) -> str:
    telling = English(story.things, story.jobs, dice)
    telling.introduced.update(story.characters)
    telling.roles = roles
    return telling.say(dice.choice(telling.book.phrases[f"report {section}"]))


def _word(story: Story, roles: dict, role: str) -> str:
    telling = English(story.things, story.jobs, Dice(0))
    telling.roles = roles
    return telling.word(role, "")


def _vet(story: Story, dice: Dice) -> Report:
    kinds = {event.kind for event in story.events}
    roles = _roles(story, "ill", "examine", "temperature", "cure")
    roles["outcome"] = "recovered" if "recover" in kinds else "not recovered"
    fields = {
        "patient": roles["a"],
        "species": CHARACTERS[roles["a"]].species,
        "sign": roles["sign"],
        "diagnosis": roles["illness"],
        "treatment": roles["cure"],
        "dose": f"{_word(story, roles, 'doses')} a day",
        "days": roles["days"],
        "vet": roles["c"],
        "outcome": roles["outcome"],
    }
    if "degrees" in roles:
        fields["temperature"] = roles["degrees"]
    had = {"recovered": "has recovered", "not recovered": "has not recovered"}[roles["outcome"]]
    measured = _say(story, dice, "temperature", roles) if "degrees" in roles else ""
    text = _say(story, dice, "vet", {**roles, "temperature": measured, "outcome": had})
    return Report("medical", "Record", text, fields)


def _ledger(story: Story, dice: Dice) -> Report:
    roles = _roles(story, "stall")
    sold = [event.roles for event in story.events if event.kind == "buy"]
    spent = next((event.roles for event in story.events if event.kind == "spend"), None)
    total = sum(sale["sum"] for sale in sold)
    left = total - (spent["sum"] if spent else 0)
    fields: dict[str, str | int] = {name: roles[role] for name, role in (("seller", "a"), ("goods", "goods"))}
    fields |= {"brought": roles["count"], "price": roles["price"]}
    for number, sale in enumerate(sold, start=1):
        fields[f"sale {number}"] = f"{sale['pieces']} to {sale['b']} for {sale['sum']}"
    fields["total"] = total
    if spent:
        fields["spent"] = f"{spent['sum']} for {spent['x']}"
    fields["balance"] = left
    roles["sales"] = "".join(_say(story, dice, "sale", sale) for sale in sold) or "No sales. "
    roles["spent"] = _say(story, dice, "spent", spent) if spent else ""
    return Report("finance", "Ledger", _say(story, dice, "ledger", {**roles, "total": total, "left": left}), fields)


def _ruling(story: Story, dice: Dice) -> Report:
    roles = _roles(story, "rule")
    accepted = any(event.kind == "accept" for event in story.events)
    roles["outcome"] = "accepted" if accepted else "not accepted"
    fields = {
        "parties": f"{roles['a']} and {roles['b']}",
        "matter": _word(story, roles, "matter"),
        "judge": roles["c"],
        "ruling": _word(story, roles, "ruling"),
        "fine": roles["coins"],
        "outcome": roles["outcome"],
    }
    return Report("legal", "Ruling", _say(story, dice, "ruling", roles), fields)
