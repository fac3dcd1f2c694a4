"""Out of doors: a storm, a journey, a sound in the night, a garden, a contest."""

from llama_minimal.data.valley.tale import Tale


def storm(t: Tale) -> None:
    """A storm comes while someone is out; a friend goes to look; something is broken, and perhaps mended."""
    a, b, c = t.characters(3)
    p, q, r = t.place("house"), t.place("house"), t.place(outside=True)
    t.time = t.dice.choice(["noon", "afternoon"])
    t.begin(a, p)
    t.put(b, p)
    if t.maybe(0.5):
        t.do("meet", a=a, b=b, p=p)
    t.put(c, r)
    clouds = t.do("clouds", p=p)
    storm = t.do("storm", p=p, because=clouds)
    t.do("missing", b=b, c=c, because=storm)
    t.scene()
    t.do("search", a=a, b=b, c=c, because=storm)
    t.do("stuck", c=c, p=r, because=storm)
    t.do("rescue", a=a, c=c, p=r)
    t.do("shelter", a=a, c=c, q=q, because=storm)
    if t.maybe(0.5):
        t.do("thank", a=c, b=a)
    damage = t.one("damage")
    broken = t.do("break", damage=damage, p=q, because=storm)
    t.later()
    t.do("calm", p=q)
    if t.maybe(0.65):
        t.do("repair", a=a, b=c, damage=damage, p=q, because=broken)
        t.close(a, 1)
    else:
        t.do("leave_broken", damage=damage, p=q)
        t.feel(a, "sad" if t.maybe(0.5) else "tired", because=broken)
        t.close(a, -1 if t.state.feels[a] == "sad" else 0)


def journey(t: Tale) -> None:
    """Someone sets out for a far place, and something is in the way."""
    a, b = t.characters(2)
    p, q, r = t.place(outside=True), t.place("far"), t.place(outside=True)
    x = t.owns(a, "basket", "map", "umbrella", "scarf", "boots", "lantern", "blanket", "coat", "rope", "telescope")
    relative, obstacle = t.one("relatives"), t.one("obstacles")
    t.time = "morning"
    t.begin(a, p)
    wish = t.do("reason", a=a, relative=relative, q=q)
    t.do("pack", a=a, x=x, food=t.one("foods"), because=wish)
    if t.maybe(0.5):
        t.feel(a, t.dice.choice(["excited", "curious"]), because=wish)
    t.scene()
    t.do("pass", a=a, p=r)
    if t.maybe(0.5):
        t.do("sight", p=r)
    blocked = t.do("blocked", a=a, p=r, obstacle=obstacle)
    if t.maybe(0.8):
        helped = t.do("help_over", b=b, a=a, p=r, obstacle=obstacle, because=blocked)
        t.do("thank", a=a, b=b, because=helped)
        t.later(t.dice.between(1, 3))
        t.do("arrive", a=a, q=q, relative=relative)
        t.close(a, 1)
    else:
        t.later(2)
        t.do("turn_back", a=a, q=q, because=blocked)
        if t.maybe(0.5):
            t.close(a, -1)
        else:
            t.feel(a, "thoughtful")
            t.close(a, 0)


def night_noise(t: Tale) -> None:
    """A sound in the night, two brave friends, and what it was."""
    a, b, c = t.characters(3)
    p, q = t.place(), t.place()
    sound = t.one("sounds")
    t.time = "night"
    t.begin(a, p)
    heard = t.do("night_sound", a=a, sound=sound, p=p)
    if t.maybe(0.4):
        t.feel(a, "afraid", because=heard)
    t.do("wake", a=a, b=b, p=p, because=heard)
    t.scene()
    t.do("creep", a=a, b=b, q=q, because=heard)
    if t.maybe(0.75):
        t.put(c, q)
        t.do("find_out", a=a, c=c, sound=sound, q=q)
        if t.maybe(0.5):
            t.feel(a, "relieved", because=len(t.events) - 1)
        t.do("laugh", a=a, c=c)
        t.close(a, 1)
    else:
        t.do("not_found", a=a, sound=sound)
        t.do("comfort", b=b, a=a)
        t.next_day()
        t.close(a, 0)


def garden(t: Tale) -> None:
    """Seeds, patience and a harvest, or a dry summer."""
    a, b = t.characters(2)
    p = t.place(outside=True)
    plant = t.one("plants")
    t.begin(a, p)
    planted = t.do("plant", a=a, plant=plant, p=p)
    t.do("wait", a=a, plant=plant)
    t.scene()
    if t.maybe(0.6):
        t.do("help_water", b=b, a=a, plant=plant, p=p, because=planted)
        t.do("thank", a=a, b=b)
    else:
        t.put(b, p)
        t.do("meet", a=a, b=b, p=p)
    if t.maybe(0.25):
        t.next_day()
        failed = t.do("fail", a=a, plant=plant)
        t.feel(a, "sad", because=failed)
        if t.maybe(0.5):
            t.do("comfort", b=b, a=a)
            t.close(a, 0)
        else:
            t.close(a, -1)
        return
    t.next_day()
    t.do("sprout", plant=plant, p=p)
    if t.maybe(0.6):
        birds = t.do("birds", plant=plant, a=a)
        t.do("guard", a=a, plant=plant, p=p, because=birds)
    t.later(2)
    t.do("harvest", a=a, b=b, plant=plant, p=p)
    t.do("eat", a=a, b=b, food=t.one("foods"))
    t.close(a, 1)


def contest(t: Tale) -> None:
    """Two neighbors practice; one wins; the other is glad for the winner, or not yet."""
    a, b = t.characters(2)
    p, q = t.place(outside=True), t.place(outside=True)
    contest = t.one("contests")
    t.begin(a, p)
    t.do("contest", contest=contest, p=q)
    t.do("enter", a=a, b=b, contest=contest)
    t.do("practice", a=a if t.maybe(0.5) else b, contest=contest)
    t.next_day()
    t.do("start", a=a, b=b, contest=contest, p=q)
    winner, loser = (a, b) if t.maybe(0.5) else (b, a)
    won = t.do("win", a=winner, b=loser, contest=contest)
    t.feel(loser, "disappointed" if t.maybe(0.7) else "jealous", because=won)
    if t.maybe(0.65):
        t.do("cheer", b=loser, a=winner)
        t.do("thank", a=winner, b=loser)
        t.close(winner, 1)
    else:
        t.do("sulk", b=loser, a=winner, because=won)
        t.do("go_home", a=loser)
        t.close(loser, -1)
