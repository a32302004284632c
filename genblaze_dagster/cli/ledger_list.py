"""`genblaze-dagster ledger list`: submissions, newest first, with counts and sums."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import click
from rich.table import Table
from rich.text import Text

from genblaze_dagster.cli import ledger_words as words
from genblaze_dagster.cli.ledger_options import Moment, Span, ledger_option
from genblaze_dagster.cli.ledger_records import Records, Totals, Wanted
from genblaze_dagster.cli.output import (
    json_option,
    print_json,
    print_lines,
    printable,
    stdout_console,
)
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState

# What databases count to.
_MOST_ROWS: Final = 2**63 - 1


@click.command(name="list")
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in SubmissionState]),
    multiple=True,
    help="In this state. Repeatable.",
)
@click.option("--asset", "asset_key", metavar="KEY", help="Of this asset, such as story/image.")
@click.option("--partition", "partition_key", metavar="KEY", help="Of this partition.")
@click.option("--scope", metavar="ID", help="Created in this run or backfill.")
@click.option("--provider", metavar="NAME", help="Sent to this provider.")
@click.option("--model", metavar="NAME", help="Asking this model.")
@click.option("--since", type=Moment(), help="Created then or later: 24h, 7d, 2026-05-06.")
@click.option("--until", type=Moment(), help="Created before that.")
@click.option(
    "--expiring",
    type=Span(),
    help="Open, with outputs that the vendor deletes within this time (24h) or has deleted.",
)
@click.option("--stuck", is_flag=True, help="Open, and nobody works on it.")
@click.option(
    "--limit",
    type=click.IntRange(1, _MOST_ROWS),
    default=50,
    show_default=True,
    metavar="N",
    help="At most so many; the last line counts all.",
)
@ledger_option
@json_option
def list_(
    states: Sequence[str],
    expiring: timedelta | None,
    stuck: bool,
    limit: int,
    ledger_url: str | None,
    as_json: bool,
    **equal: Any,
) -> None:
    """List submissions, newest first.

    \b
    genblaze-dagster ledger list --state held
    genblaze-dagster ledger list --stuck --since 7d
    genblaze-dagster ledger list --expiring 24h
    """
    with Records(ledger_url) as records:
        now = records.now()
        wanted = Wanted(
            states=tuple(SubmissionState(state) for state in states),
            expires_before=None if expiring is None else now + expiring,
            idle_at=now if stuck else None,
            **equal,
        )
        rows = records.newest(wanted, limit=limit)
        totals = records.totals(wanted)
        name = records.name
    if as_json:
        print_json(
            {
                "ledger": name,
                "submissions": [words.document(row, now) for row in rows],
                "totals": words.totals_document(totals),
            }
        )
        return
    _print(rows, totals, now, with_expiry=expiring is not None)


def _print(rows: Sequence[LedgerRow], totals: Totals, now: datetime, *, with_expiry: bool) -> None:
    if rows:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("id", "state", "asset", "provider/model", "try", "age", "cost", "job"):
            is_id = name == "id"
            table.add_column(name, no_wrap=True, min_width=12 if is_id else None)
        if with_expiry:
            table.add_column("outputs until", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row, now, with_expiry=with_expiry))
        stdout_console().print(table)
    lines = [Text(words.totals_line(totals))]
    if (hidden := totals.count - len(rows)) > 0:
        lines.append(Text(f"{hidden:,} older ones are not shown; --limit shows more", style="dim"))
    print_lines(lines)


def _cells(row: LedgerRow, now: datetime, *, with_expiry: bool) -> list[Text]:
    # An open submission on which nobody works looks like one that is under way; it is not.
    state = f"{row.state}, stuck" if words.is_idle(row, now) else str(row.state)
    cells = [
        Text(words.short_id(row)),
        Text(state, style=words.style_of(row.state)),
        Text(printable(words.where(row))),
        Text(printable(f"{row.provider}/{row.model}")),
        Text(str(row.attempt)),
        Text(words.span(now - row.created_at)),
        Text(words.cost(row)),
        Text(printable(row.job_id or "-")),
    ]
    if with_expiry:
        cells.append(Text(words.moment(row.outputs_expire_at, now)))
    return cells
