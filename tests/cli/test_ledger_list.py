import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.ledger.budgets import BudgetScope
from tests.cli.conftest import Call
from tests.support.submissions import Book, book


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """An empty ledger that the command finds by its variable."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("GENBLAZE_LEDGER", url)
    with book(url) as opened:
        yield opened


def partitions(invoke: Call, *arguments: object) -> list[Any]:
    ended = invoke("ledger", "list", "--json", *arguments)
    assert ended.status == 0
    return [found["partition_key"] for found in ended.document["submissions"]]


def test_the_newest_come_first_and_the_last_line_adds_up(kept: Book, invoke: Call) -> None:
    """A table for people: short ids, states, costs, and counts by state with their sums."""
    stored, held = kept.stored("a", 0.05), kept.held("b")
    kept.stored("c", None)
    ended = invoke("ledger", "list")
    lines = ended.stdout.splitlines()
    assert [line.split()[2] for line in lines[1:4]] == [
        "story/image[c]",
        "story/image[b]",
        "story/image[a]",
    ]
    assert lines[3].startswith(stored.id[-12:])
    assert "$0.0500" in lines[3]
    assert held.id[-12:] in lines[2]
    assert "$0.0400 reserved" in lines[2]
    assert lines[-1] == (
        "3 submissions: 2 stored, 1 held; paid $0.0500, reserved $0.0800, 0 of unknown cost"
    )


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--state", "held"), ["b"]),
        (("--state", "held", "--state", "stored"), ["b", "a"]),
        (("--asset", "story/video"), ["d"]),
        (("--partition", "c"), ["c"]),
        (("--scope", "run-2"), ["d"]),
        (("--provider", "other"), ["d"]),
        (("--model", "m"), ["d", "c", "b", "a"]),
        (("--model", "n"), []),
        (("--since", "1h"), ["d", "c", "b", "a"]),
        (("--since", "2999-01-01"), []),
        (("--until", "2999-01-01T00:00+02:00"), ["d", "c", "b", "a"]),
        (("--until", "1h"), []),
        (("--stuck",), ["c"]),
        (("--limit", "2"), ["d", "c"]),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, tuple) else "",
)
def test_filters_narrow_the_list(
    kept: Book, invoke: Call, arguments: tuple[str, ...], found: list[str]
) -> None:
    """Every filter given has to match; a submission somebody works on is not stuck."""
    kept.stored("a")
    kept.held("b")
    kept.stuck("c")
    kept.submitted("d", asset_key="story/video", scope="run-2", provider="other")
    assert partitions(invoke, *arguments) == found


def test_outputs_that_expire_are_found_in_time(kept: Book, invoke: Call) -> None:
    """Only what is not fetched yet, and what the vendor has deleted already as well."""
    now = datetime.now(UTC)
    kept.expiring("soon", now + timedelta(hours=3), "job-1")
    kept.expiring("gone", now - timedelta(hours=3), "job-2")
    kept.expiring("later", now + timedelta(days=3), "job-3")
    kept.stored("fetched")
    assert partitions(invoke, "--expiring", "24h") == ["gone", "soon"]
    table = invoke("ledger", "list", "--expiring", "24h").stdout
    assert "outputs until" in table
    assert "(in 2 h)" in table
    assert "(3 h ago)" in table


def test_sums_hold_past_attempts_and_leave_out_what_was_refused(kept: Book, invoke: Call) -> None:
    """A failure the vendor charged is paid; a refusal costs nothing; no estimate is unknown."""
    kept.failed("a", job="job-1", cost=0.01)
    kept.submitted("a", "job-2")
    kept.failed("b")
    kept.held("c", estimated_cost_usd=None)
    totals = invoke("ledger", "list", "--json").document["totals"]
    assert totals == {
        "count": 3,
        "by_state": {"submitted": 1, "failed": 1, "held": 1},
        "paid_usd": 0.01,
        "reserved_usd": 0.04,
        "unknown": 1,
    }


@pytest.mark.parametrize("cost", [1e12, 1e300, -0.5])
def test_a_cost_that_is_no_money_does_not_break_the_sums(
    kept: Book, invoke: Call, tmp_path: Path, cost: float
) -> None:
    """A vendor may say anything, or a person mistype; it counts as budgets count it."""
    for partition in "abc":
        kept.stored(partition, cost)
    kept.stored("d", 0.05)
    listed = invoke("ledger", "list", "--json")
    assert listed.status == 0, listed
    spent = kept.ledger.spend(BudgetScope.PROVIDER, "vendor")
    assert listed.document["totals"]["paid_usd"] == spent.paid_usd
    assert invoke("ledger", "export", "-o", tmp_path / "out.csv").status == 0


def test_the_last_line_counts_what_the_limit_hides(kept: Book, invoke: Call) -> None:
    """Nobody takes a page for the whole."""
    for partition in "abc":
        kept.stored(partition)
    ended = invoke("ledger", "list", "--limit", 1)
    assert "3 submissions: 3 stored; paid $0.1500" in ended.stdout
    assert "2 older ones are not shown" in ended.stdout


def test_an_empty_ledger_has_no_table(kept: Book, invoke: Call) -> None:
    """Zero submissions is an answer, and no failure."""
    list(kept.ledger.rows())
    ended = invoke("ledger", "list", "--state", "held")
    assert (ended.status, ended.stdout) == (
        0,
        "0 submissions; paid $0.0000, reserved $0.0000, 0 of unknown cost\n",
    )


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path, invoke: Call, kind: str) -> None:
    """The message says where it was looked for, and what to give instead."""
    path = tmp_path / "folder" / "ledger.db"
    if kind == "empty":
        path.parent.mkdir()
        path.touch()
    ended = invoke("ledger", "list", "--ledger", path)
    assert ended.status == 4
    assert f"{path}: no ledger there; give --ledger URL or set GENBLAZE_LEDGER" in ended.stderr
    assert path.exists() == (kind == "empty")
    assert kind == "missing" or not path.stat().st_size


def test_no_ledger_is_made_in_the_database_of_another_program(tmp_path: Path, invoke: Call) -> None:
    """A path that was mistyped may be that of any database."""
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE runs (id)")
    theirs.close()
    before = path.read_bytes()
    ended = invoke("ledger", "list", "--ledger", path)
    assert ended.status == 4
    assert f"{path}: no ledger there" in ended.stderr
    assert path.read_bytes() == before


def test_a_password_of_the_url_is_never_printed(invoke: Call) -> None:
    """Not in an error about a server that cannot be reached, and not in JSON."""
    url = "postgresql://me:hunter2hunter2@127.0.0.1:9/ledger"
    ended = invoke("ledger", "list", "--ledger", url, "--json")
    assert ended.status == 4
    assert "127.0.0.1" in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--since", "yesterday"), "is no time"),
        (("--since", "999999999w"), "is longer than 100 years"),
        (("--since", "0001-01-01T00:00+14:00"), "is no time"),
        (("--expiring", "soon"), "is no length of time"),
        (("--expiring", "999999999w"), "is longer than 100 years"),
        (("--expiring", "9999999d"), "is longer than 100 years"),
        (("--limit", "0"), "0 is not in the range"),
        (("--limit", "99999999999999999999"), "is not in the range"),
        (("--state", "paid"), "is not one of"),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, tuple) else "",
)
def test_a_filter_that_means_nothing_is_a_usage_error(
    kept: Book, invoke: Call, arguments: tuple[str, ...], words: str
) -> None:
    """It says how the value is written."""
    ended = invoke("ledger", "list", *arguments)
    assert ended.status == 2
    assert words in ended.stderr


def test_what_vendors_call_things_cannot_steer_a_terminal(kept: Book, invoke: Call) -> None:
    """A job id is text from outside."""
    kept.stuck("a", job="job\x1b[31m")
    assert "job\\x1b[31m" in invoke("ledger", "list").stdout
    assert "job\\x1b[31m" in invoke("ledger", "show", "job\x1b[31m").stdout


def test_everything_about_one_submission_is_shown(kept: Book, invoke: Call) -> None:
    """Past attempts, whom it serves, what is reserved, who works on it, and what comes next."""
    kept.failed("a", job="job-1", cost=0.01)
    row = kept.stuck("a", job="job-2")
    shown = invoke("ledger", "show", row.id).stdout
    assert "asset       story/image[a]" in shown
    assert "account     ab12" in shown
    assert "cost        $0.0400 reserved" in shown
    assert "job job-1, $0.0100, model_error: the vendor says no" in shown
    assert "next        the next run of this asset with the same request polls job job-2" in shown
    document = invoke("ledger", "show", row.id, "--json").document
    assert document["serves"] == ["run-1"]
    assert document["stuck"] is True
    (past,) = document["past_attempts"]
    assert (past["attempt"], past["job_id"], past["cost_usd"]) == (1, "job-1", 0.01)


def test_a_run_that_took_a_submission_over_is_named(kept: Book, invoke: Call) -> None:
    """An intent of another scope is served by the same submission."""
    row = kept.stuck("a")
    kept.claimed("a", owner="x", scope="backfill-9")
    shown = invoke("ledger", "show", row.id)
    assert "also serves backfill-9" in shown.stdout
    assert "x works on it; its lease is renewed until" in shown.stdout


@pytest.mark.parametrize("name", ["id", "run", "start", "last-group", "job", "past-job"])
def test_a_submission_has_many_names(kept: Book, invoke: Call, name: str) -> None:
    """Its id, its run id, the start of one, the last group, or any job the vendor had for it."""
    kept.stored("b")
    kept.failed("a", job="job-1")
    row = kept.stuck("a", job="job-2")
    names = {
        "id": row.id,
        "run": row.run_id,
        "start": row.id[:-2],
        "last-group": row.id[-12:],
        "job": "job-2",
        "past-job": "job-1",
    }
    assert invoke("ledger", "show", names[name], "--json").document["id"] == row.id


def test_a_name_of_several_submissions_is_refused(kept: Book, invoke: Call) -> None:
    """It lists them; nothing is guessed."""
    first, second = kept.stored("a"), kept.stored("b")
    ended = invoke("ledger", "show", first.id[:6])
    assert ended.status == 4
    assert f"is not unique, give more of the id: {first.id}, {second.id}" in ended.stderr


def test_a_name_of_none_is_refused(kept: Book, invoke: Call) -> None:
    """A percent sign is a percent sign, and not a wildcard."""
    kept.stored("a")
    for name in ("%%%%%", "job-404", "a"):
        ended = invoke("ledger", "show", name)
        assert ended.status == 4
        assert "no submission in" in ended.stderr


def test_the_table_and_the_details_of_a_real_process(kept: Book, launch: Call) -> None:
    """The installed program lists and shows, with nothing on stderr."""
    row = kept.held("a")
    listed = launch("ledger", "list", "--state", "held")
    assert (listed.status, listed.stderr) == (0, "")
    short = listed.stdout.splitlines()[1].split()[0]
    shown = launch("ledger", "show", short, "--json")
    assert (shown.status, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["id"] == row.id


@pytest.mark.parametrize(
    ("wish", "sent", "words"),
    [
        ({}, False, "nothing was sent: the next run of this asset submits it"),
        ({}, True, "the next run of this asset holds it for a person to decide"),
        (
            {"deduplicates": True},
            True,
            "sends it again under the same key, which vendor bills once",
        ),
    ],
    ids=["unsent", "lost", "deduplicated"],
)
def test_what_happens_next_depends_on_what_was_sent(
    kept: Book, invoke: Call, wish: dict[str, Any], sent: bool, words: str
) -> None:
    """An answer that nobody recorded may be paid; what never left is not."""
    row = kept.sent("a", **wish) if sent else kept.claimed("a", **wish)
    kept.ledger.release(row.id, "w")
    assert words in invoke("ledger", "show", row.id).stdout
    ended = invoke("ledger", "cancel", row.id, "--yes", "--local")
    assert ended.status == (1 if sent else 0)
    assert not sent or "it may be paid; look it up at vendor" in ended.stdout


def test_a_result_that_waits_on_a_machine_is_not_lost(kept: Book, invoke: Call) -> None:
    """It is paid, and a run there stores it; no vendor is asked to cancel it."""
    row = kept.stuck("a", job="spool:render-7")
    shown = invoke("ledger", "show", row.id).stdout
    assert "the next run of this asset on render-7 stores its result, which is paid" in shown
    ended = invoke("ledger", "cancel", row.id, "--yes")
    assert ended.status == 1
    assert "its result is paid and kept on render-7" in ended.stdout
