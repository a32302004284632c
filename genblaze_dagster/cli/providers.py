"""`genblaze-dagster providers`: what there is to generate with, which keys are set, what it costs."""

import os
from collections.abc import Iterator
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from genblaze_dagster.cli.output import json_option, print_json, printable, stdout_console
from genblaze_dagster.providers.capabilities import Capability, capabilities
from genblaze_dagster.providers.catalogue import BUILT_IN, VENDORS, names_of
from genblaze_dagster.providers.price_list import PRICES_VARIABLE, PriceList
from genblaze_dagster.providers.prices import Price, words_of
from genblaze_dagster.providers.registry import resolve_provider
from genblaze_dagster.providers.vendor.provider import VendorProvider


@click.command()
@click.option(
    "--prices",
    "with_prices",
    is_flag=True,
    help="List the models that are known by name, and their prices: those of the price list that "
    f"{PRICES_VARIABLE} names, then built-in list prices.",
)
@json_option
def providers(with_prices: bool, as_json: bool) -> None:
    """List the built-in providers of vendors: what they make, and whether their key is set.

    Keys themselves are never shown, nor is any vendor asked.
    """
    found = sorted(capabilities(), key=lambda one: one.name)
    if as_json:
        print_json({"providers": [_document(one) for one in found]})
        return
    if with_prices:
        _print_prices(found)
        return
    table = _table("provider", "makes", "lost answer", "cost known", "key")
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


def _print_prices(found: list[Capability]) -> None:
    table = _table("provider", "model", "price")
    for one in found:
        for model, said in _prices(one):
            # Patterns have brackets, which rich would take for its markup.
            table.add_row(one.name, Text(printable(model)), Text(printable(said or "-")))
    console = stdout_console()
    console.print(table)
    known = {*VENDORS, *BUILT_IN}
    for price in PriceList.from_environment().prices:
        if price.vendor not in known:
            told = f"{PRICES_VARIABLE}: {price.vendor!r} is no built-in vendor or provider"
            console.print(Text(printable(told)))


def _prices(one: Capability) -> Iterator[tuple[str, str | None]]:
    """Yield the models that are known by name and their prices, then own prices of further ones."""
    provider = resolve_provider(one.name)
    if not isinstance(provider, VendorProvider):
        return
    models = provider.models.known()
    for model in models:
        yield model, words_of(provider.models.get(model).pricing, model)
    further: dict[str, list[str]] = {}
    for price in _own_prices(one):
        if not any(price.fits(model) for model in models):
            further.setdefault(price.model, []).append(str(price))
    for name, said in further.items():
        yield name, "; ".join(said)


def _own_prices(one: Capability) -> Iterator[Price]:
    names = names_of(one.name)
    return (price for price in PriceList.from_environment().prices if price.vendor in names)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head)
    return table


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
        "prices": dict(_prices(one)),
        "output_lifetime_hours": one.traits.output_lifetime_hours,
        "key_variables": list(one.key_variables),
        "key_is_set": _is_set(one),
    }
