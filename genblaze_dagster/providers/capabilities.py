"""What the built-in providers can do, read off their classes: for the README and the command line."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from genblaze_dagster.providers.catalogue import BUILT_IN, vendor_of
from genblaze_dagster.providers.vendor.called_back import CalledBackProvider
from genblaze_dagster.providers.vendor.traits import Traits

_HEAD = (
    "provider",
    "makes",
    "takes media as",
    "lost answer",
    "calls back",
    "cancel",
    "cost known",
    "key",
)


@dataclass(frozen=True, slots=True)
class Capability:
    """One provider of a vendor. `variable` is what to set; all `key_variables` are looked at."""

    name: str
    vendor: str
    traits: Traits
    deduplicates: bool
    finds_jobs: bool
    names_submission: bool
    """Whether the vendor's calls back name the submission, and so tell the job of a lost answer."""
    has_prices: bool
    variable: str
    key_variables: tuple[str, ...]

    @property
    def lost_answer(self) -> str:
        """What happens when the answer to a submit is lost."""
        if self.deduplicates:
            return "sent again, billed once"
        if self.names_submission:
            return "told by a call back, else held"
        return "looked up" if self.finds_jobs else "held"

    @property
    def calls_back(self) -> str:
        """Which of its jobs the vendor calls back about, where there is a receiver."""
        if not self.traits.webhooks:
            return "-"
        return "each job" if self.names_submission else "each project"

    @property
    def cost(self) -> str:
        """How the cost of a generation is known."""
        known = ("reported",) if self.traits.reports_cost else ()
        return ", ".join((*known, *(("price list",) if self.has_prices else ()))) or "no"


def capabilities() -> Iterator[Capability]:
    """Yield every built-in provider that has a vendor, by name; each class is imported.

    Of several names of one class the last is told, which is that of its manifests.
    """
    by_class: dict[object, tuple[str, str, Any]] = {}
    for name, where in BUILT_IN.items():
        vendor = vendor_of(name)
        if vendor is not None:
            module, _, attribute = where.partition(":")
            by_class[where] = (name, vendor, getattr(import_module(module), attribute))
    for name, vendor, kind in by_class.values():
        yield Capability(
            name=name,
            vendor=vendor,
            traits=kind.traits,
            deduplicates=kind.deduplicates,
            finds_jobs=hasattr(kind, "find_jobs"),
            names_submission=issubclass(kind, CalledBackProvider),
            has_prices=any(f.spec_template.pricing is not None for f in kind.families),
            variable=kind.vendor.named_variable or kind.vendor.key_variables[0],
            key_variables=kind.vendor.key_variables,
        )


def markdown_table() -> str:
    """Return the table of the README, which stands there between two comments."""
    rows = [_HEAD, tuple("---" for _ in _HEAD), *map(_cells, capabilities())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(one: Capability) -> tuple[str, ...]:
    return (
        f"`{one.name}`",
        ", ".join(one.traits.makes),
        ", ".join(form.value for form in one.traits.inputs) or "-",
        one.lost_answer,
        one.calls_back,
        "yes" if one.traits.cancels else "-",
        one.cost,
        f"`{one.variable}`",
    )


def rewrite(page: Path) -> None:
    """Write the table into a Markdown page, between its comments `providers` and `/providers`."""
    text = page.read_text(encoding="utf-8")
    start = text.index("\n", text.index("<!-- providers")) + 1
    end = text.index("<!-- /providers -->")
    page.write_text(f"{text[:start]}{markdown_table()}\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path("README.md"))
