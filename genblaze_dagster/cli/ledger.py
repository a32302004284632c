"""`genblaze-dagster ledger`: what was intended, submitted, paid and stored, and what is left open."""

import click

from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.group import Entry, LazyGroup

_COMMANDS = {
    "list": Entry("genblaze_dagster.cli.ledger_list:list_", "List submissions, newest first."),
    "show": Entry("genblaze_dagster.cli.ledger_show:show", "Everything about one submission."),
    "resolve": Entry(
        "genblaze_dagster.cli.ledger_resolve:resolve", "Decide a submission that is held."
    ),
    "resume": Entry(
        "genblaze_dagster.cli.ledger_resume:resume", "Finish jobs that nobody works on."
    ),
    "cancel": Entry("genblaze_dagster.cli.ledger_cancel:cancel", "Ask vendors to stop jobs."),
    "export": Entry(
        "genblaze_dagster.cli.ledger_export:export", "Write every attempt with its cost."
    ),
}


@click.group(cls=LazyGroup, entries=_COMMANDS, invoke_without_command=True)
@click.pass_context
def ledger(ctx: click.Context) -> None:
    """What was intended, submitted, paid and stored, and what is left open.

    The ledger is --ledger, else GENBLAZE_LEDGER, else .genblaze/ledger.db below the working
    directory. A submission is named by its id, its run id, the start of either, the last group of
    its id, or the vendor's job id.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.USAGE)
