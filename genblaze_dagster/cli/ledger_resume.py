"""`genblaze-dagster ledger resume`: finish jobs that nobody works on, and submit nothing new."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

import click
from rich.text import Text

from genblaze_dagster.cli import ledger_words as words
from genblaze_dagster.cli.code_location import (
    file_option,
    load_definitions,
    module_option,
    workspace_option,
)
from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.ledger_batches import Progress
from genblaze_dagster.cli.ledger_options import confirm, ledger_option, yes_option
from genblaze_dagster.cli.ledger_records import Records, Wanted
from genblaze_dagster.cli.output import json_option, print_json, print_lines, printable
from genblaze_dagster.ledger.submission import OPEN_STATES, LedgerRow, SubmissionState
from genblaze_dagster.net.loop import run_sync

_WITH_JOB: Final = (SubmissionState.SUBMITTED, SubmissionState.SUCCEEDED)


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of the command, as click names them."""

    every: bool
    module: str | None
    python_file: Path | None
    workspace: Path | None
    launch_url: str | None
    location: str | None
    wait: bool
    regenerate: bool
    yes: bool
    ledger_url: str | None
    as_json: bool

    def check(self, names: Sequence[str]) -> None:
        """Refuse options that contradict each other or have no effect.

        Raises:
            UsageError: names them.
        """
        if self.every == bool(names):
            raise click.UsageError("give submissions, or --all")
        launched = self.launch_url is not None
        places = (self.module, self.python_file, self.workspace)
        if launched and any(place is not None for place in places):
            raise click.UsageError(
                "-m, -f and -w belong to a run in this process, without --launch"
            )
        if self.wait and not launched:
            raise click.UsageError("--wait belongs to --launch")
        if self.location is not None and not launched and self.workspace is None:
            raise click.UsageError("--location belongs to --launch, or to -w")


