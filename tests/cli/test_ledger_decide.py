import asyncio
import os
import pty
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from genblaze_dagster.cli import ledger_cancel
from genblaze_dagster.errors import ProviderUnavailableError
from genblaze_dagster.ledger.ledger import SubmissionState
from genblaze_dagster.providers import register_provider
from tests.cli.conftest import PROGRAM, Call
from tests.support.providers import CountingProvider
from tests.support.submissions import Book, book


@dataclass
class StoppableProvider(CountingProvider):
    """Says what the test wants when a job is to be stopped, and is one account."""

    name: str = "vendor"
    account: str = "ab12"
    rate_limit: None = None
    answer: bool | Exception = True
    closed: list[str] = field(default_factory=list)

    async def cancel(self, job_id: str) -> bool:
        await asyncio.sleep(0)
        self.cancelled.append(job_id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def aclose(self) -> None:
        self.closed.append(self.name)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """An empty ledger that the command finds by its variable."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("GENBLAZE_LEDGER", url)
    with book(url) as opened:
        yield opened


@pytest.fixture
def vendor() -> StoppableProvider:
    """What `vendor` in a ledger stands for in this process."""
    provider = StoppableProvider()
    register_provider("vendor", lambda: provider)
    return provider


def test_a_job_found_at_the_vendor_is_what_the_next_run_polls(kept: Book, invoke: Call) -> None:
    """The submission is open again with that job, as the vendor calls it; nothing is submitted."""
    held = kept.held("a")
    ended = invoke("ledger", "resolve", held.id[-12:], "--job", "vid_9 ", "--yes")
    assert ended.status == 0
    assert "the next run of this asset with the same request polls job vid_9" in ended.stdout
    row = kept.ledger.get(held.id)
    assert (row.state, row.job_id, row.owner) == (SubmissionState.SUBMITTED, "vid_9", None)


def test_what_was_never_submitted_is_submitted_by_the_next_retry(kept: Book, invoke: Call) -> None:
    """The same intent gets another attempt, which costs once."""
    held = kept.held("a")
    ended = invoke("ledger", "resolve", held.id, "--not-submitted", "--yes", "--json")
    assert (ended.status, ended.document["state"]) == (0, "failed")
    assert kept.claimed("a").attempt == 2
    assert invoke("ledger", "list", "--json").document["totals"]["reserved_usd"] == 0.04


@pytest.mark.parametrize(
    ("cost", "paid", "reserved"),
    [(("--cost", "0.4"), 0.4, 0.0), ((), 0.0, 0.04)],
    ids=["known", "unknown"],
)
def test_what_was_paid_and_lost_goes_on_counting(
    kept: Book, invoke: Call, cost: tuple[str, ...], paid: float, reserved: float
) -> None:
    """With its cost, or with what is reserved when nobody knows it."""
    held = kept.held("a")
    assert invoke("ledger", "resolve", held.id, "--paid-lost", *cost, "--yes").status == 0
    totals = invoke("ledger", "list", "--json").document["totals"]
    assert (totals["paid_usd"], totals["reserved_usd"]) == (paid, reserved)
    assert kept.ledger.get(held.id).state is SubmissionState.FAILED


@pytest.mark.parametrize(
    ("decision", "reserved"),
    [(("--not-submitted",), 0.0), (("--paid-lost",), 0.04), (("--job", "vid_9"), 0.04)],
    ids=["absent", "lost", "found"],
)
def test_what_a_gone_worker_had_sent_is_decided_before_it_is_held(
    kept: Book, invoke: Call, decision: tuple[str, ...], reserved: float
) -> None:
    """Nobody has to start a run only to have it hold the submission."""
    row = kept.ledger.release(kept.sent("a").id, "w")
    shown = invoke("ledger", "show", row.id, "--json")
    assert f"ledger resolve {row.id[-12:]} --job JOB_ID" in shown.document["next"]
    assert invoke("ledger", "resolve", row.id, *decision, "--yes").status == 0
    totals = invoke("ledger", "list", "--json").document["totals"]
    assert (totals["paid_usd"], totals["reserved_usd"]) == (0.0, reserved)


@pytest.mark.parametrize("state", ["stored", "failed", "stuck", "claimed", "sent"])
def test_only_a_held_submission_is_decided(kept: Book, invoke: Call, state: str) -> None:
    """Any other is left as it is; the message says what happens with it instead."""
    row = getattr(kept, state)("a")
    ended = invoke("ledger", "resolve", row.id, "--not-submitted", "--yes", "--json")
    assert ended.status == 1
    message = ended.document["error"]["message"]
    assert f"(story/image[a]) is {row.state}, and only a held one, or one whose" in message
    assert kept.ledger.get(row.id) == row


def test_one_job_is_not_the_answer_to_two_requests(kept: Book, invoke: Call) -> None:
    """A job that another submission has, or once had, is refused."""
    held, other = kept.held("a"), kept.failed("b", job="job-1")
    kept.claimed("b")
    ended = invoke("ledger", "resolve", held.id, "--job", "job-1", "--yes")
    assert ended.status == 1
    assert f"cannot have job job-1: that is submission {other.id}'s" in ended.stderr
    assert kept.ledger.get(held.id).state is SubmissionState.HELD


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give one of --job, --not-submitted and --paid-lost"),
        (("--job", "j", "--paid-lost"), "give one of"),
        (("--job", " ", "--yes"), "--job is empty"),
        (("--not-submitted", "--cost", "1"), "belongs to --paid-lost"),
        (("--paid-lost", "--cost", "inf"), "an amount in USD"),
        (("--paid-lost", "--cost", "-1"), "not in the range"),
        (("--not-submitted",), "nobody can be asked here; give --yes"),
    ],
    ids=["nothing", "two", "no-job", "cost", "infinite", "negative", "nobody-to-ask"],
)
def test_a_decision_is_one_and_is_whole(
    kept: Book, invoke: Call, arguments: tuple[str, ...], words: str
) -> None:
    """Nothing is decided by half an answer, nor without somebody who says so."""
    held = kept.held("a")
    ended = invoke("ledger", "resolve", held.id, *arguments)
    assert ended.status == 2
    assert words in ended.stderr
    assert kept.ledger.get(held.id) == held


def test_of_two_people_at_once_one_decides_and_the_other_is_told(kept: Book) -> None:
    """Two processes, each sure of another job: one job is recorded, and both know which."""
    held = kept.held("a")

    def decide(job: str) -> "subprocess.CompletedProcess[str]":
        command = [PROGRAM, "ledger", "resolve", held.id, "--job", job, "--yes"]
        return subprocess.run(
            [*command, "--ledger", kept.url], capture_output=True, text=True, timeout=300
        )

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(decide, ["job-1", "job-2"]))
    assert sorted(end.returncode for end in ends) == [0, 1]
    lost = next(end for end in ends if end.returncode)
    won = kept.ledger.get(held.id)
    assert won.job_id == ("job-2" if lost is ends[0] else "job-1")
    assert f"polls job {won.job_id}" in lost.stderr


def test_a_decision_made_while_the_question_stood_is_told(kept: Book) -> None:
    """Somebody else was quicker than the answer on the terminal; his decision stays."""
    held = kept.held("a")
    terminal, keyboard = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "ledger", "resolve", held.id, "--not-submitted", "--ledger", kept.url],
        stdin=keyboard,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        asked = ""
        while "[y/N]" not in asked:
            asked += (letter := process.stderr.read(1))
            assert letter, asked
        kept.ledger.resolve(held.id, job_id="job-1")
        os.write(terminal, b"y\n")
        _, told = process.communicate(timeout=300)
    os.close(terminal)
    os.close(keyboard)
    assert "Was story/image[a] at vendor/m never accepted?" in asked
    assert process.returncode == 1
    assert "was decided by somebody else a moment ago: it is submitted" in told
    assert kept.ledger.get(held.id).job_id == "job-1"


def test_a_job_is_stopped_at_the_vendor_and_in_the_ledger(
    kept: Book, invoke: Call, vendor: StoppableProvider
) -> None:
    """What may have been paid goes on counting."""
    row = kept.stuck("a", job="job-7")
    ended = invoke("ledger", "cancel", "job-7", "--yes")
    assert (ended.status, vendor.cancelled, vendor.closed) == (0, ["job-7"], ["vendor"])
    assert "vendor confirms that job job-7 is stopped" in ended.stdout
    after = kept.ledger.get(row.id)
    assert after.state is SubmissionState.FAILED
    assert "cancelled by a person" in (after.error_message or "")
    assert invoke("ledger", "list", "--json").document["totals"]["reserved_usd"] == 0.04


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (False, "vendor does not confirm that job job-7 is stopped"),
        (
            ProviderUnavailableError(
                "down: https://v/x?api_key=sk-live-0123456789abcdef0123", sent=None
            ),
            "vendor could not be asked: down",
        ),
        (ValueError("sk-live-0123456789abcdef0123"), "vendor could not be asked: ValueError"),
    ],
    ids=["no", "down", "bug"],
)
def test_without_the_vendors_word_a_job_stays_as_it_is(
    kept: Book, invoke: Call, vendor: StoppableProvider, answer: bool | Exception, words: str
) -> None:
    """It may go on and be billed, so it can still be fetched; --force gives it up all the same."""
    vendor.answer = answer
    row = kept.stuck("a", job="job-7")
    ended = invoke("ledger", "cancel", row.id, "--yes")
    assert ended.status == 1
    assert words in ended.stdout
    assert "sk-live" not in ended.stdout
    assert kept.ledger.get(row.id) == row
    assert invoke("ledger", "cancel", row.id, "--yes", "--force").status == 0
    assert kept.ledger.get(row.id).state is SubmissionState.FAILED


def test_an_attempt_that_began_during_the_question_is_not_given_up(
    kept: Book, invoke: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job is another than the one that was meant, and its worker waits for it."""
    row = kept.stuck("a", job="job-7")

    def long_thought(question: str, *, yes: bool) -> None:
        kept.ledger.cancelled(row.id, "by somebody else")
        kept.submitted("a", job="job-8")

    monkeypatch.setattr(ledger_cancel, "confirm", long_thought)
    ended = invoke("ledger", "cancel", row.id, "--local")
    assert ended.status == 1
    assert "attempt 2 began meanwhile" in ended.stdout
    after = kept.ledger.get(row.id)
    assert (after.state, after.job_id) == (SubmissionState.SUBMITTED, "job-8")


def test_a_key_of_another_account_cancels_nothing(
    kept: Book, invoke: Call, vendor: StoppableProvider
) -> None:
    """The vendor would say that there is no such job, and it would go on."""
    vendor.account = "cd34"
    row = kept.stuck("a")
    ended = invoke("ledger", "cancel", row.id, "--yes")
    assert ended.status == 1
    assert "belongs to account ab12, and the key in the environment to cd34" in ended.stdout
    assert vendor.cancelled == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("stored", "it is stored: there is nothing to cancel"),
        ("failed", "it is failed: there is nothing to cancel"),
        ("held", "ledger resolve"),
        ("claimed", "it is being submitted right now"),
    ],
)
def test_what_is_no_open_job_is_not_cancelled(
    kept: Book, invoke: Call, vendor: StoppableProvider, state: str, words: str
) -> None:
    """The reason is told, and the others of the same call are cancelled."""
    row, good = getattr(kept, state)("a"), kept.stuck("b", job="job-2")
    ended = invoke("ledger", "cancel", row.id, good.id, "--yes", "--json")
    assert ended.status == 1
    left, done = ended.document["submissions"]
    assert words in left["problem"]
    assert (left["cancelled"], done["cancelled"]) == (False, True)
    assert kept.ledger.get(row.id) == row


