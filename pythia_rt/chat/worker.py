"""The program that renders a checkpoint's chat templates, in a process of its own (sandbox.py).

It reads requests from standard input and writes answers to standard output, a line of JSON each.
Nothing of pythia_rt is imported here, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from datetime import datetime
from typing import Any

MAX_BYTES_OF_MEMORY = 1 << 30  # of addresses, where the system can bound them
MAX_CHARACTERS = 8 << 20  # of what a template writes
OLDEST_JINJA = (3, 1, 6)  # there are known ways out of the sandbox of those before


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who waits for the answer
    sys.path[:] = json.loads(sys.stdin.readline())
    answers, sys.stdout = sys.stdout, sys.stderr
    problem = _problem()
    if not problem:
        _bound_memory()
    _write(answers, {"problem": problem})
    for line in sys.stdin:
        request = json.loads(line)
        _bound_time(request["seconds"])
        answer = _answer(request)
        _bound_time(0)
        _write(answers, answer)


def _problem() -> str:
    """What hinders rendering, or nothing."""
    try:
        import jinja2
    except ImportError:
        return "missing"
    numbers = [int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit()]
    return "" if tuple(numbers) >= OLDEST_JINJA else f"old {jinja2.__version__}"


def _bound_time(seconds: float) -> None:
    """End this process after so much more of the processor's time; 0 for never.

    By a signal that Python does not handle: a single operation may be what does not end.
    """
    with contextlib.suppress(AttributeError):  # on Windows, where who waits is all that bounds it
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _bound_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # on Windows, or bounded already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES_OF_MEMORY, MAX_BYTES_OF_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _write(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the texts of the request's renderings, or what went wrong."""
    import jinja2

    try:
        environment = _environment()
        template = environment.from_string(request["template"])
        if request["literals"]:
            return {"literals": _literals(environment, request["template"])}
        return {"text": _render(template, request["values"])}
    except jinja2.TemplateSyntaxError as error:
        return {"kind": "syntax", "error": f"{error.message} in line {error.lineno}"}
    except jinja2.TemplateError as error:
        return {"kind": "refused", "error": str(error)}
    except MemoryError:
        return {"kind": "memory", "error": ""}
    except RecursionError:
        return {"kind": "recursion", "error": ""}
    except Exception as error:
        return {"kind": "failed", "error": f"{type(error).__name__}: {error}"}


def _render(template: Any, values: dict[str, Any]) -> str:
    pieces, length = [], 0
    for piece in template.generate(**values):
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise MemoryError
        pieces.append(piece)
    return "".join(pieces)


def _literals(environment: Any, template: str) -> list[str]:
    """Return the texts that stand in a template itself."""
    import jinja2.nodes as nodes

    tree = environment.parse(template)
    found = [node.data for node in tree.find_all(nodes.TemplateData)]
    found += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return found


def _environment() -> Any:
    """Return what templates are written for: transformers' environment.

    Source: huggingface/transformers 5.24, utils/chat_template_utils.py (its behaviour).
    """
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox
    import jinja2.utils

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks what the model writes; it changes no text."""

        tags = {"generation"}  # noqa: RUF012, the name and kind are jinja2's

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    class Dictionary:
        def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
            return dict(*args, **values)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args: Any, **values: Any) -> None:
            self, args = args[0], args[1:]
            values = dict(*args, **values)
            for name in values:
                _check_name(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    def _check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace may not hold {name!r}")

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=strftime_now,
        namespace=Namespace,
        dict=Dictionary(),
    )
    return environment


if __name__ == "__main__":
    main()
