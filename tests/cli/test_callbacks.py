"""`genblaze-dagster callbacks` as people start it: a process, a port, a ledger, an interrupt."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.providers.protocol import JobState
from tests.cli.conftest import Call
from tests.pipeline.callback_vendor import call
from tests.support.submissions import book

SECRET = "a secret of the tests"
PUBLIC = "https://media.example.com/genblaze"
SETTINGS = {"GENBLAZE_CALLBACK_URL": PUBLIC, "GENBLAZE_CALLBACK_SECRET": SECRET}
PROGRAM = (
    "import sys; from genblaze_dagster.cli import main; sys.argv[0] = 'genblaze-dagster'; main()"
)


@contextmanager
def receiver(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A receiver on a free port, and what it said about itself."""
    command = [sys.executable, "-c", PROGRAM, "callbacks", "--port", "0", "--json"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **SETTINGS, "GENBLAZE_LEDGER": str(folder / "ledger.db")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = "".join(iter(process.stdout.readline, "}\n"))
        yield process, json.loads(f"{said}}}")
    finally:
        process.kill()
        process.communicate(timeout=300)


def local(address: str, listening: str) -> str:
    """The address as the proxy in front of the receiver passes it on."""
    return address.replace("https://media.example.com", listening)


def test_a_vendors_call_resolves_a_held_submission(tmp_path: Path) -> None:
    """One call to the address that went along with the submit; then an interrupt ends it."""
    with book(f"sqlite:///{tmp_path / 'ledger.db'}") as kept, receiver(tmp_path) as (process, told):
        row = kept.held("a", provider="luma")
        assert (told["public"], "luma" in told["vendors"]) == (PUBLIC, True)
        address = local(
            CallbackEndpoint(PUBLIC, SECRET).address("luma", row.run_id), told["listening"]
        )
        body = json.dumps({"id": "7f0c2b1e-1111-2222-3333-444455556666", "state": "completed"})
        assert call(f"{address}x", body.encode()) == 401
        assert call(address, body.encode()) == 200
        assert kept.ledger.get(row.id).state is SubmissionState.SUBMITTED
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=300)
        assert process.returncode == 130
    assert "7f0c2b1e" in log
    assert "answered with 401" in log
    for secret in (SECRET, "token", "gbcb_", "submission="):
        assert secret not in log


def test_a_termination_is_quiet(tmp_path: Path) -> None:
    """As a service manager stops it."""
    with receiver(tmp_path) as (process, _):
        process.terminate()
        _, log = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "GENBLAZE_CALLBACK_URL and GENBLAZE_CALLBACK_SECRET are not set"),
        ({"GENBLAZE_CALLBACK_URL": PUBLIC}, "GENBLAZE_CALLBACK_SECRET is not set"),
        ({**SETTINGS, "GENBLAZE_CALLBACK_SECRET": "short"}, "shorter than 16 bytes"),
    ],
    ids=["nothing", "half", "short"],
)
def test_what_is_missing_is_named(invoke: Call, settings: dict[str, str], problem: str) -> None:
    """Before anything listens."""
    unset = dict.fromkeys(SETTINGS)
    ended = invoke("callbacks", "--port", "0", env={**unset, **settings})
    assert ended.status == 4
    assert problem in ended.stderr


def test_a_taken_port_is_named(invoke: Call) -> None:
    """With what to do about it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = invoke("callbacks", "--port", port, env=SETTINGS)
    assert ended.status == 4
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "--port" in ended.stderr


def test_an_empty_host_is_not_every_address(invoke: Call) -> None:
    """As of a variable that is not set: nobody has asked for the whole network."""
    ended = invoke("callbacks", "--host", "", "--port", "0", env=SETTINGS)
    assert ended.status == 2
    assert "--host is empty" in ended.stderr


def test_show_names_what_was_called_back(tmp_path: Path, invoke: Call) -> None:
    """The job, its state, who said so and when."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with book(url) as kept:
        row = kept.held("a")
        key = row.run_id
        kept.ledger.called_back("fal", "d-1", "j-1", state=JobState.SUCCEEDED, submission_key=key)
        kept.ledger.called_back("fal", "d-2", "j-2", state=None, submission_key=key)
    shown = invoke("ledger", "show", row.id, "--ledger", url).stdout
    told = [line for line in shown.splitlines() if line.startswith("called back ")]
    assert len(told) == 2
    assert told[0].endswith("by fal: job j-1 succeeded")
    assert told[1].endswith("by fal: job j-2 in an unknown state")
    document = invoke("ledger", "show", row.id, "--ledger", url, "--json").document
    assert [(one["job_id"], one["state"]) for one in document["callbacks"]] == [
        ("j-1", "succeeded"),
        ("j-2", None),
    ]


def test_show_names_what_was_called_back_about_earlier_attempts(
    tmp_path: Path, invoke: Call
) -> None:
    """A job that was given up as lost is paid all the same: whoever looks is told of it."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with book(url) as kept:
        row = kept.held("a")
        kept.ledger.resolve(row.id, lost=True)
        again = kept.held("a")
        assert (again.id, again.attempt) == (row.id, 2)
        other = kept.held("b")
        for number, key in enumerate((row.run_id, f"{row.run_id}-1", other.run_id)):
            kept.ledger.called_back(
                "luma", f"d-{number}", f"j-{number}", state=None, submission_key=key
            )
    document = invoke("ledger", "show", row.id, "--ledger", url, "--json").document
    assert [one["job_id"] for one in document["callbacks"]] == ["j-0", "j-1"]
