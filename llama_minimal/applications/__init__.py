"""Applications: what a language model is tuned to do, each with examples, a score and baselines that only count.

``application("sentiment")`` returns one. Each module holds an ``APPLICATION`` and is loaded when it is first asked for.
"""

from importlib import import_module

from llama_minimal import plugins
from llama_minimal.applications.base import Application, Example, Predictor, Result

__all__ = ["APPLICATIONS", "Application", "Example", "Predictor", "Result", "application"]

APPLICATIONS = ("generation", "dialogue", "sentiment", "translation", "question_answering", "code", "reports")


def application(name: str) -> Application:
    """Return an application by its name: one of ``APPLICATIONS``, or one that an installed package brings.

    A package names its own as entry points of the group ``llama_minimal.applications``.

    Raises:
        ValueError: if there is none of this name, or it cannot be used.
    """
    if name in APPLICATIONS:
        return import_module(f"{__name__}.{name}").APPLICATION
    outside = plugins.names(plugins.APPLICATIONS)
    if name not in outside:
        raise ValueError(f"application={name!r} is not one of {', '.join((*APPLICATIONS, *outside))}")
    return plugins.load(plugins.APPLICATIONS, name)
