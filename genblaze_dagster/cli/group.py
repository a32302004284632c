"""The command group: imports a subcommand when it is used, and ends every error the same way."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import click

from genblaze_dagster.cli.exit_codes import ExitCode, exit_code
from genblaze_dagster.cli.output import (
    error_document,
    print_error,
    print_json,
    tolerate_any_text,
)
from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.trust.os_errors import storage_error

_DEBUG_VARIABLE = "GENBLAZE_DEBUG"


class Entry(NamedTuple):
    """A subcommand: where it is, as `module:attribute`, and its line in the overview."""

    where: str
    summary: str


class LazyGroup(click.Group):
    """A click group whose overview costs no import and whose errors never show a traceback."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands, in the order they were declared."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None when there is none of that name."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, attribute = entry.where.split(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from the declared summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._entries.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen subcommand."""
        try:
            result = super().invoke(ctx)
            # A reader that went away may show only when the last bytes are written.
            sys.stdout.flush()
        except BrokenPipeError:
            # click would end with 1, which here means that something was found wrong. Python
            # flushes stdout once more at exit and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(ExitCode.READER_GONE)
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *unused: Any,
        **extra: Any,
    ) -> NoReturn:
        """Run the command line and exit with the status docs/cli.md promises."""
        tolerate_any_text()
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            status = super().main(arguments, prog_name, *unused, **extra)
        except BaseException as error:
            if isinstance(error, SystemExit) or os.environ.get(_DEBUG_VARIABLE):
                raise
            status = _end(error, as_json=_wants_json(arguments))
        sys.exit(status if isinstance(status, int) else ExitCode.OK)


def _wants_json(arguments: Sequence[str]) -> bool:
    # The parser itself may be what failed, so this looks for the flag by hand.
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _end(error: BaseException, *, as_json: bool) -> ExitCode:
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        print_error("interrupted")
        return ExitCode.INTERRUPTED
    if isinstance(error, OSError):
        error = storage_error(error)
    code, message = _explain(error)
    if isinstance(error, click.UsageError) and not as_json and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
    if as_json:
        print_json({"error": error_document(error, message)})
    print_error(message)
    return code


def _explain(error: BaseException) -> tuple[ExitCode, str]:
    if isinstance(error, GenblazeError):
        return exit_code(error), str(error)
    if isinstance(error, click.ClickException):
        return ExitCode.USAGE, error.format_message()
    return ExitCode.INTERNAL, (
        f"internal error, {type(error).__name__}: {error}; "
        f"set {_DEBUG_VARIABLE}=1 to see where, and please report it"
    )
