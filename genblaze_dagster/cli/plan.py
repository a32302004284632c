"""`genblaze-dagster plan`: what a materialization or backfill would do and cost, before it runs."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
import dagster as dg
from rich.text import Text

from genblaze_dagster.cli.code_location import (
    file_option,
    load_definitions,
    location_option,
    module_option,
    workspace_option,
)
from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.output import json_option, print_json, print_lines, printable
from genblaze_dagster.pipeline.quote import (
    WITHOUT_MEDIA,
    BudgetQuote,
    Outlook,
    Quote,
    StepQuote,
)
from genblaze_dagster.quotes import quote

_HOME_VARIABLE: Final = "DAGSTER_HOME"
_RANGE_MARK: Final = "..."
_NAMED_PARTITIONS: Final = 3
_TOLD: Final = (*WITHOUT_MEDIA, Outlook.UNDER_WAY)


@click.command()
@click.argument("selection", default="*")
@module_option
@file_option
@workspace_option
@location_option
@click.option(
    "--partition", "partitions", metavar="KEY", multiple=True, help="A partition. Repeatable."
)
@click.option(
    "--partition-range",
    "partition_range",
    metavar="FIRST...LAST",
    help="Partitions from the first to the last, in Dagster's order.",
)
@click.option("--all-partitions", is_flag=True, help="Every partition; the default.")
@click.option(
    "--scope",
    metavar="ID",
    help="The run or backfill that would be re-executed; what it has finished costs nothing.",
)
@json_option
@click.pass_context
def plan(
    ctx: click.Context,
    selection: str,
    module: str | None,
    python_file: Path | None,
    workspace: Path | None,
    location: str | None,
    partitions: Sequence[str],
    partition_range: str | None,
    all_partitions: bool,
    scope: str | None,
    as_json: bool,
) -> None:
    """Say what materializing SELECTION would do and cost. Nothing is submitted or written.

    SELECTION is Dagster's asset selection, such as `group:story`, `+key:story/video` or `*`. The
    definitions are those of -m, -f or -w, of [tool.dagster] in pyproject.toml, or definitions.py.
    The exit status is 1 when something of it would fail: refused by a budget, held, or impossible.

    \b
    genblaze-dagster plan
    genblaze-dagster plan 'group:story' --partition-range fox...owl
    genblaze-dagster plan -f definitions.py --json
    genblaze-dagster plan -w workspace.yaml --location story
    """
    given = [bool(partitions), partition_range is not None, all_partitions]
    if sum(given) > 1:
        raise click.UsageError(
            "--partition, --partition-range and --all-partitions name partitions; give one of them"
        )
    with ExitStack() as opened:
        found = quote(
            load_definitions(
                module=module, python_file=python_file, workspace=workspace, location=location
            ),
            selection=selection,
            partition_keys=partitions or None,
            partition_range=_range(partition_range),
            instance=_instance(opened),
            scope=scope,
        )
    print_json(_document(found)) if as_json else print_lines(list(_lines(found)))
    ctx.exit(ExitCode.OK if found.passes else ExitCode.FAILED)


def _range(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    first, mark, last = text.partition(_RANGE_MARK)
    if not (first and mark and last):
        raise click.UsageError(f"--partition-range {text!r} is no range; write FIRST...LAST")
    return first, last


def _instance(opened: ExitStack) -> dg.DagsterInstance | None:
    """Return the instance that knows the keys of dynamic partitions, when there is one."""
    if not os.environ.get(_HOME_VARIABLE):
        return None
    return opened.enter_context(dg.DagsterInstance.get())


def _document(found: Quote) -> dict[str, Any]:
    return {
        "assets": [_of_asset(key, part) for key, part in found.by_asset.items()],
        **_totals(found),
        "passes": found.passes,
        "budgets": [_budget(budget) for budget in found.budgets],
        "items": [_item(item) for item in found.items],
        "notes": list(found.notes),
    }


def _of_asset(key: str, part: Quote) -> dict[str, Any]:
    return {"asset_key": key, **_totals(part)}


def _totals(found: Quote) -> dict[str, Any]:
    return {
        "counts": dict(found.counts),
        "estimated_usd": found.estimated_usd,
        "unknown_count": len(found.unknown),
        "unknown_because": dict(Counter(item.reason for item in found.unknown)),
    }


def _budget(budget: BudgetQuote) -> dict[str, Any]:
    return {
        "name": budget.name,
        "of": str(budget.key),
        "limit_usd": budget.limit_usd,
        "spent_usd": budget.spent_usd,
        "left_usd": budget.left_usd,
        "wanted_usd": budget.wanted_usd,
        "unknown_count": budget.unknown,
        "fits": budget.fits,
    }


def _item(item: StepQuote) -> dict[str, Any]:
    return {
        "asset_key": item.asset_key,
        "partition_key": item.partition_key,
        "provider": item.provider,
        "model": item.model,
        "outlook": item.outlook.value,
        "cost_usd": item.cost_usd,
        "reason": item.reason,
    }


def _lines(found: Quote) -> Iterator[Text]:
    width = max(len("in all"), *(len(key) for key in found.by_asset)) + 2
    for key, part in found.by_asset.items():
        yield _line(printable(key).ljust(width), part)
    if len(found.by_asset) > 1:
        yield _line("in all".ljust(width), found)
    for budget in found.budgets:
        yield _budget_line(budget)
    for (outlook, reason), items in _grouped(found.items).items():
        style = "red" if outlook in WITHOUT_MEDIA else "yellow"
        yield Text.assemble(
            (f"{outlook.value.replace('_', ' ')}: ", style), f"{_named(items)}: {printable(reason)}"
        )
    for note in found.notes:
        yield Text.assemble(("note: ", "yellow"), printable(note))


def _line(name: str, part: Quote) -> Text:
    counts = "  ".join(
        f"{count} {outlook.value.replace('_', ' ')}"
        for outlook in Outlook
        if (count := part.counts.get(outlook.value))
    )
    line = Text.assemble((name, "bold"), f"{counts}  about ${part.estimated_usd:.4f}")
    for reason, count in Counter(item.reason for item in part.unknown).items():
        line.append(f", and {count} of unknown price ({printable(reason or '')})", "yellow")
    return line


def _budget_line(budget: BudgetQuote) -> Text:
    verdict = ("fits", "green") if budget.fits else ("does not fit", "red")
    unknown = f" and {budget.unknown} of unknown price" if budget.unknown else ""
    named = budget.name if budget.name in str(budget.key) else f"{budget.name} ({budget.key})"
    return Text.assemble(
        f"budget {printable(named)}: ${budget.left_usd:.4f} of ${budget.limit_usd:.4f} left, "
        f"${budget.wanted_usd:.4f}{unknown} wanted: ",
        verdict,
    )


def _grouped(items: Sequence[StepQuote]) -> Mapping[tuple[Outlook, str], list[StepQuote]]:
    """Return what would fail or wait, by why."""
    groups: dict[tuple[Outlook, str], list[StepQuote]] = {}
    for item in items:
        if item.outlook in _TOLD:
            groups.setdefault((item.outlook, item.reason or ""), []).append(item)
    return groups


def _named(items: Sequence[StepQuote]) -> str:
    names = [
        item.asset_key if item.partition_key is None else f"{item.asset_key}[{item.partition_key}]"
        for item in items[:_NAMED_PARTITIONS]
    ]
    more = len(items) - len(names)
    return printable(", ".join(names) + (f" and {more} more" if more else ""))
