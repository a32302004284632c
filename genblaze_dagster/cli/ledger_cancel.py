"""`genblaze-dagster ledger cancel`: stop jobs at their vendors, and say so in the ledger."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import click
from rich.text import Text

from genblaze_dagster.cli import ledger_words as words
from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.ledger_options import confirm, ledger_option, yes_option
from genblaze_dagster.cli.ledger_records import Records
from genblaze_dagster.cli.output import json_option, print_json, print_lines, printable
from genblaze_dagster.errors import GenblazeError, LedgerError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.protocol import HasAccount
from genblaze_dagster.providers.registry import resolve_provider

_ASK_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Options:
    local: bool
    force: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one submission; `problem` None when it is cancelled."""

    row: LedgerRow
    vendor: str
    problem: str | None = None

    def document(self, now: datetime) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **words.document(self.row, now),
            "cancelled": self.problem is None,
            "vendor": self.vendor,
            "problem": self.problem,
        }

    def line(self) -> Text:
        """Return it for people."""
        name = f"{words.short_id(self.row)}  {printable(words.where(self.row))}  "
        if self.problem is None:
            return Text.assemble(name, ("cancelled", "green"), f"  {printable(self.vendor)}")
        return Text.assemble(name, ("not cancelled", "red"), f"  {printable(self.problem)}")


@click.command()
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--local", is_flag=True, help="Ask no vendor: record that nobody waits for it any more."
)
@click.option(
    "--force", is_flag=True, help="Record it also when the vendor cannot be asked or says no."
)
@yes_option
@ledger_option
@json_option
@click.pass_context
def cancel(
    ctx: click.Context,
    names: Sequence[str],
    local: bool,
    force: bool,
    yes: bool,
    ledger_url: str | None,
    as_json: bool,
) -> None:
    """Ask vendors to stop open jobs, and record it.

    The vendor's key is taken from the environment, as in a run. When the vendor does not confirm,
    the submission stays as it is: the job may go on and be billed, and can still be fetched. A
    cancelled submission is failed; a retry of its run submits it again.
    """
    with Records(ledger_url) as records:
        rows = [records.one(name) for name in dict.fromkeys(names)]
        now, url = records.now(), records.url
    options = _Options(local, force)
    count = f"{len(rows)} submission" + ("s" if len(rows) > 1 else "")
    confirm(f"Cancel {count}? What was paid is not paid back.", yes=yes)
    with Ledger(url) as ledger:
        outcomes = [_cancelled(ledger, row, options, now) for row in _distinct(rows)]
    if as_json:
        print_json({"submissions": [outcome.document(now) for outcome in outcomes]})
    else:
        print_lines([outcome.line() for outcome in outcomes])
    ctx.exit(ExitCode.FAILED if any(outcome.problem for outcome in outcomes) else ExitCode.OK)


def _distinct(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    return list({row.id: row for row in rows}.values())


def _cancelled(ledger: Ledger, row: LedgerRow, options: _Options, now: datetime) -> _Outcome:
    asked, row = row, ledger.get(row.id)
    if row.attempt != asked.attempt:
        # Somebody was asked for long: this attempt's job is not the one that was meant.
        again = f"attempt {row.attempt} began meanwhile; give the command again to cancel that one"
        return _Outcome(row, "not asked", again)
    problem = _problem(row, options, now)
    if problem is not None:
        return _Outcome(row, "not asked", problem)
    vendor, confirmed = _at_vendor(row, options)
    if not (confirmed or options.force):
        unchanged = f"{vendor}; it is unchanged and may go on, --force gives it up all the same"
        return _Outcome(row, vendor, unchanged)
    try:
        changed = ledger.cancelled(row.id, f"cancelled by a person: {vendor}")
    except LedgerError as exc:
        return _Outcome(ledger.get(row.id), vendor, str(exc))
    return _Outcome(changed, vendor)


def _problem(row: LedgerRow, options: _Options, now: datetime) -> str | None:
    """Say why there is nothing to cancel, or why it would do harm."""
    match row.state:
        case SubmissionState.STORED | SubmissionState.FAILED:
            return f"it is {row.state}: there is nothing to cancel"
        case SubmissionState.HELD:
            return f"it is held; genblaze-dagster ledger resolve {words.short_id(row)} decides it"
        case SubmissionState.INTENDED if not words.is_idle(row, now):
            return "it is being submitted right now; cancel its run in Dagster, or wait a moment"
        case SubmissionState.INTENDED if row.is_unanswered and not options.force:
            return (
                "the answer to its submit was not recorded, and it may be paid; look it up at "
                f"{row.provider}, and give it up with --force"
            )
        case SubmissionState.SUCCEEDED if not options.local:
            return (
                f"the job is done and paid; genblaze-dagster ledger resume {words.short_id(row)} "
                "fetches it, --local gives it up"
            )
        case _ if (host := words.spool_host(row)) is not None and not options.local:
            return (
                f"its result is paid and kept on {host}, where a run of the asset "
                "stores it; --local gives it up"
            )
        case _:
            return None


def _at_vendor(row: LedgerRow, options: _Options) -> tuple[str, bool]:
    """Return what the vendor says, and whether the job is certainly stopped."""
    if options.local:
        return f"{row.provider} was not asked", True
    if row.is_unanswered:
        return f"whether {row.provider} has a job of it is not known", True
    if row.job_id is None:
        return f"{row.provider} has no job of it", True
    try:
        confirmed = run_sync(_ask(row, row.job_id))
    except TimeoutError:
        return f"{row.provider} did not answer within {_ASK_SECONDS:g} s", False
    except GenblazeError as exc:
        return f"{row.provider} could not be asked: {redact(str(exc))}", False
    except Exception as exc:
        # An adapter of anybody's: what it raises is about this job, and others are cancelled too.
        return f"{row.provider} could not be asked: {type(exc).__name__}", False
    if confirmed:
        return f"{row.provider} confirms that job {row.job_id} is stopped", True
    return f"{row.provider} does not confirm that job {row.job_id} is stopped", False


async def _ask(row: LedgerRow, job_id: str) -> bool:
    provider = resolve_provider(row.provider)
    try:
        account = provider.account if isinstance(provider, HasAccount) else None
        if None not in (account, row.account) and account != row.account:
            raise LedgerError(
                f"the job belongs to account {row.account}, and the key in the environment to "
                f"{account}; set the key that submitted it"
            )
        async with asyncio.timeout(_ASK_SECONDS):
            return await provider.cancel(job_id)
    finally:
        await provider.aclose()
