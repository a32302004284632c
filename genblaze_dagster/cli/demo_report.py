"""What the demo shows when it is done: files, verification, three answers, the way to the UI."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.index.catalog import IndexCatalog
from genblaze_dagster.index.questions import cost_per_model, lineage, outputs_of_prompt
from genblaze_dagster.storage.integrity import RefCheck, check_refs
from genblaze_dagster.storage.refs import list_refs
from genblaze_dagster.storage.store import MediaStore

Rows = list[dict[str, Any]]

# Eighty columns have room for these; `--json` and `genblaze-dagster sql` give every column.
_SHOWN = {
    "cost": ("provider", "model", "modality", "generations", "cost_usd"),
    "lineage": ("depth", "asset_key", "model", "prompt", "sha256"),
    "outputs": ("asset_key", "partition_key", "model", "size_bytes", "sha256"),
}


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The facts of one demo run, ready to be printed or dumped as JSON."""

    store_url: str
    generated: int
    wanted: int
    seconds: float
    dagster_run_id: str | None
    checks: Sequence[RefCheck]
    answers: dict[str, Rows] = field(default_factory=dict)
    ui_command: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every file is there, verifies, and hashes to its manifest."""
        return len(self.checks) == self.wanted and all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "ok": self.ok,
            "store": self.store_url,
            "generated": self.generated,
            "seconds": round(self.seconds, 3),
            "dagster_run_id": self.dagster_run_id,
            "assets": [_row(check) for check in self.checks],
            "answers": self.answers,
            "ui": self.ui_command,
        }


def _row(check: RefCheck) -> dict[str, Any]:
    ref = check.ref
    return {
        "asset": ref.asset_key,
        "partition": ref.partition_key,
        "model": ref.model,
        "sha256": ref.data_version,
        "size_bytes": ref.size_bytes,
        "cost_usd": ref.cost_usd,
        "url": ref.media[0].url,
        "verified": check.ok,
        "findings": [f"{f.problem.value}: {f.subject}" for f in check.findings],
    }


async def build_report(
    store: MediaStore,
    *,
    generated: int,
    wanted: int,
    dagster_run_id: str | None,
    seconds: float,
    ui_command: str | None,
) -> DemoReport:
    """Verify everything in the store and ask the index its three questions.

    Raises:
        StorageError: the store cannot be read.
        IndexQueryError: the index cannot be read.
    """
    refs = [ref async for ref in list_refs(store)]
    refs.sort(key=lambda ref: (ref.asset_key, ref.partition_key or ""))
    checks = await check_refs(store, refs)
    return DemoReport(
        store_url=store.url,
        generated=generated,
        wanted=wanted,
        seconds=seconds,
        dagster_run_id=dagster_run_id,
        checks=checks,
        answers=await _answers(store, refs),
        ui_command=ui_command,
    )


async def _answers(store: MediaStore, refs: Sequence[MediaRef]) -> dict[str, Rows]:
    catalog = IndexCatalog(store)
    await catalog.load()
    video = next((ref for ref in refs if ref.modality == "video"), None)
    answers = {"cost per model": cost_per_model(catalog).to_pylist()}
    if video is not None:
        answers[f"lineage of video {video.partition_key}"] = lineage(
            catalog, video.media[0].sha256
        ).to_pylist()
    prompt = "northern lights over a frozen fjord, painted light"
    answers[f"outputs of the prompt '{prompt}'"] = outputs_of_prompt(catalog, prompt).to_pylist()
    return answers


def print_report(report: DemoReport, console: Console) -> None:
    """Print the report for a person."""
    _print_assets(report, console)
    _print_verification(report, console)
    for question, rows in report.answers.items():
        _print_rows(question, rows, console)
    if report.generated:
        console.print(
            f"{report.generated} of {report.wanted} files generated in {report.seconds:.1f} s "
            f"(Dagster run {report.dagster_run_id})."
        )
    else:
        console.print(
            f"Nothing to generate: all {report.wanted} files are stored under the generation keys "
            "their prompts, models, parameters and inputs give today."
        )
    if report.ui_command:
        console.print("See it in Dagster, under Catalog:")
        console.print(f"  [bold]{report.ui_command}[/bold]", soft_wrap=True)
    else:
        console.print("The S3 server lived for this run only; `make demo` keeps its files.")


def _print_assets(report: DemoReport, console: Console) -> None:
    table = Table(title=f"Assets in {report.store_url}")
    for name, justify in (
        ("asset", "left"),
        ("partition", "left"),
        ("model", "left"),
        ("sha256", "left"),
        ("size", "right"),
        ("cost", "right"),
    ):
        table.add_column(name, justify=justify)  # pyright: ignore[reportArgumentType]
    for check in report.checks:
        ref = check.ref
        cost = "unknown" if ref.cost_usd is None else f"${ref.cost_usd:.2f}"
        table.add_row(
            ref.asset_key,
            ref.partition_key or "",
            ref.model,
            ref.data_version[:16],
            f"{ref.size_bytes:,}",
            cost,
        )
    console.print(table)


def _print_verification(report: DemoReport, console: Console) -> None:
    bad = [check for check in report.checks if not check.ok]
    total = sum(check.bytes_read for check in report.checks)
    if not bad:
        console.print(
            f"[green]Verified[/green] {len(report.checks)} manifests and {total:,} bytes: every "
            "manifest hashes to its record and every file to its manifest."
        )
        return
    for check in bad:
        for finding in check.findings:
            console.print(f"[red]{finding.problem.value}[/red] {finding.subject} {finding.detail}")


def _print_rows(title: str, rows: Rows, console: Console) -> None:
    table = Table(title=title)
    names = _SHOWN[title.partition(" ")[0]] if rows else ()
    for name in names or ("nothing found",):
        table.add_column(name)
    for row in rows:
        table.add_row(*(_text(name, row[name]) for name in names))
    console.print(table)


def _text(name: str, value: object) -> str:
    if value is None:
        return "unknown" if name == "cost_usd" else ""
    if isinstance(value, float):
        return f"${value:.2f}"
    return str(value)[:16] if name == "sha256" else str(value)
