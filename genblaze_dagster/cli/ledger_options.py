"""Options that every `ledger` command has, and how times are written."""

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.output import error_document, print_error, print_json, printable
from genblaze_dagster.errors import LedgerError

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION: Final = re.compile(r"(\d{1,9})([smhdw])")
_LONGEST: Final = timedelta(days=100 * 366)

ledger_option = click.option(
    "--ledger",
    "ledger_url",
    metavar="URL",
    help="The ledger: a path, sqlite:///path or postgresql+psycopg://host/database. "
    "GENBLAZE_LEDGER, else .genblaze/ledger.db.",
)
yes_option = click.option("--yes", is_flag=True, help="Ask nobody.")


class Span(click.ParamType):
    """A length of time: `90s`, `30m`, `24h`, `7d`, `2w`."""

    name = "span"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return it."""
        if isinstance(value, timedelta):
            return value
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no length of time; write 90s, 30m, 24h, 7d or 2w", param, ctx)
        seconds = int(found[1]) * _SECONDS[found[2]]
        if seconds > _LONGEST.total_seconds():
            # No calendar reaches so far from now in both directions.
            self.fail(f"{value!r} is longer than 100 years; give a shorter time", param, ctx)
        return timedelta(seconds=seconds)


class Moment(click.ParamType):
    """A point in time: ISO 8601, UTC unless it names a zone, or so long ago as a `Span`."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return it, with a zone."""
        if isinstance(value, datetime):
            return value
        try:
            if _DURATION.fullmatch(str(value)):
                return datetime.now(UTC) - Span().convert(value, param, ctx)
            given = datetime.fromisoformat(str(value))
            known = given if given.tzinfo is not None else given.replace(tzinfo=UTC)
            # The first and the last hours of the calendar may be outside of it in UTC.
            return known.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time; write 2026-05-06, 2026-05-06T07:08 or 24h", param, ctx
            )


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal before something is recorded that cannot be taken back.

    Raises:
        UsageError: there is nobody to ask.
        Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here; give --yes")
    click.confirm(printable(question), abort=True, err=True)


def refuse(problem: str, *, as_json: bool) -> ExitCode:
    """Say why a submission is left as it is, and return the exit status."""
    error = LedgerError(problem)
    if as_json:
        print_json({"error": error_document(error)})
    print_error(problem)
    return ExitCode.FAILED
