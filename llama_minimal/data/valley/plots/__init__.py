"""The shapes of stories.

A plot is a function of a ``Tale``: it chooses who and what, and lets events happen. How they are told is not its
business.
"""

from llama_minimal.data.valley.plots import adventures, friends, town

# Name -> plot.
PLOTS = {
    plot.__name__: plot
    for plot in (
        friends.lost_and_found,
        friends.quarrel,
        friends.promise,
        friends.secret,
        friends.newcomer,
        friends.present,
        adventures.storm,
        adventures.journey,
        adventures.night_noise,
        adventures.garden,
        adventures.contest,
        town.market_day,
        town.sick_day,
        town.council,
        town.workshop,
    )
}
