"""Applications: what a language model is tuned to do, each with examples, a score and baselines that only count.

``application("sentiment")`` returns one. Each module holds an ``APPLICATION`` and is loaded when it is first asked for.
"""

from importlib import import_module

from llama_minimal.applications.base import Application, Example, Predictor, Result

__all__ = ["APPLICATIONS", "Application", "Example", "Predictor", "Result", "application"]

APPLICATIONS = ("generation", "dialogue", "sentiment", "translation", "question_answering", "code", "reports")


def application(name: str) -> Application:
    """Return an application by its name.

    Raises:
        ValueError: if there is none of this name.
    """
    if name in APPLICATIONS:
        return import_module(f"{__name__}.{name}").APPLICATION
    found = _outside()
    if name not in found:
        raise ValueError(f"application={name!r} is not one of {', '.join((*APPLICATIONS, *found))}")
    return found[name]


def _outside() -> dict[str, Application]:
    """Return the applications of other installed packages, by name."""
    return {}
