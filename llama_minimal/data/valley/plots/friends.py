"""Among friends: lost and found, a quarrel, a promise, a secret, a newcomer, a present."""

from llama_minimal.data.valley.tale import Tale


def lost_and_found(t: Tale) -> None:
    """Something is lost, looked for, and found, or not."""
    a, b = t.characters(2)
    p, q = t.place(outside=True), t.place()
    x = t.owns(a)
    t.begin(a, p)
    t.do("own", a=a, x=x)
    if t.maybe(0.5):
        t.do("play", a=a, x=x)
    lost = t.do("lose", a=a, x=x, p=p)
    t.go(a, q)
    t.scene()
    noticed = t.do("notice", a=a, x=x, q=q, because=lost)
    if t.maybe(0.6):
        t.feel(a, t.dice.choice(["sad", "worried"]), because=lost)
    t.do("look", a=a, x=x, q=q, because=noticed)
    t.put(b, q)
    t.do("meet", a=a, b=b, p=q)
    asked = t.do("ask", a=a, b=b, x=x)
    if t.maybe(0.45):
        hint = t.do("hint", b=b, a=a, x=x, p=p)
        t.scene()
        t.go(a, p, because=hint)
        t.do("find", a=a, x=x, p=p)
        t.feel(a, t.dice.choice(["happy", "relieved"]), because=len(t.events) - 1)
        t.close(a, 1)
        return
    t.do("unseen", b=b, a=a, x=x)
    t.later()
    _search_together(t, a, b, x, lost=lost, asked=asked)


def _search_together(t: Tale, a: str, b: str, x: str, *, lost: int, asked: int) -> None:
    p = t.state.lies[x]
    if t.maybe(0.55):
        t.do("go_together", a=a, b=b, p=p, because=asked)
        t.do("find", a=b, x=x, p=p)
        given = t.do("give_back", b=b, a=a, x=x)
        t.do("thank", a=a, b=b, because=given)
        t.close(a, 1)
        return
    r = t.place()
    t.do("go_together", a=a, b=b, p=r, because=asked)
    t.do("look", a=a, x=x, q=r)
    t.do("give_up", a=a, x=x, because=lost)
    t.do("comfort", b=b, a=a)
    if t.maybe(0.5):
        lent = t.do("lend", b=b, a=a, y=t.owns(b))
        t.do("thank", a=a, b=b, because=lent)
        t.close(a, 0)
    else:
        t.feel(a, "sad", because=lost)
        t.close(a, -1)


def quarrel(t: Tale) -> None:
    """Two friends want one thing; angry words; a third helps them to make up, or they do not."""
    a, b, c = t.characters(3)
    p, q = t.place(), t.place()
    x = t.owns(a)
    t.begin(a, p, brief=True)
    t.do("own", a=a, x=x)
    t.put(b, p)
    t.do("meet", a=a, b=b, p=p)
    wanted = t.do("want", b=b, a=a, x=x)
    broken = t.maybe(0.5)
    cause = t.do("tug" if broken else "refuse", a=a, b=b, x=x, because=wanted)
    if t.maybe(t.settings.unkind):
        cause = t.do("unkind", a=a, b=b, insult=t.one("insults"), because=cause)
    else:
        t.do("blame", a=a, b=b, x=x, because=cause)
    t.do("part", a=a, b=b, p=q, because=cause)
    t.scene()
    if t.maybe(0.5):
        t.feel(b, t.dice.choice(["sad", "lonely", "angry"]), because=cause)
    t.do("regret", a=a, b=b, because=cause)
    t.put(c, q)
    t.do("meet", a=a, b=c, p=q)
    t.do("advise", c=c, a=a)
    t.later()
    t.go(a, p)
    sorry = t.do("sorry", a=a, b=b, because=cause)
    if t.maybe(0.75):
        t.do("forgive", b=b, a=a, because=sorry)
        if broken:
            t.do("mend", a=a, x=x)
        t.do("share", a=a, b=b, x=x)
        t.close(a, 1)
    else:
        t.do("stay_cross", b=b, a=a, because=cause)
        t.close(a, -1)


