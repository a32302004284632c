"""Each invariant fails on a violation made by hand, and on nothing else."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.ledger.submission import PastAttempt, SubmissionState
from genblaze_dagster.storage.refs import read_ref, ref_key
from tests.faults import invariants
from tests.faults.invariants import Evidence, judge
from tests.faults.order import ASSET_KEY
from tests.faults.world import Harness, World

PRICE = 0.04


@pytest.fixture(scope="module")
def good(simulators: Harness) -> World:
    """A world in which everything went well."""
    world = simulators.world("invariants", private=True)
    assert world.start().wait(60) == 0
    return world


@pytest.fixture
def evidence(good: World) -> Evidence:
    """Everything about it, to be spoilt."""
    found = asyncio.run(invariants.gather(good))
    assert judge(found).violations == ()
    assert len(found.bills) == len(found.rows) == len(found.refs) == 2
    return found


def double_submit(e: Evidence) -> None:
    e.bills = [*e.bills, replace(e.bills[0], job_id="job-again", key=f"{e.bills[0].key}-1")]


def another_price(e: Evidence) -> None:
    e.bills = [replace(e.bills[0], price=PRICE + 0.01), *e.bills[1:]]


def too_much_in_the_ledger(e: Evidence) -> None:
    e.rows = [replace(e.rows[0], cost_usd=PRICE + 0.01), *e.rows[1:]]


def paid_twice_by_the_ledger(e: Evidence) -> None:
    row = e.rows[0]
    fields = {name: getattr(row, name) for name in PastAttempt.__slots__ if hasattr(row, name)}
    e.past = [PastAttempt(**{**fields, "submission_id": row.id})]


def bill_of_nobody(e: Evidence) -> None:
    e.bills = [*e.bills, replace(e.bills[0], job_id="job-x", key="unknown")]


def paid_and_failed(e: Evidence) -> None:
    e.rows = [replace(e.rows[0], state=SubmissionState.FAILED), *e.rows[1:]]


def stored_from_another_job(e: Evidence) -> None:
    e.rows = [replace(e.rows[0], job_id="job-unpaid"), *e.rows[1:]]


def missing_media(e: Evidence) -> None:
    e.objects = {k: v for k, v in e.objects.items() if not k.startswith("assets/")}


def flipped_bit(e: Evidence) -> None:
    e.objects = {
        k: bytes([v[0] ^ 1]) + v[1:] if k.startswith("assets/") else v for k, v in e.objects.items()
    }


def missing_manifest(e: Evidence) -> None:
    e.manifests = dict(list(e.manifests.items())[1:])


def missing_reference(e: Evidence) -> None:
    e.refs = e.refs[1:]
    e.rows = [replace(row, result=None) for row in e.rows]


def lost_reference(e: Evidence) -> None:
    e.refs = [ref for ref in e.refs if ref.partition_key != "p0"]


def exchanged_media(e: Evidence) -> None:
    e.refs = [
        replace(e.refs[0], media=e.refs[1].media),
        replace(e.refs[1], media=e.refs[0].media),
    ]


def over_budget(e: Evidence) -> None:
    e.budget_usd = PRICE


def leaked_key(e: Evidence) -> None:
    e.texts = {**e.texts, "worker.log": f"sent {e.secrets['API key']}".encode()}


def leaked_signature(e: Evidence) -> None:
    e.texts = {**e.texts, "event": b"?signature=" + e.secrets["signed URL"].encode() + b"0af"}


def leaked_prompt(e: Evidence) -> None:
    e.texts = {**e.texts, "ledger.db": b"\0\1" + e.secrets["private prompt"].encode()}


def leaked_in_base64(e: Evidence) -> None:
    import base64

    e.texts = {**e.texts, "event": base64.b64encode(e.secrets["S3 secret"].encode())}


def still_open(e: Evidence) -> None:
    e.rows = [replace(e.rows[0], state=SubmissionState.SUBMITTED), *e.rows[1:]]


def forgotten_partition(e: Evidence) -> None:
    e.partitions = [*e.partitions, "p9"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (double_submit, "double submit: p0 is billed 2 times"),
        (another_price, "the meter says 0.0500 USD, the ledger 0.0400"),
        (too_much_in_the_ledger, "the ledger says 0.0500 USD, the meter 0.0400"),
        (paid_twice_by_the_ledger, "the ledger says 0.0800 USD, the meter 0.0400"),
        (bill_of_nobody, "bill without a row: job job-x"),
        (paid_and_failed, "lost output: job invariants-job"),
        (stored_from_another_job, "lost output: job invariants-job"),
        (missing_media, "references bytes that are not stored"),
        (flipped_bit, "references bytes that are not stored"),
        (missing_manifest, "has no manifest"),
        (missing_reference, "belongs to no reference"),
        (lost_reference, "ledger says p0 is stored, and there is no reference"),
        (exchanged_media, "has media its vendor never made"),
        (over_budget, "spend 0.0800 USD is over the budget of 0.0400"),
        (leaked_key, "leak: API key is in worker.log"),
        (leaked_signature, "leak: signed URL is in event"),
        (leaked_prompt, "leak: private prompt is in ledger.db"),
        (leaked_in_base64, "leak: S3 secret is in event"),
        (still_open, "p0 is still submitted"),
        (forgotten_partition, "p9 has no row in the ledger"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_violation_is_found(
    evidence: Evidence, spoil: Callable[[Evidence], None], words: str
) -> None:
    """What is wrong is named."""
    spoil(evidence)
    assert any(words in violation for violation in judge(evidence).violations)


def test_double_submits_and_lost_outputs_are_counted(evidence: Evidence) -> None:
    """The two numbers that must be zero are not."""
    double_submit(evidence)
    verdict = judge(evidence)
    assert (verdict.double_submits, verdict.lost_outputs) == (1, 1)


def test_a_failure_the_vendor_pays_back_is_none_of_ours(evidence: Evidence) -> None:
    """A job that the vendor gave up and refunded may be followed by another."""
    gone = replace(evidence.bills[0], job_id="job-0", said_failed=True, refunded=True)
    evidence.bills = [gone, *evidence.bills]
    assert judge(evidence).violations == ()


def test_a_held_submission_may_be_paid(evidence: Evidence) -> None:
    """A lost answer is open money, which the ledger knows of: neither lost nor paid twice."""
    evidence.rows = [
        replace(evidence.rows[0], state=SubmissionState.HELD, cost_usd=None),
        *evidence.rows[1:],
    ]
    verdict = judge(evidence)
    assert (verdict.violations, verdict.held) == ((), 1)


def test_the_store_is_read_for_real(simulators: Harness) -> None:
    """A changed byte, and a deleted manifest, are found in a whole world."""
    world = simulators.world("spoilt", partitions=("p0",))
    assert world.start().wait(60) == 0

    async def spoil() -> None:
        ref = await read_ref(world.store, ASSET_KEY, "p0")
        assert ref is not None
        await world.store.put(ref.media[0].key, b"other bytes", media_type=None)

    assert invariants.check(world).violations == ()
    asyncio.run(spoil())
    assert any("bytes differ" in found for found in invariants.check(world).violations)


def test_files_beside_the_world_are_scanned(good: World, tmp_path: Path) -> None:
    """A secret in a folder that was named, such as Dagster's, is found."""
    good.scanned.append(tmp_path)
    (tmp_path / "event_logs").write_bytes(b"\0" + good.secrets["API key"].encode())
    try:
        (violation,) = invariants.check(good).violations
    finally:
        good.scanned.clear()
    assert violation.startswith("leak: API key")


def test_manifests_prove_what_the_objects_are(evidence: Evidence) -> None:
    """The evidence is of the real store: keys are content addresses."""
    for key, data in evidence.objects.items():
        if key.startswith("assets/"):
            assert hashlib.sha256(data).hexdigest() in key
    assert all(isinstance(found, Manifest) for found in evidence.manifests.values())
    assert {ref_key(ASSET_KEY, name) for name in ("p0", "p1")} <= set(evidence.objects)
