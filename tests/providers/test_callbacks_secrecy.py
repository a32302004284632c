import logging
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.net.redact import REDACTED
from tests.providers.calling_vendor import ENDPOINT, MAKERS, ran, rows, running


@pytest.mark.parametrize("vendor", MAKERS)
@pytest.mark.parametrize("ends", ["succeeded", "failed", "refused", "lost"])
def test_an_address_is_in_nothing_that_is_kept_or_said(
    vendor: str, ends: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However a job ends, and whatever the vendor repeats: not in objects, rows, errors or logs."""
    caplog.set_level(logging.DEBUG)
    with running(ends) as wire:
        said = ran(vendor, wire, tmp_path, ENDPOINT)
    assert wire.submits == 1
    (row,) = rows(tmp_path)
    expected = {
        "succeeded": SubmissionState.STORED,
        "lost": SubmissionState.HELD,
    }.get(ends, SubmissionState.FAILED)
    if (vendor, ends) != ("luma", "succeeded"):
        # What Luma makes is at a URL, which is fetched from public addresses only.
        assert row.state is expected
    token = parse_qs(urlsplit(wire.said).query)["token"][0]
    ENDPOINT.verify(vendor, row.run_id, token)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    kept = b"\n".join(path.read_bytes() for path in files)
    for text in (kept.decode("latin-1"), said, caplog.text, repr(row)):
        assert token[5:] not in text
    if ends == "failed":
        # What is looked for would have been there.
        assert REDACTED in said + kept.decode("latin-1")


@pytest.mark.parametrize("vendor", MAKERS)
def test_a_receiver_is_no_part_of_what_is_generated(vendor: str, tmp_path: Path) -> None:
    """The generation key is the same with and without one: nothing is paid again for it."""
    keys: list[str] = []
    for name, callbacks in (("with", ENDPOINT), ("without", None)):
        folder = tmp_path / name
        folder.mkdir()
        with running("failed") as wire:
            ran(vendor, wire, folder, callbacks)
            assert bool(wire.addresses) == (callbacks is not None)
        (row,) = rows(folder)
        keys.append(row.generation_key)
    assert keys[0] == keys[1]
