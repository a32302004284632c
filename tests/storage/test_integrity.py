import asyncio
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.storage.integrity import Problem, RefCheck, check_ref, check_refs
from genblaze_dagster.storage.store import MediaStore
from tests.support.scripted import ScriptedProvider


@pytest.fixture
def store() -> MediaStore:
    return MediaStore(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def ref(store: MediaStore, tmp_path: Path) -> MediaRef:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    result = (
        Pipeline("p")
        .step(ScriptedProvider(size=1000), model="m", name="a")
        .run(store=store, ledger=ledger)
    )
    ledger.close()
    return result.outcomes["a"].ref


def check(store: MediaStore, ref: MediaRef) -> RefCheck:
    return asyncio.run(check_ref(store, ref))


def put(store: MediaStore, key: str, data: bytes) -> None:
    asyncio.run(store.put(key, data, media_type="application/octet-stream"))


def test_untouched_media_passes_and_is_read_whole(store: MediaStore, ref: MediaRef) -> None:
    """Every byte is counted and nothing is found."""
    result = check(store, ref)
    assert result.ok
    assert result.bytes_read == 1000


def test_one_changed_byte_is_found(store: MediaStore, ref: MediaRef) -> None:
    """The finding names the object and what it hashes to now."""
    key = ref.media[0].key
    data = bytearray(asyncio.run(store.get(key)))
    data[500] ^= 1
    put(store, key, bytes(data))
    (finding,) = check(store, ref).findings
    assert (finding.problem, finding.subject) == (Problem.BYTES_DIFFER, key)
    assert "1000 bytes hash to" in finding.detail


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace(b'"model":"m"', b'"model":"n"'), Problem.MANIFEST_INVALID),
        (lambda text: text[: len(text) // 2], Problem.MANIFEST_INVALID),
        (lambda text: b"", Problem.MANIFEST_INVALID),
        (lambda text: b"[" * 100_000, Problem.MANIFEST_INVALID),
        (lambda text: text.replace(b'"1.5"', b'"9.9"'), Problem.MANIFEST_INVALID),
    ],
)
def test_a_broken_manifest_is_a_finding(
    store: MediaStore, ref: MediaRef, change: object, problem: Problem
) -> None:
    """Tampered, truncated, empty, too deep, from the future: found, not raised."""
    assert callable(change)
    put(store, ref.manifest_key, change(asyncio.run(store.get(ref.manifest_key))))
    findings = check(store, ref).findings
    assert [f.problem for f in findings] == [problem]
    assert findings[0].subject == ref.manifest_key


def test_missing_objects_are_findings(store: MediaStore, ref: MediaRef) -> None:
    """Deleted bytes and a deleted manifest are both named."""
    asyncio.run(store.delete(ref.media[0].key))
    asyncio.run(store.delete(ref.manifest_key))
    assert [f.problem for f in check(store, ref).findings] == [
        Problem.MANIFEST_MISSING,
        Problem.BYTES_MISSING,
    ]


def test_a_reference_that_points_elsewhere_is_found(store: MediaStore, ref: MediaRef) -> None:
    """A reference whose hash or output is not its manifest's does not pass."""
    other = replace(ref, canonical_hash="0" * 64)
    assert [f.problem for f in check(store, other).findings] == [Problem.MANIFEST_CHANGED]
    swapped = replace(ref, media=(replace(ref.media[0], sha256="0" * 64),))
    assert [f.problem for f in check(store, swapped).findings] == [
        Problem.NOT_IN_MANIFEST,
        Problem.BYTES_DIFFER,
    ]


def test_many_are_checked_in_order(store: MediaStore, ref: MediaRef) -> None:
    """Results come back in the order of the references."""
    other = replace(ref, canonical_hash="0" * 64)
    results = asyncio.run(check_refs(store, [ref, other, ref], concurrency=2))
    assert [r.ok for r in results] == [True, False, True]