@click.command()
@click.argument("names", metavar="[ID...]", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every job that nobody works on.")
@module_option
@file_option
@workspace_option
@click.option("--launch", "launch_url", metavar="URL", help="Start runs on this Dagster webserver.")
@click.option(
    "--location",
    metavar="NAME",
    help="With --launch: the code location to use; with -w: which, when it names several.",
)
@click.option("--wait", is_flag=True, help="With --launch: follow the runs to their end.")
@click.option(
    "--regenerate",
    is_flag=True,
    help="Run also what has changed since it was submitted: it is submitted and paid again.",
)
@yes_option
@ledger_option
@json_option
@click.pass_context
def resume(ctx: click.Context, names: Sequence[str], **given: Any) -> None:
    """Finish submitted jobs that nobody works on, by the asset partitions they are for.

    Without --launch the assets are materialised in this process: from -m, -f or -w, else the
    module that [tool.dagster] of pyproject.toml names, else definitions.py. The runs poll the jobs
    and fetch their outputs; they submit nothing. What has changed since it was submitted (its
    prompt, its parameters, its inputs) is reported and left alone.

    \b
    genblaze-dagster ledger resume --all
    genblaze-dagster ledger resume 8f3a2c41d0b9 -m my_project.definitions
    genblaze-dagster ledger resume --all --launch http://localhost:3000 --wait
    """
    options = _Options(**given)
    options.check(names)
    with Records(options.ledger_url) as records:
        now = records.now()
        chosen = _chosen(records, names, now)
        refused = {row.id: problem for row in chosen if (problem := _problem(row, now))}
        rows = [row for row in chosen if row.id not in refused]
        work = _resumed(rows, records, options) if rows else Progress()
        work.problems |= refused
        after = {row.id: row for row in records.these([row.id for row in chosen])}
        outcomes = [_Outcome.of(after[row.id], work) for row in chosen]
    if options.as_json:
        print_json(_document(outcomes, work, now))
    else:
        _print(outcomes, work)
    well = all(o.is_well for o in outcomes) and all(run.is_well for run in work.runs)
    ctx.exit(ExitCode.OK if well else ExitCode.FAILED)


def _chosen(records: Records, names: Sequence[str], now: datetime) -> list[LedgerRow]:
    if names:
        rows = [records.one(name) for name in names]
        return list({row.id: row for row in rows}.values())
    return records.newest(Wanted(states=_WITH_JOB, idle_at=now), limit=None)


def _problem(row: LedgerRow, now: datetime) -> str | None:
    """Say why there is no job to finish."""
    if row.state in _WITH_JOB and words.is_idle(row, now):
        return None
    return f"it is {row.state}: {words.next_step(row, now)}"


def _resumed(rows: Sequence[LedgerRow], records: Records, options: _Options) -> Progress:
    if options.regenerate:
        question = f"Run {len(rows)} submission(s), and pay again for what has changed since?"
        confirm(question, yes=options.yes)
    if options.launch_url is None:
        from genblaze_dagster.cli.ledger_here import finish_here

        definitions = load_definitions(
            module=options.module,
            python_file=options.python_file,
            workspace=options.workspace,
            location=options.location,
        )
        return finish_here(definitions, rows, records, regenerate=options.regenerate)
    from genblaze_dagster.cli.deployment import Deployment
    from genblaze_dagster.cli.ledger_launch import launch

    return run_sync(
        launch(
            rows,
            Deployment(options.launch_url),
            location=options.location,
            wait=options.wait,
            regenerate=options.regenerate,
        )
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one submission; `problem` says why it is not finished."""

    row: LedgerRow
    what: str
    problem: str | None = None
    note: str | None = None

    @classmethod
    def of(cls, row: LedgerRow, work: Progress) -> Self:
        """Look at a submission after the runs."""
        if row.state is SubmissionState.STORED:
            return cls(row, "stored")
        if (problem := work.problems.get(row.id)) is not None:
            return cls(row, "left" if row.state in OPEN_STATES else row.state.value, problem)
        if any(run.status is None for run in work.runs):
            return cls(row, "launched")
        if row.state in OPEN_STATES and row.id in work.regenerated:
            old = f"its old job {row.job_id} is still open"
            stop = f"genblaze-dagster ledger cancel {words.short_id(row)} stops it"
            return cls(row, "submitted anew", note=f"{old}; {stop}")
        if row.state in OPEN_STATES:
            return cls(row, "left", "its run did not fetch it; the run in Dagster says why")
        return cls(row, row.state.value, f"{row.error_code or 'unknown'}: {row.error_message}")

    @property
    def is_well(self) -> bool:
        """Whether it is finished, or will be."""
        return self.problem is None

    def line(self) -> Text:
        """Return it for people."""
        style = "green" if self.is_well else "red"
        told = f"{words.cost(self.row)}  job {self.row.job_id or '-'}"
        return Text.assemble(
            f"{words.short_id(self.row)}  {printable(words.where(self.row))}  ",
            (self.what, style),
            f"  {printable(self.problem or self.note or told)}",
        )


def _document(outcomes: Sequence[_Outcome], work: Progress, now: datetime) -> dict[str, Any]:
    return {
        "submissions": [
            {**words.document(o.row, now), "outcome": o.what, "problem": o.problem}
            for o in outcomes
        ],
        "runs": [
            {"dagster_run_id": run.run_id, "status": run.status, "url": run.url}
            for run in work.runs
        ],
        "notes": list(work.notes),
    }


def _print(outcomes: Sequence[_Outcome], work: Progress) -> None:
    lines = [outcome.line() for outcome in outcomes]
    for run in work.runs:
        where = f"  {run.url}" if run.url is not None else ""
        lines.append(Text(f"run         {run.run_id}  {run.status or 'launched'}{where}"))
    lines += [Text.assemble(("note: ", "yellow"), printable(note)) for note in work.notes]
    if not outcomes:
        lines.append(Text("no job waits for anybody to fetch it"))
    print_lines(lines)
