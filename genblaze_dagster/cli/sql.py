"""`genblaze-dagster sql`: questions to the provenance index, in SQL or by name."""

from enum import StrEnum
from typing import TYPE_CHECKING

import click

from genblaze_dagster.cli.output import endpoint_option, json_option, progress
from genblaze_dagster.cli.sql_output import Form, print_table
from genblaze_dagster.cli.targets import reachable_store
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.environment import STORE_VARIABLE, default_store_url

if TYPE_CHECKING:
    import pyarrow as pa

    from genblaze_dagster.index.catalog import IndexCatalog


class Question(StrEnum):
    """The questions that have a name."""

    COST_PER_MODEL = "cost-per-model"
    LINEAGE = "lineage"
    OUTPUTS_OF_PROMPT = "outputs-of-prompt"


@click.command()
@click.argument("query", metavar="[QUERY]", required=False)
@click.option(
    "--question",
    type=click.Choice([question.value for question in Question]),
    help="Ask this instead of a QUERY.",
)
@click.option("--of", "subject", metavar="SHA256|RUN", help="Whose lineage; for the question.")
@click.option("--prompt", metavar="TEXT", help="The prompt, for outputs-of-prompt.")
@click.option("--tables", is_flag=True, help="List the tables and their columns.")
@click.option(
    "--store",
    "store_url",
    metavar="URL",
    help=f"The store; {STORE_VARIABLE}, else .genblaze/store below the working directory.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Form]),
    default=Form.TABLE.value,
    show_default=True,
)
@endpoint_option
@json_option
def sql(
    query: str | None,
    question: str | None,
    subject: str | None,
    prompt: str | None,
    tables: bool,
    store_url: str | None,
    form: str,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Query the provenance index of a store.

    QUERY is DuckDB's SQL over the views runs, steps, assets and inputs. Instead of it,
    --question asks one that is asked often, and --tables lists what there is to query.

    \b
    genblaze-dagster sql "select model, count(*) from steps group by model"
    genblaze-dagster sql --question cost-per-model
    genblaze-dagster sql --question lineage --of 3f1c...
    genblaze-dagster sql --question outputs-of-prompt --prompt "a lighthouse"
    """
    if (query is not None) + (question is not None) + tables != 1:
        raise click.UsageError("give one of QUERY, --question and --tables")
    asked = None if question is None else Question(question)
    _check_options(asked, subject, prompt)
    if tables:
        answer = _columns()
    else:
        catalog = run_sync(_load(store_url, endpoint_url))
        answer = _ask(catalog, query, asked, subject or prompt or "")
    print_table(answer, Form.JSON if as_json else Form(form))


def _check_options(question: Question | None, subject: str | None, prompt: str | None) -> None:
    for option, value, owner in (
        ("--of", subject, Question.LINEAGE),
        ("--prompt", prompt, Question.OUTPUTS_OF_PROMPT),
    ):
        if question is owner and not value:
            raise click.UsageError(f"--question {owner} needs {option}")
        if question is not owner and value is not None:
            raise click.UsageError(f"{option} belongs to --question {owner}")


async def _load(store_url: str | None, endpoint_url: str | None) -> "IndexCatalog":
    from genblaze_dagster.index.catalog import IndexCatalog

    store = await reachable_store(store_url or default_store_url(), endpoint_url=endpoint_url)
    catalog = IndexCatalog(store)
    with progress(f"index of {store.url}", total=None):
        await catalog.load()
    return catalog


def _columns() -> "pa.Table":
    import pyarrow as pa

    from genblaze_dagster.index.schema import COLUMNS

    rows = [
        {"table": table.value, "column": column, "type": kind}
        for table, columns in COLUMNS.items()
        for column, kind in columns.items()
    ]
    return pa.Table.from_pylist(rows)


def _ask(
    catalog: "IndexCatalog", query: str | None, question: Question | None, about: str
) -> "pa.Table":
    from genblaze_dagster.index.questions import cost_per_model, lineage, outputs_of_prompt

    match question:
        case None:
            return catalog.query(query or "")
        case Question.COST_PER_MODEL:
            return cost_per_model(catalog)
        case Question.LINEAGE:
            return lineage(catalog, about)
        case Question.OUTPUTS_OF_PROMPT:
            return outputs_of_prompt(catalog, about)
