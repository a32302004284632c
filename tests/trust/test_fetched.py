import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.download import stream_download
from genblaze_dagster.net.guarded import GuardedTransport
from genblaze_dagster.net.ssrf import UrlPolicy
from genblaze_dagster.storage.fetch import AssetFetcher
from genblaze_dagster.trust import BytesVerdict, Status, Verdict, VerificationReport, verify
from genblaze_dagster.trust.file import Question
from genblaze_dagster.trust.targets import LocalFile
from genblaze_dagster.trust.verification import answer
from tests.support.raw_http import RawServer, certificate_for, raw_server
from tests.support.raw_http import answer as http_answer
from tests.trust.conftest import made_by, write, write_sidecar

HOST = "media.example.test"
DATA = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3000
SECRET = "X-Amz-Signature=5ec0ffee5ec0ffee5ec0ffee5ec0ffee"


def fetched(
    folder: Path, manifest: Callable[[RawServer], Manifest], body: bytes = DATA, status: int = 200
) -> tuple[VerificationReport, RawServer]:
    """Verify a manifest with --fetch against a TLS server that passes for a public one."""
    server_tls, client_tls = certificate_for(HOST, folder)

    async def handler(request: Any, writer: asyncio.StreamWriter) -> None:
        if request.path.startswith("/moved"):
            writer.write(http_answer(302, {"location": f"/there?{SECRET}"}))
        else:
            writer.write(http_answer(status, body=body))

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def main() -> tuple[VerificationReport, RawServer]:
        async with raw_server(handler, server_tls) as server:
            policy = UrlPolicy(ports=frozenset({server.port}), allow_loopback=True)
            transport = GuardedTransport(policy, ssl_context=client_tls, resolve=resolve)
            async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
                open_url = partial(stream_download, policy=policy, client=client, retries=0)
                question = Question(fetcher=AssetFetcher(fetch=open_url))
                path = write(
                    folder / "manifest.json", manifest(server).to_canonical_json().encode()
                )
                report = await answer(LocalFile(path), question, target=str(path))
                return report, server

    return asyncio.run(main())


def at(path: str, *outputs: bytes) -> Callable[[RawServer], Manifest]:
    """Return a maker of a manifest whose outputs are at one URL of the server."""
    return lambda server: made_by(*outputs, url=server.url(path, host=HOST))


def check_of(report: VerificationReport) -> tuple[Status, str]:
    (check,) = (c for c in report.checks if c.name == "fetched_bytes_match")
    return check.status, check.detail


def test_outputs_are_downloaded_and_compared(tmp_path: Path) -> None:
    """Every output comes over TLS and hashes to its sha256: the bytes are verified."""
    report, server = fetched(tmp_path, at(f"/a.png?{SECRET}", DATA))
    assert report.bytes is BytesVerdict.VERIFIED
    assert report.verdict is Verdict.VERIFIED_UNSIGNED
    assert check_of(report) == (Status.PASS, "1 output(s) fetched, all hash to their sha256")
    assert [request.path for request in server.requests] == [f"/a.png?{SECRET}"]


def test_other_bytes_at_the_url_fail(tmp_path: Path) -> None:
    """What is downloaded is not what was made."""
    report, _ = fetched(tmp_path, at(f"/a.png?{SECRET}", DATA), body=DATA[:-1])
    assert report.bytes is BytesVerdict.DIFFER
    assert report.verdict is Verdict.FAILED
    (finding,) = report.findings
    assert finding.problem == "bytes differ"
    assert "/a.png" in finding.subject
    assert "5ec0ffee" not in json.dumps(report.to_dict())


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_cannot_be_downloaded_proves_nothing(status: int, tmp_path: Path) -> None:
    """An expired link is no tampering: undecided, and no query in any message."""
    report, _ = fetched(tmp_path, at(f"/moved?{SECRET}", DATA), status=status)
    assert report.bytes is BytesVerdict.UNDECIDED
    assert report.verdict is Verdict.INCONCLUSIVE
    assert str(status) in report.findings[0].detail
    assert "5ec0ffee" not in json.dumps(report.to_dict())


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/a.png",
        "https://localhost/a.png",
        "https://169.254.169.254/latest/meta-data",
        "http://cdn.example.com/a.png",
        "https://user:canary@cdn.example.com/a.png",
        "ftp://cdn.example.com/a.png",
        "data:image/png;base64,canary",
        "file://elsewhere/a.png",
        "https://[::1/a.png",
        "file:///etc/passwd",
        "not a url",
    ],
)
def test_addresses_a_manifest_may_not_lead_to_are_refused(url: str, tmp_path: Path) -> None:
    """A manifest from a stranger cannot make anybody contact or read what is inside."""
    path = write(tmp_path / "m.json", made_by(DATA, url=url).to_canonical_json().encode())
    report = verify(path, fetch=True)
    status, detail = check_of(report)
    assert status is Status.UNKNOWN
    assert "the address is refused" in detail
    assert "canary" not in json.dumps(report.to_dict())


def test_files_are_read_below_allowed_roots_only(tmp_path: Path) -> None:
    """Outside the temporary folder a file:// URL leads nowhere unless its folder was named."""
    module = Path(json.__file__)
    manifest = made_by(module.read_bytes(), url=module.as_uri())
    path = write(tmp_path / "m.json", manifest.to_canonical_json().encode())
    refused = verify(path, fetch=True)
    assert (refused.bytes, refused.verdict) == (BytesVerdict.UNDECIDED, Verdict.INCONCLUSIVE)
    assert "outside the folders" in refused.findings[0].detail
    allowed = verify(path, fetch=True, allowed_roots=[module.parent])
    assert allowed.bytes is BytesVerdict.VERIFIED


def test_files_that_changed_fail_and_missing_ones_prove_nothing(tmp_path: Path) -> None:
    """A local output is compared like any other."""
    output = write(tmp_path / "a.png", DATA)
    manifest = made_by(DATA, url=output.as_uri())
    path = write(tmp_path / "m.json", manifest.to_canonical_json().encode())
    assert verify(path, fetch=True).bytes is BytesVerdict.VERIFIED
    output.write_bytes(b"other")
    assert verify(path, fetch=True).verdict is Verdict.FAILED
    output.unlink()
    assert verify(path, fetch=True).verdict is Verdict.INCONCLUSIVE


def test_fetching_does_not_hide_what_is_in_hand(tmp_path: Path) -> None:
    """The file on the command line is compared too: its bytes and the fetched ones are two checks."""
    elsewhere = write(tmp_path / "elsewhere.png", DATA)
    path = write(tmp_path / "a.png", b"retouched")
    write_sidecar(path, made_by(DATA, url=elsewhere.as_uri()))
    report = verify(path, fetch=True)
    assert report.bytes is BytesVerdict.DIFFER
    assert check_of(report)[0] is Status.PASS
    assert report.verdict is Verdict.FAILED


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Looking at no bytes and at all of them is not one question."""
    path = write(tmp_path / "m.json", made_by(DATA).to_canonical_json().encode())
    with pytest.raises(ConfigError, match="choose one"):
        verify(path, fetch=True, hash_only=True)
    with pytest.raises(ConfigError, match="ask for fetch"):
        verify(path, allowed_roots=[tmp_path])
