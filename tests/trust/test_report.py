import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.trust import (
    BytesVerdict,
    Check,
    CheckName,
    Finding,
    Status,
    Verdict,
    VerificationReport,
)
from genblaze_dagster.trust.report import MAX_FINDINGS, Findings, Kind, brief, gravest

CHECKS = st.lists(
    st.builds(
        Check, st.sampled_from(CheckName), st.sampled_from(Status), st.text(min_size=1, max_size=20)
    ),
    unique_by=lambda check: check.name,
)


def report_of(*checks: Check) -> VerificationReport:
    return VerificationReport(target="t", kind=Kind.MEDIA, checks=checks)


@given(CHECKS)
def test_nothing_is_verified_that_did_not_pass(checks: list[Check]) -> None:
    """Verified means: something passed, nothing failed, nothing is open."""
    report = report_of(*checks)
    statuses = {check.status for check in checks}
    verified = Status.PASS in statuses and not statuses & {Status.FAIL, Status.UNKNOWN}
    assert (report.verdict is Verdict.VERIFIED_UNSIGNED) == verified
    assert (report.verdict is Verdict.FAILED) == (Status.FAIL in statuses)


@given(CHECKS)
def test_bytes_are_verified_only_by_a_check_of_bytes(checks: list[Check]) -> None:
    """No other check can make the answer about the bytes a yes."""
    report = report_of(*checks)
    of_bytes = [c for c in checks if c.name in ("bytes_match", "fetched_bytes_match")]
    if report.bytes is BytesVerdict.VERIFIED:
        assert any(check.status is Status.PASS for check in of_bytes)
    assert report.why


@given(CHECKS)
def test_every_report_is_json(checks: list[Check]) -> None:
    """The JSON form holds JSON's own types only."""
    document = json.loads(json.dumps(report_of(*checks).to_dict()))
    assert document["verdict"] in list(Verdict)
    assert document["bytes"] in list(BytesVerdict)


def test_the_bytes_in_hand_go_before_fetched_ones() -> None:
    """A file that differs is not rescued by its original being where the manifest says."""
    in_hand = Check(CheckName.BYTES_MATCH, Status.FAIL, "other bytes")
    fetched = Check(CheckName.FETCHED_BYTES_MATCH, Status.PASS, "fetched")
    assert report_of(fetched, in_hand).bytes is BytesVerdict.DIFFER
    not_asked = Check(CheckName.BYTES_MATCH, Status.SKIP, "nobody asked")
    report = report_of(not_asked, fetched)
    assert (report.bytes, report.why) == (BytesVerdict.VERIFIED, "fetched")


def test_findings_are_counted_and_of_each_kind_some_are_kept() -> None:
    """A flood of one kind does not push out a single one of another."""
    findings = Findings()
    for number in range(MAX_FINDINGS + 5):
        findings.add(Finding("common", str(number)))
    findings.add(Finding("rare", "x"))
    assert findings.of("common") == MAX_FINDINGS + 5
    assert findings.of("common", "rare") == MAX_FINDINGS + 6
    assert findings.left_out == 5
    assert findings.kept[-1].problem == "rare"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], Status.SKIP),
        ([Status.SKIP, Status.PASS], Status.PASS),
        ([Status.PASS, Status.UNKNOWN], Status.UNKNOWN),
        ([Status.UNKNOWN, Status.FAIL, Status.PASS], Status.FAIL),
    ],
)
def test_what_fails_outweighs_what_passes(statuses: list[Status], expected: Status) -> None:
    """Of several outcomes the worst one counts; what was skipped counts least."""
    assert gravest(statuses) is expected


def test_long_texts_from_manifests_are_cut() -> None:
    """A name of a megabyte does not become a line of a megabyte."""
    assert brief("a" * 80) == "a" * 80
    assert len(brief("a" * 1_000_000)) == 80
