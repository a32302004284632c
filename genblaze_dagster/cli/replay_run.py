"""Run a replay in this process: ask before anything is paid, then say what came of each step."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from genblaze_dagster.cli.output import error_document, print_lines, printable, progress
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.environment import default_store_url
from genblaze_dagster.pipeline.estimate import estimated_cost
from genblaze_dagster.pipeline.outcome import StepOutcome
from genblaze_dagster.pipeline.replay import Replay, ReplayStep
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.storage.store import MediaStore


@dataclass(frozen=True, slots=True)
class Consent:
    """Whom the user allows to be paid: everybody, or these providers; others are asked about."""

    everybody: bool
    providers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Places:
    """Where new media and the ledger go, and which folders inputs may come from."""

    store_url: str | None
    endpoint_url: str | None
    ledger_url: str | None
    allowed_roots: tuple[Path, ...]

    def store(self) -> MediaStore:
        """Open the store; a directory is made when something is stored."""
        url = self.store_url or default_store_url()
        if "://" not in url:
            url = Path(url).absolute().as_uri()
        return MediaStore(url, endpoint_url=self.endpoint_url)


def ask_consent(replay: Replay, consent: Consent) -> None:
    """Ask about every provider that may cost something and is not allowed yet.

    Raises:
        UsageError: there is nobody to ask.
        Abort: the user does not want to.
    """
    if consent.everybody:
        return
    for provider, steps in _paid(replay).items():
        if provider in consent.providers:
            continue
        if not sys.stdin.isatty():
            raise click.UsageError(
                f"provider {provider!r} may cost something and nobody can be asked; "
                f"give --allow-provider {provider} or --yes"
            )
        costs = [estimated_cost(step) for step in steps]
        known = [cost for cost in costs if cost is not None]
        price = f"about ${sum(known):.4f}" if len(known) == len(costs) else "an unknown price"
        asked = f"Ask {printable(provider)} for {len(steps)} generation(s), at {price}?"
        click.confirm(asked, abort=True, err=True)


def _paid(replay: Replay) -> dict[str, list[ReplayStep]]:
    found: dict[str, list[ReplayStep]] = {}
    for step in replay.steps:
        if estimated_cost(step) != 0.0:
            found.setdefault(step.spec.provider_name, []).append(step)
    return found


async def run_replay(replay: Replay, places: Places, *, force: bool) -> PipelineResult:
    """Run a replay and index it; failed steps are in the result.

    Raises:
        IntegrityError: the manifest was changed after it was written, and not `force`.
        ConfigError: something cannot be restored, or a setting is wrong.
        StorageError: the store cannot be used.
    """
    store = places.store()
    if not store.url.startswith("file:"):
        # Before anything is paid. A directory is made when it is needed.
        await store.check_access()
    with progress("replay", total=len(replay.steps)) as advance:

        async def finished(_spec: StepSpec, _outcome: StepOutcome) -> None:
            advance(1)

        return await replay.arun(
            force=force,
            store=store,
            ledger=places.ledger_url,
            index=SegmentWriter(store),
            raise_on_failure=False,
            input_roots=places.allowed_roots or None,
            on_outcome=finished,
        )


def report(replay: Replay, result: PipelineResult) -> dict[str, Any]:
    """Return what came of a replay."""
    recorded = replay.manifest.canonical_hash
    return {
        "run_id": result.run.run_id,
        "parent_run_id": result.run.parent_run_id,
        "status": result.run.status.value,
        "manifest": result.manifest.manifest_uri,
        "canonical_hash": result.manifest.canonical_hash,
        "canonical_hash_repeated": result.manifest.canonical_hash == recorded,
        "steps": [_step(step, result) for step in replay.steps],
    }


def _step(step: ReplayStep, result: PipelineResult) -> dict[str, Any]:
    name = step.spec.name
    outcome = result.outcomes.get(name)
    if outcome is None:
        return {"name": name, "origin": None, "error": error_document(result.errors[name])}
    return {
        "name": name,
        "origin": outcome.origin.value,
        "provider": outcome.ref.provider,
        "model": outcome.ref.model,
        "cost_usd": outcome.paid_usd,
        "sha256": [media.sha256 for media in outcome.ref.media],
        "recorded_sha256": list(step.recorded_sha256),
        "bytes_repeated": step.is_repeated_by(outcome),
        "url": [media.url for media in outcome.ref.media],
    }


_REPEATED = {True: "the recorded bytes", False: "other bytes", None: "nothing to compare with"}


def print_report(document: Mapping[str, Any]) -> None:
    """Print what came of a replay."""
    lines = [line for step in document["steps"] for line in _lines(step)]
    same = "the recorded one" if document["canonical_hash_repeated"] else "another one"
    lines += [
        Text(f"run         {document['run_id']}  {document['status']}"),
        Text(f"parent      {printable(str(document['parent_run_id']))}"),
        Text(f"hash        {document['canonical_hash']}, {same}"),
        Text(f"manifest    {printable(str(document['manifest']))}"),
    ]
    print_lines(lines)


def _lines(step: Mapping[str, Any]) -> Sequence[Text]:
    name = (printable(step["name"]), "bold")
    if step["origin"] is None:
        error = step["error"]
        told = printable(f"{error['type']}: {error['message']}")
        return [Text.assemble(name, "  ", ("failed  ", "red"), told)]
    cost = "unknown cost" if step["cost_usd"] is None else f"${step['cost_usd']:.4f}"
    repeated = _REPEATED[step["bytes_repeated"]]
    asked = f"{step['provider']}/{step['model']}"
    head = Text.assemble(name, f"  {step['origin']} by {printable(asked)}  {cost}  {repeated}")
    return [head, *(Text(f"  {sha256}") for sha256 in step["sha256"])]
