"""`genblaze-dagster providers`: what there is to generate with, and which keys are set."""

import os
from typing import Any

import click
from rich.table import Table

from genblaze_dagster.cli.output import json_option, print_json, stdout_console
from genblaze_dagster.providers.capabilities import Capability, capabilities


@click.command()
@json_option
def providers(as_json: bool) -> None:
    """List the built-in providers of vendors: what they make, and whether their key is set.

    Keys themselves are never shown, nor is any vendor asked.
    """
    found = sorted(capabilities(), key=lambda one: one.name)
    if as_json:
        print_json({"providers": [_document(one) for one in found]})
        return
    table = Table(box=None, pad_edge=False)
    for head in ("provider", "makes", "lost answer", "cost known", "key"):
        table.add_column(head)
    for one in found:
        mark = "set" if _is_set(one) else "not set"
        table.add_row(
            one.name,
            ", ".join(one.traits.makes),
            one.lost_answer,
            one.cost,
            f"{one.variable} {mark}",
        )
    stdout_console().print(table)


def _is_set(one: Capability) -> bool:
    return any(os.environ.get(variable) for variable in one.key_variables)


def _document(one: Capability) -> dict[str, Any]:
    return {
        "name": one.name,
        "vendor": one.vendor,
        "makes": list(one.traits.makes),
        "modalities": [modality.value for modality in one.traits.modalities],
        "inputs": [form.value for form in one.traits.inputs],
        "jobs": one.traits.jobs,
        "cancels": one.traits.cancels,
        "lost_answer": one.lost_answer,
        "cost": one.cost,
        "output_lifetime_hours": one.traits.output_lifetime_hours,
        "key_variables": list(one.key_variables),
        "key_is_set": _is_set(one),
    }
