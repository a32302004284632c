"""What must hold after every scenario, whatever happened in it.

`check` looks at a whole world: the vendor's meter, the ledger, every object of the store, and every
file that was left behind. It returns what is wrong; an empty list is what tests ask for.
"""

import asyncio
import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from genblaze_dagster.core.enums import RunStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ManifestError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import (
    OPEN_STATES,
    LedgerRow,
    PastAttempt,
    SubmissionState,
)
from genblaze_dagster.storage.manifests import manifest_keys
from genblaze_dagster.storage.refs import list_refs
from genblaze_dagster.storage.store import MediaStore
from genblaze_dagster.trust.progress import silent
from genblaze_dagster.trust.report import Status
from genblaze_dagster.trust.store import check_store
from tests.faults.vendor import Bill
from tests.faults.world import World
from tests.support.providers import png

_CENT = 0.01
_TOLERANCE = _CENT / 1000


@dataclass
class Evidence:
    """Everything there is to look at. `texts` are names and contents of files and objects."""

    bills: Sequence[Bill]
    rows: Sequence[LedgerRow]
    past: Sequence[PastAttempt] = ()
    refs: Sequence[MediaRef] = ()
    manifests: Mapping[str, Manifest] = field(default_factory=dict[str, Manifest])
    objects: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    findings: Sequence[str] = ()
    texts: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    partitions: Sequence[str | None] = ()
    budget_usd: float | None = None
    media_bytes: int = 0

    def bills_of(self, row: LedgerRow) -> list[Bill]:
        """Return the bills of a row: every attempt's key begins with the row's run id."""
        return [bill for bill in self.bills if bill.key.startswith(row.run_id)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scenario counts: violations, and the two numbers that must be zero."""

    violations: tuple[str, ...]
    double_submits: int
    lost_outputs: int
    held: int


def check(world: World) -> Verdict:
    """Look at a world whose faults have ended and whose workers are done."""
    return judge(asyncio.run(gather(world)))


def judge(evidence: Evidence) -> Verdict:
    """Return everything that is wrong."""
    doubles, lost = list(double_submits(evidence)), list(lost_outputs(evidence))
    others = [
        *meter_and_ledger(evidence),
        *store_is_whole(evidence),
        *references_and_manifests(evidence),
        *right_media(evidence),
        *budget(evidence),
        *leaks(evidence),
        *settled(evidence),
    ]
    held = sum(row.state is SubmissionState.HELD for row in evidence.rows)
    return Verdict((*doubles, *lost, *others), len(doubles), len(lost), held)


def double_submits(evidence: Evidence) -> Iterator[str]:
    """At most one accepted submit per intent.

    A submit that the vendor itself gave up, or a proxy repeated, does not count.
    """
    for row in evidence.rows:
        live = [bill for bill in evidence.bills_of(row) if _is_live(bill) and not bill.by_proxy]
        if len(live) > 1:
            yield f"double submit: {row.partition_key} is billed {len(live)} times in {row.scope}"


def lost_outputs(evidence: Evidence) -> Iterator[str]:
    """What is billed is stored, or somebody still knows of it."""
    for row in evidence.rows:
        if row.state in (*OPEN_STATES, SubmissionState.HELD):
            continue
        for bill in evidence.bills_of(row):
            kept = row.state is SubmissionState.STORED and (
                bill.one_call or bill.job_id == row.job_id
            )
            if _is_live(bill) and not kept and not bill.by_proxy:
                yield (
                    f"lost output: job {bill.job_id} of {row.partition_key} is paid, "
                    f"and the row is {row.state.value} with job {row.job_id}"
                )


def meter_and_ledger(evidence: Evidence) -> Iterator[str]:
    """The meter equals the ledger to the cent, and no bill is without a row."""
    known = {row.run_id for row in evidence.rows}
    for bill in evidence.bills:
        if not any(bill.key.startswith(run_id) for run_id in known):
            yield f"bill without a row: job {bill.job_id}, key {bill.key!r}"
    for row in evidence.rows:
        bills = [bill for bill in evidence.bills_of(row) if not bill.refunded]
        billed = sum(bill.price for bill in bills)
        paid = (row.cost_usd or 0.0) + sum(
            past.cost_usd or 0.0 for past in evidence.past if past.submission_id == row.id
        )
        if paid > billed + _TOLERANCE:
            yield f"{row.partition_key}: the ledger says {paid:.4f} USD, the meter {billed:.4f}"
        unsettled = row.state in (*OPEN_STATES, SubmissionState.HELD)
        # What a vendor first called a failure is on its bill, and has no price on ours.
        unpriced = any(bill.said_failed for bill in bills)
        if paid < billed - _TOLERANCE and not unsettled and not unpriced:
            yield f"{row.partition_key}: the meter says {billed:.4f} USD, the ledger {paid:.4f}"


def store_is_whole(evidence: Evidence) -> Iterator[str]:
    """Manifests reference stored bytes with the right hash only."""
    yield from evidence.findings
    hashes = {hashlib.sha256(data).hexdigest() for data in evidence.objects.values()}
    for key, manifest in evidence.manifests.items():
        for step in manifest.run.steps:
            for asset in step.assets:
                if asset.sha256 not in hashes:
                    yield f"manifest {key} references bytes that are not stored: {asset.sha256}"


def references_and_manifests(evidence: Evidence) -> Iterator[str]:
    """Every reference has its manifest; every finished manifest has a reference or a ledger row."""
    by_run = {manifest.run.run_id: manifest for manifest in evidence.manifests.values()}
    # A held submission may have got as far as its manifest, and another wish may have followed.
    reached = {row.run_id for row in evidence.rows if row.state is SubmissionState.HELD}
    reached |= {row.result["run_id"] for row in evidence.rows if row.result is not None}
    for ref in evidence.refs:
        if ref.manifest_key not in evidence.manifests:
            yield f"reference of {ref.asset_key} [{ref.partition_key}] has no manifest"
        run_id: str | None = ref.run_id
        while run_id is not None and run_id not in reached:
            reached.add(run_id)
            run_id = by_run[run_id].run.parent_run_id if run_id in by_run else None
    for run_id, manifest in by_run.items():
        # A run that went on with what an earlier one had claimed has a record of its own, too.
        is_summary = all(step.run_id in reached for step in manifest.run.steps)
        is_done = manifest.run.status is RunStatus.COMPLETED
        if run_id not in reached and is_done and not is_summary:
            yield f"manifest of run {run_id} belongs to no reference"
    places = {(ref.asset_key, ref.partition_key) for ref in evidence.refs}
    for row in evidence.rows:
        if row.state is not SubmissionState.STORED:
            continue
        if row.result is None or row.result["manifest_key"] not in evidence.manifests:
            yield f"ledger says {row.partition_key} is stored, and there is no manifest"
        if (row.asset_key, row.partition_key) not in places:
            yield f"ledger says {row.partition_key} is stored, and there is no reference"


def right_media(evidence: Evidence) -> Iterator[str]:
    """Every partition has the media of its own prompt."""
    by_run = {row.result["run_id"]: row for row in evidence.rows if row.result is not None}
    for ref in evidence.refs:
        row = by_run.get(ref.run_id)
        bills = evidence.bills_of(row) if row is not None else []
        wanted = {
            hashlib.sha256(png(bill.prompt, evidence.media_bytes)).hexdigest() for bill in bills
        }
        if bills and ref.media[0].sha256 not in wanted:
            yield f"{ref.asset_key} [{ref.partition_key}] has media its vendor never made"


def budget(evidence: Evidence) -> Iterator[str]:
    """The spend is within the budget."""
    spend = sum(bill.price for bill in evidence.bills if not bill.refunded)
    if evidence.budget_usd is not None and spend > evidence.budget_usd + _TOLERANCE:
        yield f"spend {spend:.4f} USD is over the budget of {evidence.budget_usd:.4f}"


def leaks(evidence: Evidence) -> Iterator[str]:
    """No key, no signed URL and no private prompt is in any file or object."""
    for what, secret in evidence.secrets.items():
        forms = (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"="))
        for name, content in evidence.texts.items():
            if any(form in content for form in forms):
                yield f"leak: {what} is in {name}"


def settled(evidence: Evidence) -> Iterator[str]:
    """Every partition is stored, failed or held, and nobody has a lease any more."""
    seen = {row.partition_key for row in evidence.rows}
    for partition in evidence.partitions:
        if partition not in seen:
            yield f"{partition} has no row in the ledger"
    for row in evidence.rows:
        if row.state in OPEN_STATES:
            yield f"{row.partition_key} is still {row.state.value}"


def _is_live(bill: Bill) -> bool:
    return not (bill.refunded or bill.said_failed)


async def gather(world: World) -> Evidence:
    """Collect everything of a world."""
    store = world.store
    objects = {info.key: await store.get(info.key) async for info in store.list()}
    keys = [key async for key in manifest_keys(store)]
    manifests: dict[str, Manifest] = {}
    findings = await verified(store)
    for key in keys:
        try:
            manifests[key] = parse_manifest(objects[key])
        except ManifestError as exc:
            findings.append(f"{key} is not readable: {exc}")
    with world.ledger() as ledger:
        rows, past = _ledger(ledger)
    files = [*_files(world.folder), *(f for place in world.scanned for f in _files(place))]
    return Evidence(
        bills=[Bill(**bill) for bill in world.bills()],
        rows=rows,
        past=past,
        refs=[ref async for ref in list_refs(store)],
        manifests=manifests,
        objects=objects,
        findings=findings,
        texts={
            **objects,
            **{str(path): path.read_bytes() for path in files},
            # Wherever the ledger is kept.
            "ledger": "\n".join(f"{asdict(row)}" for row in (*rows, *past)).encode(),
        },
        secrets=world.secrets,
        partitions=world.order.partitions,
        budget_usd=world.order.budget_usd,
        media_bytes=int(world.vendor_settings.get("media_bytes", 0)),
    )


async def verified(store: MediaStore) -> list[str]:
    """Return what the package itself finds wrong in a store."""
    report = await check_store(store, target=store.url, progress=silent)
    failed = any(one.status is Status.FAIL for one in report.checks)
    return [f"verify: {found}" for found in report.findings] if failed else []


def _ledger(ledger: Ledger) -> tuple[list[LedgerRow], list[PastAttempt]]:
    rows = list(ledger.rows())
    return rows, [past for row in rows for past in ledger.past_attempts(row.id)]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(path for path in place.rglob("*") if path.is_file())
