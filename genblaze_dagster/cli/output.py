"""How every command talks: results on stdout, the rest on stderr, JSON when asked.

Files and buckets may come from anyone, so nothing of them reaches a terminal as a control
character, and no error message leaves without passing `redact`.
"""

import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from genblaze_dagster.net.redact import redact
from genblaze_dagster.trust.progress import Advance

# Wide enough that nothing is ever cut when the reader is a pipe, which has no width.
_PIPE_WIDTH: Final = 10_000

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, nothing else."
)
endpoint_option = click.option(
    "--endpoint-url",
    metavar="URL",
    help="S3 endpoint of s3:// and b2:// URLs; else AWS_ENDPOINT_URL or B2_ENDPOINT_URL.",
)


class _ResultConsole(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command group, which knows the exit status."""
        raise BrokenPipeError


def stdout_console() -> Console:
    """Return a console for results; colour only on a terminal and without NO_COLOR."""
    return _ResultConsole(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def print_lines(lines: Sequence[Text]) -> None:
    """Print lines of a result, none of them wrapped or cut."""
    console = stdout_console()
    for line in lines:
        console.print(line, soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print the one JSON document of a command."""
    click.echo(json_text(document))


def json_text(document: Mapping[str, Any]) -> bytes:
    """Return a document as indented JSON in UTF-8; see `json_value` for what JSON has no type for."""
    text = json.dumps(json_value(document), indent=2, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair (a file name that is not UTF-8) becomes its own JSON escape.
    return text.encode("utf-8", "backslashreplace")


def json_value(value: Any) -> Any:
    """Return a value in JSON's own types.

    Times become ISO 8601, NaN and infinities null, bytes hex, decimals numbers.
    """
    match value:
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case datetime() | date():
            return value.isoformat()
        case Decimal():
            return float(value) if value.as_tuple().exponent else int(value)
        case bytes():
            return value.hex()
        case dict():
            return {str(key): json_value(child) for key, child in value.items()}
        case list():
            return [json_value(child) for child in value]
        case _:
            return str(value)


def print_error(message: str) -> None:
    """Print `error: ...` on stderr."""
    style = "red" if sys.stderr.isatty() else ""
    shown = "\n".join(printable(line) for line in redact(message).splitlines())
    line = Text.assemble(("error: ", style), shown)
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


def error_document(error: BaseException, message: str | None = None) -> dict[str, str]:
    """Return the JSON form of an error; `message` overrules the error's own text."""
    return {"type": type(error).__name__, "message": redact(message or str(error))}


def printable(text: str) -> str:
    """Return `text` with everything that could steer a terminal shown as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tolerate_any_text() -> None:
    """Let stdout and stderr escape what their encoding lacks instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def progress(description: str, *, total: int | None, in_bytes: bool = False) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs, if stderr is a terminal; yields its advance.

    `total` None shows activity without an end; `in_bytes` prints sizes and speed.
    """
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        amount,
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(printable(description), total=total)
        yield lambda amount: bar.advance(task, amount)


def _nothing(_amount: int) -> None:
    """Stand in for a bar nobody sees."""
