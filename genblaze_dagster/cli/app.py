"""The command group and its subcommands."""

import click

from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.group import Entry, LazyGroup

_COMMANDS = {
    "demo": Entry("genblaze_dagster.cli.demo:demo", "Generate, prove and query real media."),
    "verify": Entry(
        "genblaze_dagster.cli.verify:verify", "Check manifests, media files and whole stores."
    ),
    "extract": Entry(
        "genblaze_dagster.cli.extract:extract", "Print the manifest of a file or object."
    ),
    "replay": Entry(
        "genblaze_dagster.cli.replay:replay", "Look at a recorded run, or run it again."
    ),
    "plan": Entry(
        "genblaze_dagster.cli.plan:plan", "Say what a materialization would do and cost."
    ),
    "ledger": Entry(
        "genblaze_dagster.cli.ledger:ledger", "What was submitted, paid and is left open."
    ),
    "callbacks": Entry(
        "genblaze_dagster.cli.callbacks:callbacks", "Receive what vendors say about their jobs."
    ),
    "providers": Entry(
        "genblaze_dagster.cli.providers:providers", "What there is to generate with."
    ),
    "index": Entry("genblaze_dagster.cli.index:index", "Write manifests into a Parquet dataset."),
    "sql": Entry("genblaze_dagster.cli.sql:sql", "Query the provenance index."),
}


@click.group(
    cls=LazyGroup,
    entries=_COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="genblaze-dagster", message="genblaze-dagster %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Generative media as Dagster assets, with provenance that can be checked and queried.

    \b
    Exit status: 0 ok, 1 found wrong or refused, 2 usage, 3 cannot be decided,
    4 storage or configuration, 5 SQL, 70 internal error.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.USAGE)
