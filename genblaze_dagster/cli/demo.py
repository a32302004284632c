"""`genblaze-dagster demo`: the main job on real media, and everything it leaves behind."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from genblaze_dagster.cli.demo_report import DemoReport, build_report, print_report
from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.output import json_option, print_json
from genblaze_dagster.cli.s3_process import s3_environment
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.demo import demo_pipeline, demo_rows
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.environment import LEDGER_VARIABLE, STORE_VARIABLE
from genblaze_dagster.pipeline.plan import stored_steps
from genblaze_dagster.storage.store import MediaStore

_BUCKET = "genblaze-demo"


@dataclass(frozen=True, slots=True)
class Places:
    """Where one demo keeps its media, its ledger and Dagster's own database."""

    store_url: str
    ledger_url: str
    dagster_home: Path
    on_s3: bool


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".demo"),
    show_default=True,
    help="Folder for media, ledger and Dagster's database.",
)
@click.option("--s3", is_flag=True, help="Store on an S3 server process started for this run.")
@json_option
def demo(directory: Path, s3: bool, as_json: bool) -> None:
    """Generate image, sound and video for twelve prompts, then prove and query them.

    Needs no key, no network and no service. A second run finds everything stored and pays nothing.
    """
    console = Console(stderr=as_json)
    with _places(directory.resolve(), s3) as places:
        report = run_demo(places, console)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report, console)
    if not report.ok:
        raise SystemExit(ExitCode.FAILED)


@contextlib.contextmanager
def _places(directory: Path, on_s3: bool) -> Iterator[Places]:
    if not on_s3:
        directory.mkdir(parents=True, exist_ok=True)
        yield _declared(directory, (directory / "store").as_uri(), on_s3=False)
        return
    # The server's memory is all the storage there is, so nothing of an earlier run can be used.
    directory = directory / "s3"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with s3_environment(_BUCKET):
        yield _declared(directory, f"s3://{_BUCKET}/demo", on_s3=True)


def _declared(directory: Path, store_url: str, *, on_s3: bool) -> Places:
    dagster_home = directory / "dagster"
    dagster_home.mkdir(exist_ok=True)
    settings = dagster_home / "dagster.yaml"
    if not settings.exists():
        settings.write_text("telemetry:\n  enabled: false\n")
    ledger_url = f"sqlite:///{(directory / 'ledger.db').as_posix()}"
    return Places(store_url, ledger_url, dagster_home, on_s3)


def run_demo(places: Places, console: Console) -> DemoReport:
    """Generate what is not stored yet, in one Dagster run; then verify and query all of it.

    Raises:
        GenblazeError: the store or ledger cannot be used, or a partition failed.
    """
    store = MediaStore(places.store_url)
    started = time.monotonic()
    stored = run_sync(_stored(store))
    wanted = len(demo_rows()) * len(demo_pipeline().steps)
    missing = wanted - len(stored)
    run_id = None
    if missing:
        console.print(
            f"Generating {missing} of {wanted} files: {len(demo_rows())} partitions, "
            f"one Dagster run, store {places.store_url}"
        )
        run_id = _materialize(places, console, missing)
    generated_seconds = time.monotonic() - started
    return run_sync(
        build_report(
            store,
            generated=missing,
            wanted=wanted,
            dagster_run_id=run_id,
            seconds=generated_seconds,
            ui_command=None if places.on_s3 else _ui_command(places),
        )
    )


async def _stored(store: MediaStore) -> list[MediaRef]:
    pipeline = demo_pipeline()
    found: list[MediaRef] = []
    for row in demo_rows():
        steps = await stored_steps(
            pipeline,
            store,
            partition_key=str(row["key"]),
            variables=row,
            key_prefix=(str(pipeline.name),),
        )
        found += steps.values()
    return found


def _materialize(places: Places, console: Console, missing: int) -> str:
    os.environ[STORE_VARIABLE] = places.store_url
    os.environ[LEDGER_VARIABLE] = places.ledger_url
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    with _progress(places, console, missing):
        # About two seconds of import, which a run with nothing to do never gets to.
        from genblaze_dagster.cli.demo_run import materialize_demo

        return materialize_demo(places.dagster_home)


@contextlib.contextmanager
def _progress(places: Places, console: Console, missing: int) -> Iterator[None]:
    """Show how many files the ledger calls stored while the Dagster run goes on."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    finished = threading.Event()
    ledger = Ledger(places.ledger_url)
    with bar:
        before = _stored_count(ledger)
        task = bar.add_task("stored", total=missing)

        def watch() -> None:
            while not finished.wait(0.1):
                bar.update(task, completed=_stored_count(ledger) - before)

        watcher = threading.Thread(target=watch, name="genblaze-demo-progress")
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
            bar.update(task, completed=_stored_count(ledger) - before)
            ledger.close()


def _stored_count(ledger: Ledger) -> int:
    return len(ledger.find(state=SubmissionState.STORED))


def _ui_command(places: Places) -> str:
    if Path("workspace.yaml").exists() and places.dagster_home == Path.cwd() / ".demo" / "dagster":
        return "make dev"
    return (
        f"DAGSTER_HOME={places.dagster_home} {STORE_VARIABLE}={places.store_url} "
        f"{LEDGER_VARIABLE}={places.ledger_url} "
        "dagster dev -m genblaze_dagster.demo -a demo_definitions"
    )
