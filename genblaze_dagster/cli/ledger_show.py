"""`genblaze-dagster ledger show`: everything the ledger knows of one submission."""

from collections.abc import Iterator, Sequence
from datetime import datetime

import click
from rich.text import Text

from genblaze_dagster.cli import ledger_words as words
from genblaze_dagster.cli.ledger_options import ledger_option
from genblaze_dagster.cli.ledger_records import Records
from genblaze_dagster.cli.output import json_option, print_json, print_lines, printable
from genblaze_dagster.ledger.callbacks import StoredCallback
from genblaze_dagster.ledger.submission import LedgerRow, PastAttempt


@click.command()
@click.argument("name", metavar="ID")
@ledger_option
@json_option
def show(name: str, ledger_url: str | None, as_json: bool) -> None:
    """Show everything about one submission, and what happens with it next.

    ID is its id or run id, the start of either, the last group of its id, or the vendor's job id.
    """
    with Records(ledger_url) as records:
        now = records.now()
        row = records.one(name)
        past = records.past_attempts(row.id)
        told = records.callbacks(row)
        scopes = records.scopes(row.id)
    if as_json:
        print_json(
            {
                **words.document(row, now),
                "past_attempts": [words.past_document(attempt) for attempt in past],
                "callbacks": [words.callback_document(callback) for callback in told],
                "serves": scopes,
                "result_keys": words.result_keys(row.result),
            }
        )
        return
    print_lines([*_lines(row, scopes, now), *_callbacks(told, now), *_attempts(past, now)])
    print_lines([Text.assemble(("next        ", "bold"), printable(words.next_step(row, now)))])


def _lines(row: LedgerRow, scopes: Sequence[str], now: datetime) -> Iterator[Text]:
    yield _fact("submission", row.id)
    yield Text.assemble("state       ", (row.state.value, words.style_of(row.state)))
    for name, value in _facts(row, scopes, now):
        if value is not None:
            yield _fact(name, value)
    for key in words.result_keys(row.result):
        yield _fact("stored", key)


def _facts(
    row: LedgerRow, scopes: Sequence[str], now: datetime
) -> Iterator[tuple[str, str | None]]:
    def at(when: datetime | None) -> str | None:
        return None if when is None else words.moment(when, now)

    estimate, lease, expires = (
        row.estimated_cost_usd,
        at(row.lease_expires_at),
        row.outputs_expire_at,
    )
    others = [scope for scope in scopes if scope != row.scope]
    yield "asset", words.where(row)
    yield "request", f"{row.provider}/{row.model}, generation {row.generation_key}"
    yield "tenant", row.tenant_id
    yield "account", row.account
    yield "run id", row.run_id
    yield "scope", row.scope
    yield "also serves", ", ".join(others) or None
    yield "created", at(row.created_at)
    yield "attempt", f"{row.attempt}, claimed {at(row.claimed_at)}"
    yield "sent", at(row.sending_at)
    yield "accepted", at(row.submitted_at)
    yield "ended", at(row.finished_at)
    yield "outputs", None if expires is None else f"until {at(expires)}"
    yield "job", row.job_id or "-"
    yield "cost", words.cost(row)
    yield "estimate", None if estimate is None else words.usd(estimate)
    yield "lease", None if lease is None else f"{row.owner}, until {lease}"
    error = row.error_message
    yield "error", None if error is None else f"{row.error_code or 'unknown'}: {error}"


def _attempts(past: Sequence[PastAttempt], now: datetime) -> Iterator[Text]:
    for attempt in past:
        job = f", job {attempt.job_id}" if attempt.job_id is not None else ""
        told = f"{attempt.error_code or 'unknown'}: {attempt.error_message or '-'}"
        ended = words.moment(attempt.finished_at, now)
        yield _fact(
            f"attempt {attempt.attempt}", f"failed {ended}{job}, {words.cost(attempt)}, {told}"
        )


def _callbacks(told: Sequence[StoredCallback], now: datetime) -> Iterator[Text]:
    for callback in told:
        state = callback.state or "in an unknown state"
        when = words.moment(callback.received_at, now)
        yield _fact("called back", f"{when} by {callback.vendor}: job {callback.job_id} {state}")


def _fact(name: str, value: str) -> Text:
    return Text(f"{name:<12}{printable(value)}")
