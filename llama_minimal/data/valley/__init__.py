"""The Llama Valley: short stories from a simulated world, with an answer key."""

from llama_minimal.data.valley.settings import CANARIES, GENDER_BIAS, ValleySettings
from llama_minimal.data.valley.story import LANGUAGES, Story, stories, story

__all__ = ["CANARIES", "GENDER_BIAS", "LANGUAGES", "Story", "ValleySettings", "stories", "story"]
