"""Vendors' calls from the address to the row: what is believed, what is answered, what is found."""

import asyncio
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.errors import HeldError, PipelineError
from genblaze_dagster.ledger.ledger import Intent, Ledger, SubmissionState
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.pipeline.callbacks import callback_app, callback_providers
from genblaze_dagster.pipeline.outcome import Origin
from genblaze_dagster.providers.vendor.callbacks import MAX_BODY_BYTES
from tests.pipeline.callback_vendor import (
    SECRET,
    CallingVendor,
    call,
    endpoint_of,
    generate,
    signature,
    told,
)
from tests.support.leases import end_leases
from tests.support.serving import serving

HERE = Path(__file__).parent


@dataclass
class Site:
    """A receiver that is running, with its ledger."""

    folder: Path
    origin: str
    ledger: Ledger
    vendor: CallingVendor

    def address(self, key: str, vendor: str = "calling") -> str:
        return endpoint_of(self.folder).address(vendor, key)

    def held(self) -> str:
        """Run until the answer to the submit is lost; return the address that the vendor got."""
        with pytest.raises(HeldError):
            asyncio.run(generate(self.folder, self.vendor))
        return self.vendor.accepted[-1]["address"]


@contextmanager
def running(
    folder: Path, *, signs: bool = False, busy_timeout: float = 30, body_seconds: float = 60
) -> Iterator[Site]:
    """A receiver in a folder."""
    vendor, endpoint = CallingVendor(folder, signs=signs), endpoint_of(folder)
    with Ledger(folder / "ledger.db", busy_timeout=busy_timeout) as ledger:
        app = callback_app(
            ledger, endpoint, providers={"calling": vendor}, body_seconds=body_seconds
        )
        with serving(app, folder) as origin:
            yield Site(folder, origin, ledger, vendor)


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A receiver of a vendor that signs when parametrized so."""
    with running(tmp_path, signs=getattr(request, "param", False)) as site:
        yield site


def only(ledger: Ledger):
    (row,) = ledger.rows()
    return row


def test_a_lost_answer_comes_back_by_a_call(site: Site) -> None:
    """Held, called back, fetched by the next run: one submit, although the vendor lists no jobs."""
    address = site.held()
    assert only(site.ledger).state is SubmissionState.HELD
    assert call(address, told("job-0")) == 200
    row = only(site.ledger)
    assert (row.state, row.job_id) == (SubmissionState.SUBMITTED, "job-0")
    outcome = asyncio.run(generate(site.folder, site.vendor))
    assert outcome.origin is Origin.RESUMED
    assert len(site.vendor.accepted) == 1
    row = only(site.ledger)
    assert (row.state, row.cost_usd, row.attempt) == (SubmissionState.STORED, 0.5, 1)


def test_a_pipeline_finds_what_was_called_back_about(site: Site) -> None:
    """The same with `Pipeline.run`, whose runs are wishes of their own."""
    store = MediaStore((site.folder / "store").as_uri())
    pipeline = Pipeline("p").step(site.vendor, model="m", prompt="a fox")
    with pytest.raises(PipelineError):
        pipeline.run(store=store, ledger=site.ledger)
    assert call(site.vendor.accepted[0]["address"], told("job-0")) == 200
    result = pipeline.run(store=store, ledger=site.ledger)
    assert (list(result.outcomes), result.failed_steps()) == (["image"], [])
    assert len(site.vendor.accepted) == 1


@pytest.mark.parametrize("comes", ["before the lease ends", "after the lease ended"])
def test_a_process_killed_before_the_answer_has_paid_once(site: Site, comes: str) -> None:
    """SIGKILL between send and answer, a call, and the next run fetches the job of the first."""
    program = [sys.executable, "-m", "tests.pipeline.callback_vendor", str(site.folder)]
    worker = subprocess.Popen(program, cwd=HERE.parents[1])
    try:
        deadline = time.monotonic() + 300
        while not site.vendor.accepted:
            assert worker.poll() is None
            assert time.monotonic() < deadline, "nothing was submitted within 300 s"
            time.sleep(0.02)
        if comes == "before the lease ends":
            assert call(site.vendor.accepted[0]["address"], told("job-0")) == 200
            row = only(site.ledger)
            assert (row.state, row.job_id) == (SubmissionState.INTENDED, None)
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    end_leases(site.folder / "ledger.db")
    if comes == "after the lease ended":
        assert call(site.vendor.accepted[0]["address"], told("job-0")) == 200
        assert only(site.ledger).job_id == "job-0"
    outcome = asyncio.run(generate(site.folder, site.vendor))
    assert outcome.origin is Origin.RESUMED
    assert len(site.vendor.accepted) == 1


class Early(CallingVendor):
    """Calls before its answer is lost."""

    async def submit(self, request):
        try:
            return await super().submit(request)
        finally:
            address = self.accepted[-1]["address"]
            assert await asyncio.to_thread(call, address, told("job-0")) == 200


def test_a_call_during_the_submit_serves_the_worker_that_loses_the_answer(site: Site) -> None:
    """The same run goes on with the job, and nobody has to decide."""

    outcome = asyncio.run(generate(site.folder, Early(site.folder)))
    assert outcome.origin is Origin.RESUMED
    assert len(site.vendor.accepted) == 1


def test_what_was_called_back_needs_no_looking(site: Site) -> None:
    """A vendor that lists its jobs is not asked for what it has told already."""

    class Listing(Early):
        async def find_jobs(self, request, *, since):
            raise AssertionError("it was asked")

    assert asyncio.run(generate(site.folder, Listing(site.folder))).origin is Origin.RESUMED


def test_a_job_of_another_submission_stays_where_it_is(site: Site) -> None:
    """A call that gives it to a second one changes nothing, now or in the next run."""
    intent = Intent("other", None, "run-0", "g", "calling", "m")
    other = site.ledger.claim(intent, owner="w").submission
    site.ledger.mark_sending(other.id, "w")
    other = site.ledger.submitted(other.id, "w", "job-0")
    address = site.held()
    assert call(address, told("job-0")) == 200
    with pytest.raises(HeldError):
        asyncio.run(generate(site.folder, site.vendor))
    assert site.ledger.get(other.id) == other
    assert len(site.vendor.accepted) == 1


def test_many_calls_at_once_are_all_recorded(site: Site) -> None:
    """They share commits; each is answered when it is durable."""
    address = site.held()
    with ThreadPoolExecutor(16) as callers:
        bodies = [told(f"job-{number}", id=f"d-{number}") for number in range(60)]
        assert set(callers.map(lambda body: call(address, body), bodies)) == {200}
    found = site.ledger.callbacks_for(only(site.ledger))
    assert len(found) == 60
    assert only(site.ledger).job_id in {one.job_id for one in found}


def test_repetitions_are_answered_and_change_nothing(site: Site) -> None:
    """Vendors call again; the second gets the same answer."""
    address = site.held()
    assert [call(address, told("job-0")) for _ in range(3)] == [200] * 3
    before = only(site.ledger)
    assert call(address, told("job-9", id="d-2")) == 200
    assert only(site.ledger) == before
    assert [one.job_id for one in site.ledger.callbacks_for(before)] == ["job-0", "job-9"]


@pytest.mark.parametrize("site", [True], indirect=True, ids=["signs"])
def test_a_vendor_that_signs_needs_signature_and_token(site: Site) -> None:
    """A token that does not fit is refused with a good signature, and the other way round."""
    address, body = site.held(), told("job-0")
    good = {"x-signature": signature(body)}
    bare = address.partition("?")[0]
    assert call(address, body) == 401
    assert call(address, body + b" ", **good) == 401
    assert call(f"{address}x", body, **good) == 401
    assert call(f"{bare}?submission=a", body, **good) == 401
    assert only(site.ledger).state is SubmissionState.HELD
    assert call(bare, body, **good) == 200
    assert only(site.ledger).state is SubmissionState.HELD
    second = told("job-0", id="d-2")
    assert call(address, second, **{"x-signature": signature(second)}) == 200
    assert only(site.ledger).job_id == "job-0"


def test_a_vendor_that_signs_nothing_needs_the_token(site: Site) -> None:
    """Whoever does not know the address cannot speak for the vendor."""
    address, body = site.held(), told("job-0")
    bare, _, query = address.partition("?")
    token = query.rpartition("=")[2]
    foreign = CallbackEndpoint(f"{site.origin}/in/genblaze", "another secret of 16 bytes")
    refused = [
        bare,
        f"{bare}?submission={only(site.ledger).run_id}",
        f"{bare}?token={token}",
        f"{bare}?submission=other&token={token}",
        f"{address}&submission=other",
        f"{address}&token={token}",
        site.address(only(site.ledger).run_id, "other").replace("/other?", "/calling?"),
        foreign.address("calling", only(site.ledger).run_id),
        f"{bare}?{'&'.join(f'a{n}=1' for n in range(20))}",
        f"{bare}?submission=%ff&token=%ff",
    ]
    assert [call(url, body) for url in refused] == [401] * len(refused)
    assert site.ledger.callbacks_for(only(site.ledger)) == ()
    assert only(site.ledger).state is SubmissionState.HELD


def test_other_addresses_and_methods_lead_nowhere(site: Site) -> None:
    """An unknown vendor is not found; nothing is redirected, which would show the address."""
    address = site.address("k")
    assert call(address.replace("/calling?", "/nobody?"), b"{}") == 404
    assert call(address.replace("/calling?", "/calling/?"), b"{}") == 404
    assert call(address.replace("/in/genblaze/", "/"), b"{}") == 404
    with socket.create_connection(("127.0.0.1", int(site.origin.rpartition(":")[2]))) as raw:
        raw.sendall(b"GET /in/genblaze/calling HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert b" 405 " in raw.makefile("rb").readline()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", told("job-0", id=""), told("j" * 513), told("a\nb"), told("a", state="x")],
    ids=["empty", "cut", "list", "no-id", "long", "control", "state"],
)
def test_bodies_that_tell_nothing_are_refused(site: Site, body: bytes) -> None:
    """With a good token; nothing of them is recorded."""
    assert call(site.address("k"), body) == 401
    with closing(sqlite3.connect(site.folder / "ledger.db")) as ledger:
        assert _count(ledger) == 0


def _count(ledger: sqlite3.Connection) -> int:
    try:
        return ledger.execute("SELECT count(*) FROM callbacks").fetchone()[0]
    except sqlite3.OperationalError:
        # Nobody has had a reason to open it.
        return 0


def test_a_body_of_a_mebibyte_is_taken_and_a_larger_one_is_not(site: Site) -> None:
    """The limit is read to, and no further, whether or not the length is announced."""
    address = site.address("k")
    body = told("job-0", filler="")
    whole = told("job-0", filler="x" * (MAX_BODY_BYTES - len(body)))
    assert len(whole) == MAX_BODY_BYTES
    assert call(address, whole) == 200
    assert call(address, whole + b" ") == 413
    with socket.create_connection(("127.0.0.1", int(site.origin.rpartition(":")[2]))) as raw:
        path = address.removeprefix(site.origin)
        raw.sendall(f"POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n".encode())
        raw.sendall(b"\r\n")
        raw.settimeout(60)
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(17):
            raw.sendall(chunk)
        assert b" 413 " in raw.makefile("rb").readline()


def endless_call(site: Site) -> socket.socket:
    """A call whose body is announced and does not come."""
    path = site.address("k").removeprefix(site.origin)
    raw = socket.create_connection(("127.0.0.1", int(site.origin.rpartition(":")[2])))
    raw.sendall(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 99999\r\n\r\n".encode())
    return raw


def test_others_are_served_while_a_body_does_not_end(site: Site) -> None:
    """It has a minute here, which nobody has to wait for."""
    with endless_call(site):
        assert call(site.address("other"), told("job-1")) == 200


def test_a_body_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    """However slowly it drips, it has half a second here."""
    with running(tmp_path, body_seconds=0.5) as site, endless_call(site) as raw:
        begun = time.monotonic()
        raw.settimeout(0.1)
        answer = b""
        while not answer:
            assert time.monotonic() - begun < 50
            try:
                raw.sendall(b"{")
                answer = raw.recv(100)
            except TimeoutError:
                continue
        assert b" 408 " in answer
        assert is_hung_up(raw)


def is_hung_up(raw: socket.socket) -> bool:
    """Whether the receiver ends a connection on which a body goes on dripping."""
    begun = time.monotonic()
    raw.settimeout(0.1)
    while time.monotonic() - begun < 60:
        try:
            raw.sendall(b"{")
            if not raw.recv(1000):
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize(
    ("path", "status"),
    [("/in/genblaze/nobody", 404), ("/elsewhere", 404), ("/in/genblaze/calling", 413)],
    ids=["vendor", "path", "large"],
)
def test_a_body_that_nobody_reads_keeps_no_connection(site: Site, path: str, status: int) -> None:
    """What is answered before it has come may drip on, but not to the receiver."""
    with socket.create_connection(("127.0.0.1", int(site.origin.rpartition(":")[2]))) as raw:
        raw.settimeout(50)
        raw.sendall(f"POST {path} HTTP/1.1\r\nhost: a\r\n".encode())
        raw.sendall(b"content-length: 999999999\r\n\r\n")
        if status == 413:
            raw.sendall(b" " * (MAX_BODY_BYTES + 1))
        assert f" {status} ".encode() in raw.recv(1000)
        assert is_hung_up(raw)


@pytest.mark.parametrize(("version", "says"), [("1.1", [b"close"]), ("2", [])])
def test_only_connections_of_one_call_at_a_time_are_ended(
    tmp_path: Path, version: str, says: list[bytes]
) -> None:
    """In HTTP/2 the header that ends one is an error, and one call does not stand for the others."""
    answers: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "http_version": version,
        "method": "POST",
        "path": "/in/genblaze/nobody",
        "query_string": b"",
        "headers": [],
    }
    with Ledger(tmp_path / "ledger.db") as ledger:
        app = callback_app(ledger, endpoint_of(tmp_path), providers={})
        asyncio.run(app(scope, receive, send))
    headers: list[tuple[bytes, bytes]] = answers[0]["headers"]
    assert answers[0]["status"] == 404
    assert [value for name, value in headers if name == b"connection"] == says


def test_while_the_ledger_is_locked_a_vendor_has_to_call_again(tmp_path: Path) -> None:
    """503, within the ledger's patience; nothing is lost once it calls again."""
    with running(tmp_path, busy_timeout=2) as site:
        address = site.held()
        with closing(sqlite3.connect(site.folder / "ledger.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            assert call(address, told("job-0")) == 503
            # A ledger is else patient for half a minute.
            assert time.monotonic() - begun < 25
            other.rollback()
        assert call(address, told("job-0")) == 200
        assert only(site.ledger).job_id == "job-0"


def test_while_the_ledger_is_away_a_vendor_has_to_call_again(tmp_path: Path) -> None:
    """A server that cannot be reached is told to nobody but the log."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    vendor = CallingVendor(tmp_path)
    gone = f"postgresql://user:hidden-word@127.0.0.1:{port}/none"
    with Ledger(gone, busy_timeout=1) as ledger:
        app = callback_app(ledger, endpoint_of(tmp_path), providers={"calling": vendor})
        with serving(app, tmp_path):
            address = endpoint_of(tmp_path).address("calling", "k")
            assert call(address, told("job-0")) == 503


def test_a_provider_with_a_bug_is_answered_for(tmp_path: Path) -> None:
    """The vendor calls again; what it raised stays here."""

    class Broken(CallingVendor):
        async def read_callback(self, headers, body, *, now, query=None):
            raise RuntimeError(f"surprise: {body!r}")

    with Ledger(tmp_path / "ledger.db") as ledger:
        app = callback_app(ledger, endpoint_of(tmp_path), providers={"calling": Broken(tmp_path)})
        with serving(app, tmp_path):
            assert call(endpoint_of(tmp_path).address("calling", "k"), told("job-0")) == 500


def test_an_application_may_be_served_again(tmp_path: Path) -> None:
    """What ended with its first server begins anew with the second."""
    providers = {"calling": CallingVendor(tmp_path)}
    with Ledger(tmp_path / "ledger.db") as ledger:
        app = callback_app(ledger, endpoint_of(tmp_path), providers=providers)
        for job in ("job-0", "job-1"):
            with serving(app, tmp_path):
                assert call(endpoint_of(tmp_path).address("calling", "k"), told(job, id=job)) == 200


def test_nothing_secret_is_logged_or_kept(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Neither addresses nor tokens, nor a word of a body, good or bad."""
    caplog.set_level(logging.DEBUG)
    address = site.held()
    token = address.rpartition("=")[2]
    assert call(address, told("job-0", prompt="a-private-prompt")) == 200
    assert call(f"{address}x", told("job-0", id="d-2", prompt="a-private-prompt")) == 401
    assert call(address, b"a-private-prompt") == 401
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "job-0" in said
    assert "POST /in/genblaze/calling" in said, "the server's access log is part of this"
    kept = (site.folder / "ledger.db").read_bytes()
    wal = site.folder / "ledger.db-wal"
    kept += wal.read_bytes() if wal.exists() else b""
    for secret in (token, token[:20], SECRET, address, "a-private-prompt"):
        assert secret not in said
        assert secret.encode() not in kept


def test_built_in_vendors_that_call_back_are_received() -> None:
    """Each by its own provider, without a key."""
    found = callback_providers()
    assert {"fal", "replicate", "luma", "assemblyai", "openai"} <= set(found)
    for provider in found.values():
        assert isinstance(provider.proves_callbacks, bool)
