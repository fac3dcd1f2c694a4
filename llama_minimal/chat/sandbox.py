"""Jinja, kept from everything but the text: chat templates come with models, from anybody."""

import json
from datetime import datetime
from functools import cache
from typing import Any


class RefusedError(Exception):
    """What a template says by ``raise_exception``."""


def compile_template(source: str) -> Any:
    """Return a template of Jinja's sandbox.

    Raises:
        ImportError: if Jinja is not installed.
        ValueError: if the template has a mistake.
    """
    try:
        import jinja2
    except ImportError:
        raise ImportError("a chat template needs the library Jinja: pip install 'llama_minimal[chat]'") from None
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template has a mistake in line {error.lineno}: {error.message}") from None


def run_template(template: Any, **variables: Any) -> str:
    """Return the text that a template writes.

    Raises:
        ValueError: if it refuses the messages, or fails with them.
    """
    import jinja2

    try:
        return template.render(**variables)
    except RefusedError as refusal:
        raise ValueError(f"the chat template refuses these messages: {refusal}") from None
    except (
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        roles = ", ".join(message["role"] for message in variables["messages"])
        raise ValueError(f"the chat template fails with messages of the roles {roles}: {e}") from None


@cache
def _environment() -> Any:
    """Return the environment in which transformers runs chat templates, with the same names."""
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """Read {% generation %} … {% endgeneration %}, which marks what an assistant says, as what is inside."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json  # Jinja's own escapes for HTML
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment


def _refuse(message: object) -> None:
    raise RefusedError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
