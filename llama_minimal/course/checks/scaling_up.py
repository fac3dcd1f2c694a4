"""Exercises of chapter 22, scaling up."""

from llama_minimal.course.checks.export_answers import EXERCISES_EXPORT
from llama_minimal.course.checks.planner_answers import EXERCISES_PLANNER
from llama_minimal.course.checks.scaling_answers import EXERCISES_SCALING

EXERCISES = {**EXERCISES_SCALING, **EXERCISES_PLANNER, **EXERCISES_EXPORT}
