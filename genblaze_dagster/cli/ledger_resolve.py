"""`genblaze-dagster ledger resolve`: a person decides what became of a lost answer."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from genblaze_dagster.cli import ledger_words as words
from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.ledger_options import confirm, ledger_option, refuse, yes_option
from genblaze_dagster.cli.ledger_records import Records
from genblaze_dagster.cli.output import json_option, print_json, print_lines, printable
from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import LedgerRow


@dataclass(frozen=True, slots=True)
class _Decision:
    """What a person found at the vendor: the job, that there is none, or that it is lost."""

    job_id: str | None
    paid_lost: bool
    cost_usd: float | None

    def question(self, row: LedgerRow) -> str:
        """Return what to ask before it is recorded."""
        what = f"{words.where(row)} at {row.provider}/{row.model}"
        if self.job_id is not None:
            return f"Is {self.job_id} the job of {what}?"
        if self.paid_lost:
            spent = "What is reserved" if self.cost_usd is None else words.usd(self.cost_usd)
            return f"{spent} is paid and lost for {what}, and the next run pays again?"
        return f"Was {what} never accepted? If it was, the next run pays a second time."

    def take(self, ledger: Ledger, row: LedgerRow) -> LedgerRow:
        """Record it."""
        return ledger.resolve(
            row.id, job_id=self.job_id, lost=self.paid_lost, cost_usd=self.cost_usd
        )


@click.command()
@click.argument("name", metavar="ID")
@click.option("--job", "job_id", metavar="JOB_ID", help="The vendor has this job for it.")
@click.option(
    "--not-submitted", is_flag=True, help="The vendor has none: the next run submits it again."
)
@click.option(
    "--paid-lost",
    is_flag=True,
    help="It was paid and cannot be fetched: the next run submits it again, and pays again.",
)
@click.option(
    "--cost",
    "cost_usd",
    type=click.FloatRange(min=0),
    metavar="USD",
    help="With --paid-lost: what was paid; else what is reserved goes on counting.",
)
@yes_option
@ledger_option
@json_option
@click.pass_context
def resolve(
    ctx: click.Context,
    name: str,
    job_id: str | None,
    not_submitted: bool,
    paid_lost: bool,
    cost_usd: float | None,
    yes: bool,
    ledger_url: str | None,
    as_json: bool,
) -> None:
    """Decide a submission whose answer was lost, after looking at the vendor.

    The vendor may have accepted and billed it, and nothing is sent again until somebody says what
    became of it. It is held, or its worker is gone and the next run would hold it.

    \b
    genblaze-dagster ledger resolve 8f3a2c41d0b9 --job vid_123
    genblaze-dagster ledger resolve 8f3a2c41d0b9 --not-submitted
    genblaze-dagster ledger resolve 8f3a2c41d0b9 --paid-lost --cost 0.40
    """
    if (job_id is not None) + not_submitted + paid_lost != 1:
        raise click.UsageError("give one of --job, --not-submitted and --paid-lost")
    if cost_usd is not None and not (paid_lost and math.isfinite(cost_usd)):
        raise click.UsageError("--cost is an amount in USD, and belongs to --paid-lost")
    # Copied with a space at its end it would be a job that the vendor does not have.
    job_id = None if job_id is None else job_id.strip()
    if job_id == "":
        raise click.UsageError("--job is empty; give the vendor's job id")
    with Records(ledger_url) as records:
        row, now = records.one(name), records.now()
        problem = _problem(row, now)
    if problem is not None:
        ctx.exit(refuse(problem, as_json=as_json))
    decision = _Decision(job_id, paid_lost, cost_usd)
    confirm(decision.question(row), yes=yes)
    ctx.exit(_decide(decision, row, ledger_url or records.url, now, as_json=as_json))


def _decide(
    decision: _Decision, row: LedgerRow, url: str, now: datetime, *, as_json: bool
) -> ExitCode:
    with Ledger(url) as ledger:
        try:
            decided = decision.take(ledger, row)
        except LedgerError as exc:
            current = ledger.get(row.id)
            if current.is_undecided(now) and current.attempt == row.attempt:
                return refuse(f"{exc}; look for another at {row.provider}", as_json=as_json)
            problem = (
                f"submission {row.id} was decided by somebody else a moment ago: it is "
                f"{current.state}; {words.next_step(current, now)}"
            )
            return refuse(problem, as_json=as_json)
    if as_json:
        print_json(words.document(decided, now))
    else:
        _print(decided, now)
    return ExitCode.OK


def _problem(row: LedgerRow, now: datetime) -> str | None:
    if row.is_undecided(now):
        return None
    return (
        f"submission {row.id} ({words.where(row)}) is {row.state}, and only a held one, or one "
        f"whose worker is gone without an answer, is to be decided; {words.next_step(row, now)}"
    )


def _print(row: LedgerRow, now: datetime) -> None:
    facts: dict[str, Any] = {
        "submission": row.id,
        "asset": words.where(row),
        "state": row.state.value,
        "cost": words.cost(row),
        "next": words.next_step(row, now),
    }
    print_lines([Text(f"{name:<12}{printable(value)}") for name, value in facts.items()])
