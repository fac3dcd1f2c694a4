"""Exercises: ``check(name, attempt)`` says whether an answer is right and, if not, which mistake it is.

An exercise is data: the right answer, the cases to try it on, and the mistakes that are known, each with its diagnosis.
What no known mistake explains goes through predicates, which look at the numbers (``values``, ``places``, ``shapes``)
and at what they depend on (``probes``). ``case(name, i)`` returns the inputs on which an answer was tried.
"""

from llama_minimal.course.exercises.registry import CHAPTERS, Exercise, case, exercises, find
from llama_minimal.course.exercises.verdict import Verdict, check, diagnose, judge

__all__ = ["CHAPTERS", "Exercise", "Verdict", "case", "check", "diagnose", "exercises", "find", "judge"]
