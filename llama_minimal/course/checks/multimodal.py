"""Exercises of chapter 21, pictures and sound."""

from llama_minimal.course.checks.speech_answers import EXERCISES_SPEECH
from llama_minimal.course.checks.vision_answers import EXERCISES_VISION

EXERCISES = EXERCISES_VISION | EXERCISES_SPEECH
