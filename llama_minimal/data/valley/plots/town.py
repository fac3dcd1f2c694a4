"""In town, with jobs and sums: market day, the vet, the council, the workshop."""

from llama_minimal.data.valley.tale import Tale
from llama_minimal.data.valley.world import WORLD


def market_day(t: Tale) -> None:
    """Goods, prices, coins, and what is bought with them."""
    a, b, c = t.characters(3)
    p = "market"
    goods = t.one("goods")
    price = t.dice.between(*WORLD["goods"][goods])
    count = t.dice.between(4, 12)
    t.time = "morning"
    t.begin(a, t.place())
    t.go(a, p)
    t.do("stall", a=a, goods=goods, count=count, price=price, p=p)
    if t.maybe(0.2):
        empty = t.do("no_buyers", a=a, goods=goods)
        t.later(2)
        t.do("go_home", a=a)
        t.feel(a, "disappointed", because=empty)
        t.close(a, -1)
        return
    total = 0
    last = t.dice.choice((b, c))
    for buyer in (b, c)[: 1 + (last == c)]:
        t.put(buyer, p)
        t.do("meet", a=a, b=buyer, p=p)
        pieces = count if buyer == last and t.maybe(0.25) else t.dice.between(1, count // 2)
        t.do("buy", b=buyer, a=a, goods=goods, pieces=pieces, sum=pieces * price)
        count, total = count - pieces, total + pieces * price
    t.later(2)
    if count == 0:
        t.do("sold_out", a=a, goods=goods)
    t.do("count", a=a, sum=total)
    if t.maybe(0.5):
        x = t.thing()
        t.do("spend", a=a, x=x, sum=t.dice.between(1, total))
        t.close(a, 1)
    else:
        t.do("go_home", a=a)
        t.feel(a, "tired" if t.maybe(0.6) else "happy")
        t.close(a, 1 if t.state.feels[a] == "happy" else 0)


def sick_day(t: Tale) -> None:
    """Someone is ill; the vet comes; rest and medicine help, mostly."""
    a, b = t.characters(2)
    c = t.character(job="vet")
    p = t.place()
    illness = t.one("illnesses")
    about = WORLD["illnesses"][illness]
    sign, cure = t.dice.choice(about["signs"]), t.dice.choice(about["cures"])
    days = t.dice.between(2, 7)
    t.begin(a, p)
    ill = t.do("ill", a=a, sign=sign)
    t.do("fetch", b=b, c=c, a=a, because=ill)
    t.scene()
    t.do("examine", c=c, a=a, illness=illness, p=p, because=ill)
    if t.maybe(0.6):
        t.do("temperature", c=c, a=a, degrees=t.dice.between(37, 40))
    t.do("cure", c=c, a=a, cure=cure, doses=t.dice.between(1, 3), days=days, because=ill)
    t.do("rest", a=a, days=days, because=ill)
    if t.maybe(0.5):
        visit = t.do("visit", b=b, a=a, food=t.one("foods"), p=p, because=ill)
        t.do("thank", a=a, b=b, because=visit)
    t.next_day()
    if t.maybe(0.75):
        better = t.do("recover", a=a, illness=illness)
        if t.maybe(0.4):
            t.feel(a, "happy", because=better)
        t.close(a, 1)
    else:
        still = t.do("still_ill", a=a, illness=illness)
        t.feel(a, "sad" if t.maybe(0.5) else "tired", because=still)
        t.close(a, -1 if t.state.feels[a] == "sad" else 0)


def council(t: Tale) -> None:
    """Two neighbors quarrel over what belongs to whom, and the judge rules."""
    a, b = t.characters(2)
    c = t.character(job="judge")
    p = t.place(outside=True)
    matter = t.one("matters")
    about = WORLD["matters"][matter]
    t.begin(a, p)
    t.put(b, p)
    disputed = t.do("dispute", a=a, b=b, matter=matter)
    if t.maybe(t.settings.unkind):
        t.do("unkind", a=a, b=b, insult=t.one("insults"), because=disputed)
    t.next_day()
    t.do("hearing", c=c, a=a, b=b, p="hall", because=disputed)
    t.do("speak", a=a, matter=matter)
    ruling = t.dice.choice(about["rulings"])
    coins = t.dice.between(*about["penalty"])
    ruled = t.do("rule", c=c, a=a, b=b, matter=matter, ruling=ruling, coins=coins, because=disputed)
    if t.maybe(0.7):
        t.do("accept", a=a, b=b, because=ruled)
        if t.maybe(0.5):
            t.feel(b, "relieved", because=ruled)
        t.close(a, 1 if t.maybe(0.5) else 0)
    else:
        t.do("grumble", b=b, a=a, because=ruled)
        t.feel(b, "angry", because=ruled)
        t.close(b, -1)


def workshop(t: Tale) -> None:
    """Something breaks; someone whose job it is can mend it, or cannot."""
    job = t.dice.choice(["smith", "carpenter", "tailor", "cobbler", "potter", "weaver", "baker"])
    (a,) = t.characters(1)
    c = t.character(job=job)
    p, q = t.place(), t.place("house")
    fits = {
        "smith": ["bell", "lantern", "key", "skates", "whistle", "watch", "pot", "hammer", "ring"],
        "carpenter": ["wagon", "boat", "drum", "sled", "ladder", "clock", "puppet", "fiddle", "top", "flute"],
        "tailor": ["hat", "scarf", "mittens", "coat", "apron", "gloves", "umbrella", "kite"],
        "cobbler": ["boots", "slippers", "purse", "ball", "gloves"],
        "potter": ["cup", "teapot", "pot"],
        "weaver": ["basket", "blanket", "quilt", "ribbon", "rope"],
        "baker": ["spoon", "pot", "basket", "apron", "bucket"],
    }
    x = t.owns(a, *fits[job])
    t.begin(a, p)
    t.do("own", a=a, x=x)
    cracked = t.do("crack", x=x, a=a)
    t.feel(a, "sad", because=cracked)
    t.scene()
    t.put(c, q)
    t.do("work", a=c, job=job)
    t.do("take_to", a=a, c=c, x=x, p=q, because=cracked)
    if t.maybe(0.75):
        fixed = t.do("fix", c=c, x=x)
        t.do("pay", a=a, c=c, food=t.one("foods"), because=fixed)
        t.do("thank", a=a, b=c, because=fixed)
        t.close(a, 1)
    else:
        t.do("cannot_fix", c=c, x=x)
        t.do("comfort", b=c, a=a)
        t.do("go_home", a=a)
        t.close(a, 0 if t.maybe(0.5) else -1)