def test_a_paid_job_is_only_given_up_on_purpose(
    kept: Book, invoke: Call, vendor: StoppableProvider
) -> None:
    """Its outputs can be fetched; --local says that nobody wants them, and asks no vendor."""
    row = kept.expiring("a", datetime.now(UTC) + timedelta(days=1))
    refused = invoke("ledger", "cancel", row.id, "--yes", "--force")
    assert refused.status == 1
    assert "the job is done and paid" in refused.stdout
    ended = invoke("ledger", "cancel", row.id, "--yes", "--local")
    assert ended.status == 0
    assert vendor.cancelled == []
    assert kept.ledger.get(row.id).state is SubmissionState.FAILED


def test_a_provider_that_is_not_installed_is_named(kept: Book, invoke: Call) -> None:
    """The job stays as it is."""
    row = kept.stuck("a", provider="nobody-knows-it")
    ended = invoke("ledger", "cancel", row.id, "--yes")
    assert ended.status == 1
    assert "provider 'nobody-knows-it' is not known" in ended.stdout
    assert kept.ledger.get(row.id) == row


def test_a_real_process_cancels_what_was_never_sent(kept: Book, launch: Call) -> None:
    """No vendor has to be asked, so no key is needed."""
    row = kept.claimed("a")
    kept.ledger.release(row.id, "w")
    ended = launch("ledger", "cancel", row.id, "--yes")
    assert (ended.status, ended.stderr) == (0, "")
    assert "vendor has no job of it" in ended.stdout
