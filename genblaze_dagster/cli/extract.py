"""`genblaze-dagster extract`: the manifest of a file or object, as it is."""

from pathlib import Path
from typing import Any

import click

from genblaze_dagster.cli.output import (
    endpoint_option,
    json_option,
    json_text,
    print_json,
    printable,
    progress,
)
from genblaze_dagster.cli.targets import locate, reachable_store
from genblaze_dagster.core.canonical import utf8
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.trust.claims import FoundManifest, RunSearch, find_manifest
from genblaze_dagster.trust.subject import opened
from genblaze_dagster.trust.targets import WholeStore


@click.command()
@click.argument("target", metavar="FILE|URL")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "summary"]),
    default="json",
    show_default=True,
    help="The manifest itself, or a few lines about it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write to this file instead of stdout.",
)
@click.option(
    "--store", "store_url", metavar="URL", help="Look up in this store which run made the file."
)
@endpoint_option
@json_option
def extract(
    target: str,
    form: str,
    output: Path | None,
    store_url: str | None,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Print the manifest of a media file, a manifest file or a stored object.

    It is looked for in the file, in its sidecar, and in the store. It is printed in canonical form,
    which is byte for byte what the store keeps; extracting does not verify it.
    """
    found = run_sync(_find(target, store_url, endpoint_url))
    body = _body(found, form, as_json=as_json)
    if output is None:
        click.echo(body)
        return
    _write_whole(output, body)
    if as_json:
        print_json({"path": str(output), "canonical_hash": found.manifest.canonical_hash})


async def _find(target: str, store_url: str | None, endpoint_url: str | None) -> FoundManifest:
    located = await locate(target, endpoint_url=endpoint_url)
    if isinstance(located, WholeStore):
        raise click.UsageError(f"{target}: a directory or prefix; name one file or object in it")
    store = None
    if store_url is not None:
        store = await reachable_store(store_url, endpoint_url=endpoint_url)
    async with opened(located, progress=progress) as subject:
        return await find_manifest(subject, RunSearch(store))


def _body(found: FoundManifest, form: str, *, as_json: bool) -> bytes:
    if form == "json":
        return utf8(found.manifest.to_canonical_json())
    facts = _facts(found)
    if as_json:
        return json_text(facts)
    lines = (f"{name.replace('_', ' ')}: {_shown(value)}" for name, value in facts.items())
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def _facts(found: FoundManifest) -> dict[str, Any]:
    manifest = found.manifest
    report = manifest.verification_report()
    return {
        "run_id": manifest.run.run_id,
        "source": found.where,
        "schema_version": manifest.schema_version,
        "steps": [f"{step.provider or step.step_type}/{step.model}" for step in manifest.run.steps],
        "outputs": sum(len(step.assets) for step in manifest.run.steps),
        "canonical_hash": manifest.canonical_hash,
        "hash_ok": report.hash_ok,
        "outputs_without_sha256": list(report.unverified_sha256_ids),
        "outputs_out_of_spec": list(report.invalid_metadata_ids),
    }


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return printable(", ".join(map(str, value))) or "none"
    return printable(str(value))


def _write_whole(path: Path, body: bytes) -> None:
    """Write a file so that a failure leaves the old one, or none."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(body)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
