from pathlib import Path

import pytest

from tests.cli.conftest import Call

_DEFINITIONS = """
import dagster as dg
from genblaze_dagster import Pipeline, PromptTable, genblaze_resources
from genblaze_dagster.ledger.budgets import Budget
from tests.support.providers import CountingProvider

provider = CountingProvider()
table = PromptTable.from_rows([{{"key": key, "subject": key}} for key in "abcde"])
images = (
    Pipeline("story")
    .step(provider, model="m", name="image", prompt="draw {{subject}}")
    .step(
        provider, model="m", name="video", modality="video", prompt="x", input_from="image",
    )
    .to_assets(partitions=table{options})
)
defs = dg.Definitions(assets=images, resources=genblaze_resources())
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with definitions, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return tmp_path


def write(project: Path, options: str = "") -> None:
    (project / "definitions.py").write_text(_DEFINITIONS.format(options=options))


def test_a_plan_prints_counts_and_prices_and_leaves_nothing_behind(
    project: Path, invoke: Call
) -> None:
    """Assets, sums, and the exit status of something that would pass."""
    before = sorted(project.iterdir())
    ended = invoke("plan")
    assert ended.status == 0, ended
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["story/image", "5", "new", "about", "$0.2000"]
    assert lines[-1].split() == ["in", "all", "10", "new", "about", "$0.4000"]
    assert [path for path in sorted(project.iterdir()) if path.name != "__pycache__"] == before


def test_partitions_and_assets_are_selected(project: Path, invoke: Call) -> None:
    """By key, by range, and by Dagster's selection syntax."""
    one = invoke("plan", "story/image", "--partition", "a", "--json").document
    assert [item["partition_key"] for item in one["items"]] == ["a"]
    some = invoke("plan", "+key:story/video", "--partition-range", "b...d", "--json").document
    assert some["counts"] == {"new": 6}
    assert some["estimated_usd"] == 0.24
    assert [asset["asset_key"] for asset in some["assets"]] == ["story/image", "story/video"]


def test_a_group_is_planned_without_warnings_of_dagster_s_own_parser(
    project: Path, launch: Call
) -> None:
    """What it calls beta is nothing that whoever plans a group can do something about."""
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = launch("plan", "group:story", "--json", env=env)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.document["counts"] == {"new": 10}


@pytest.mark.parametrize(
    "url", ["postgresql://user:pass@word:secret@host/db", "postgresql://user@host:port/db", "://"]
)
def test_a_broken_ledger_url_is_refused_and_not_quoted(
    project: Path, invoke: Call, url: str
) -> None:
    """It may hold a password, and what a parser complains about may be a part of that."""
    ended = invoke("plan", env={"GENBLAZE_LEDGER": url})
    assert ended.status == 4, ended
    assert "ledger URL is not a database URL" in ended.stderr
    assert "secret" not in ended.stderr


def test_a_plan_leaves_an_empty_file_empty(project: Path, invoke: Call) -> None:
    """No ledger is made of it: nothing is written before the run."""
    ledger = project / "ledger.db"
    ledger.touch()
    assert invoke("plan", env={"GENBLAZE_LEDGER": str(ledger)}).status == 0
    assert not ledger.stat().st_size


def test_a_budget_that_has_no_room_fails_the_plan(project: Path, invoke: Call) -> None:
    """It says how much is left, and which partitions would be refused."""
    write(project, ', budgets=[Budget("run", 0.12)]')
    ended = invoke("plan")
    assert ended.status == 1
    assert "$0.1200 of $0.1200 left" in ended.stdout
    assert "does not fit" in ended.stdout
    assert "refused: story/image[c]" in ended.stdout
    document = invoke("plan", "--json").document
    assert document["counts"] == {"new": 3, "refused": 4, "impossible": 3}
    assert document["passes"] is False
    assert document["budgets"][0]["fits"] is False


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--partition", "zzz"], 4, "no selected asset has the partition 'zzz'"),
        (["--partition-range", "a-c"], 2, "write FIRST...LAST"),
        (["--partition-range", "d...b"], 4, "no selected asset has partitions from 'd' to 'b'"),
        (["--partition-range", "a...zz"], 4, "no selected asset has partitions from 'a' to 'zz'"),
        (["--partition", "a", "--all-partitions"], 2, "give one of them"),
        (["group:nothing"], 4, "no generated assets"),
        (["("], 4, "selection '(' cannot be resolved"),
        (["-f", "gone.py"], 4, "gone.py"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    project: Path, invoke: Call, arguments: list[str], status: int, told: str
) -> None:
    """With the status of its kind, and a message that names it."""
    ended = invoke("plan", *arguments)
    assert ended.status == status, ended
    assert told in ended.stderr
