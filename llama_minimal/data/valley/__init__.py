"""The Llama Valley: short stories from a simulated world, with an answer key."""

from llama_minimal.data.valley.corpus import MIX, mixed
from llama_minimal.data.valley.settings import CANARIES, GENDER_BIAS, ValleySettings
from llama_minimal.data.valley.story import LANGUAGES, Story, stories, story
from llama_minimal.data.valley.tasks import TASKS, Example, examples

__all__ = [
    "CANARIES",
    "GENDER_BIAS",
    "LANGUAGES",
    "MIX",
    "TASKS",
    "Example",
    "Story",
    "ValleySettings",
    "examples",
    "mixed",
    "stories",
    "story",
]