def promise(t: Tale) -> None:
    """A promise is made, something tempts, and the promise is kept, or nearly."""
    a, b, c = t.characters(3)
    p, q, r = t.place(), t.place(), t.place(outside=True)
    t.time = t.dice.choice(["morning", "noon"])
    t.begin(a, p)
    t.put(b, p)
    t.do("meet", a=a, b=b, p=p)
    task = t.one("tasks")
    promised = t.do("promise", a=a, b=b, task=task, time="evening")
    t.scene()
    t.go(a, q)
    t.put(c, q)
    t.do("meet", a=a, b=c, p=q)
    t.do("tempt", c=c, a=a, p=r)
    if t.maybe(0.55):
        t.do("remember", a=a, b=b, because=promised)
        t.do("stay", a=a, c=c, because=promised)
        t.until("evening")
        t.go(a, p, because=promised)
        kept = t.do("keep", a=a, b=b, task=task, because=promised)
        t.do("thank", a=b, b=a, because=kept)
        t.close(a, 1)
        return
    t.go(a, r)
    t.until("evening")
    forgot = t.do("forget", a=a, b=b, task=task)
    t.go(a, p, because=forgot)
    t.do("sorry", a=a, b=b, because=forgot)
    if t.maybe(0.6):
        t.next_day()
        t.do("make_up", a=a, b=b, task=task, because=forgot)
        t.close(a, 0)
    else:
        t.feel(b, "disappointed", because=forgot)
        t.feel(a, "ashamed", because=forgot)
        t.close(a, -1)


def secret(t: Tale) -> None:
    """Something is hidden as a surprise; a friend knows; the one it is for asks."""
    a, b, c = t.characters(3)
    p, q, r = t.place(), t.place(), t.place()
    x = t.owns(a)
    t.begin(a, p, brief=True)
    t.do("hide", a=a, x=x, p=p)
    t.go(a, q)
    t.put(b, q)
    t.do("meet", a=a, b=b, p=q)
    told = t.do("tell_secret", a=a, b=b, x=x, p=p)
    t.scene()
    t.put(c, r)
    t.do("go", a=b, p=r)
    t.do("meet", a=b, b=c, p=r)
    asked = t.do("ask_secret", c=c, b=b)
    if t.maybe(0.6):
        t.do("keep_secret", b=b, c=c, a=a, because=told)
        t.later()
        t.go(a, p)
        t.do("find", a=a, x=x, p=p)
        t.do("go_together" if t.state.is_true(("together", a, c)) else "call", **{"b": c, "a": a, "p": p})
        t.do("surprise", a=a, c=c, x=x, p=p)
        t.feel(c, "happy", because=len(t.events) - 1)
        t.close(c, 1)
        return
    spilled = t.do("spill", b=b, c=c, x=x, p=p, because=asked)
    t.later()
    t.go(c, p)
    t.do("take", c=c, x=x, p=p)
    t.go(a, p)
    gone = t.do("gone", a=a, x=x, p=p, because=spilled)
    t.do("call", b=b, a=a, p=p)
    t.do("sorry", a=b, b=a, because=spilled)
    if t.maybe(0.5):
        t.do("forgive", b=a, a=b)
        t.close(a, 0)
    else:
        t.feel(a, "disappointed", because=gone)
        t.close(a, -1)


def newcomer(t: Tale) -> None:
    """Someone new is lonely, until a neighbor knocks, or goes on being lonely."""
    a, b = t.characters(2)
    p, q, r = t.place(), t.place(), t.place(outside=True)
    t.begin(a, p)
    t.put(b, q)
    came = t.do("newcomer", b=b, p=q)
    t.do("shy", b=b, p=q)
    t.feel(b, "lonely", because=came)
    if t.maybe(0.75):
        t.later()
        brought = t.do("bring", a=a, b=b, food=t.one("foods"), p=q, because=came)
        t.do("thank", a=b, b=a, because=brought)
        t.do("invite", a=a, b=b, q=r)
        t.do("sight", p=r)
        t.do("belong", b=b, a=a, because=brought)
        t.close(b, 1)
    else:
        t.feel(a, "curious")
        t.later(2)
        t.go(a, q)
        t.do("meet", a=a, b=b, p=q)
        t.do("go_home", a=a)
        t.feel(b, "sad" if t.maybe(0.5) else "thoughtful")
        t.close(b, -1 if t.state.feels[b] == "sad" else 0)


def present(t: Tale) -> None:
    """A birthday comes, there is no present, and one is made or given away."""
    a, b = t.characters(2)
    p, q = t.place(), t.place()
    t.time = t.dice.choice(["morning", "noon"])
    t.begin(a, p)
    birthday = t.do("birthday", a=a, b=b, time="evening")
    worry = t.do("no_gift", a=a, b=b, because=birthday)
    if t.maybe(0.5):
        t.feel(a, "worried", because=worry)
    t.scene()
    if t.maybe(0.5):
        x = t.thing()
        t.do("make", a=a, x=x, p=p, because=birthday)
    else:
        x = t.owns(a)
        t.do("own", a=a, x=x)
    t.do("wrap", a=a, x=x)
    t.until("evening")
    t.put(b, q)
    t.go(a, q)
    given = t.do("give", a=a, b=b, x=x, because=birthday)
    if t.maybe(0.5):
        t.feel(b, t.dice.choice(["happy", "surprised"]), because=given)
    t.do("thank", a=b, b=a, because=given)
    t.close(b, 1)
