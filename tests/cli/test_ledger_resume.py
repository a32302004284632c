import shutil
from collections.abc import Sequence

import dagster as dg
import pytest

from genblaze_dagster.ledger.ledger import SubmissionState
from tests.cli.conftest import Call
from tests.cli.resume_site import LOCATION, ROOT, Site, outcomes, problems, site
from tests.support.submissions import book

__all__ = ["site"]


def test_open_jobs_are_finished_and_nothing_is_submitted(site: Site) -> None:
    """Exactly the partitions of open jobs are run, neighbours together, and none is paid again."""
    assert len(site.leave_open("a", "b", "d")) == 3
    ended = site.resume("--all")
    assert (ended.status, outcomes(ended)) == (0, {"a": "stored", "b": "stored", "d": "stored"})
    assert [run["status"] for run in ended.document["runs"]] == ["SUCCESS", "SUCCESS"]
    assert site.bill == ["draw a", "draw b", "draw d"]
    assert len(site.rows(SubmissionState.STORED)) == len(list(site.ledger.rows())) == 3
    assert "DAGSTER_HOME is not set" in ended.document["notes"][0]


def test_one_of_them_is_finished_by_its_name(site: Site) -> None:
    """The other stays open, and is not even polled."""
    first, second = site.leave_open("a", "b")
    ended = site.resume(first.job_id)
    assert (ended.status, outcomes(ended)) == (0, {"a": "stored"})
    assert site.ledger.get(second.id) == second


def test_an_asset_without_partitions_is_finished(site: Site) -> None:
    """It has one run, and no partition."""
    (row,) = site.leave_open(asset="solo/cover")
    ended = site.resume(row.id)
    assert (ended.status, outcomes(ended)) == (0, {None: "stored"})
    assert site.bill == ["a cover"]


def test_what_has_changed_is_reported_and_not_run(site: Site) -> None:
    """Another prompt is another generation: the open job would stay, and a new one be paid."""
    (row,) = site.leave_open("a")
    site.say("prompt", "paint {subject}")
    ended = site.resume("--all")
    assert (ended.status, outcomes(ended)) == (1, {"a": "left"})
    assert "its request has changed since" in problems(ended)[0]
    assert ended.document["runs"] == []
    assert site.bill == ["draw a"]
    assert site.ledger.get(row.id) == row


def test_what_has_changed_is_submitted_anew_on_purpose(site: Site) -> None:
    """With --regenerate it is paid again; the old job is still open, and said to be."""
    (row,) = site.leave_open("a")
    site.say("prompt", "paint {subject}")
    assert site.resume("--all", "--regenerate").status == 2
    assert site.bill == ["draw a"]
    ended = site.invoke("ledger", "resume", "--all", "--regenerate", "--yes", "-f", LOCATION)
    assert ended.status == 0
    assert f"its old job {row.job_id} is still open" in ended.stdout
    assert site.bill == ["draw a", "paint a"]
    assert site.ledger.get(row.id).state is SubmissionState.SUBMITTED


def test_a_job_that_failed_meanwhile_is_not_submitted_again(site: Site) -> None:
    """Not by Dagster's own retry of the step either, which the asset has."""
    site.leave_open("a")
    site.say("failing")
    ended = site.resume("--all")
    assert (ended.status, outcomes(ended)) == (1, {"a": "failed"})
    assert "the model gave up" in problems(ended)[0]
    assert site.bill == ["draw a"]
    (row,) = site.ledger.rows()
    assert row.state is SubmissionState.FAILED


def test_a_vendor_that_is_still_down_leaves_the_job_open(site: Site) -> None:
    """The reason is the vendor's; the job can be resumed later."""
    (row,) = site.leave_open("a")
    site.say("down")
    ended = site.resume(row.id)
    assert (ended.status, outcomes(ended)) == (1, {"a": "left"})
    assert "the vendor is down" in problems(ended)[0]
    assert site.ledger.get(row.id).job_id == row.job_id
    assert site.bill == ["draw a"]


def test_what_is_no_open_job_is_left_with_the_reason(site: Site) -> None:
    """Held, stored and live ones are refused, those of unknown assets and partitions as well."""
    with book(site.url) as kept:
        rows = [
            kept.held("a"),
            kept.submitted("b", "job-live"),
            kept.claimed("c"),
            kept.stuck("a", "job-1", asset_key="gone/image"),
            kept.stuck("zz", "job-2"),
            kept.stuck("e", "job-3"),
        ]
    ended = site.resume(*(row.id for row in rows))
    assert ended.status == 1
    for told, words in zip(
        problems(ended),
        (
            "nothing until a person decides",
            "w works on it",
            "w works on it",
            "have no such asset",
            "no such partition any more",
            "its request has changed since",
        ),
        strict=True,
    ):
        assert words in told
    assert site.bill == []


def test_stored_ones_are_no_failure(site: Site) -> None:
    """Somebody else has finished it in the meantime: that is what was wanted."""
    with book(site.url) as kept:
        row = kept.stored("a")
    ended = site.resume(row.id)
    assert (ended.status, outcomes(ended)) == (0, {"a": "stored"})


def test_nothing_to_do_is_no_failure(site: Site) -> None:
    """No definitions are needed for it either."""
    with book(site.url) as kept:
        kept.stored("a")
    ended = site.invoke("ledger", "resume", "--all")
    assert (ended.status, ended.stdout) == (0, "no job waits for anybody to fetch it\n")


def test_definitions_with_another_ledger_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would know nothing of these jobs, and submit all of them again."""
    site.leave_open("a")
    monkeypatch.setenv("GENBLAZE_LEDGER", f"sqlite:///{site.folder / 'other.db'}")
    ended = site.resume("--all", "--ledger", site.folder / "ledger.db")
    assert ended.status == 4
    assert "other.db" in ended.stderr
    assert site.bill == ["draw a"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give submissions, or --all"),
        (("x", "--all"), "give submissions, or --all"),
        (("--all", "--wait"), "--wait belongs to --launch"),
        (("--all", "--location", "l"), "--location belongs to --launch, or to -w"),
        (("--all", "-m", "m", "--launch", "http://h"), "-m, -f and -w belong to a run in this"),
        (("--all", "-w", "w", "--launch", "http://h"), "-m, -f and -w belong to a run in this"),
    ],
    ids=["nothing", "both", "wait", "location", "module-launched", "workspace-launched"],
)
def test_options_that_have_no_effect_are_refused(
    invoke: Call, arguments: Sequence[str], words: str
) -> None:
    """Nobody believes that something happens that does not."""
    ended = invoke("ledger", "resume", *arguments)
    assert ended.status == 2
    assert words in ended.stderr


def test_a_workspace_names_the_definitions(site: Site) -> None:
    """As `dagster dev` finds them; `--location` tells several apart."""
    site.leave_open("a")
    (site.folder / "other.py").write_text("import dagster as dg\ndefs = dg.Definitions()\n")
    workspace = site.folder / "workspace.yaml"
    workspace.write_text(
        "load_from:\n"
        f"  - python_file: {{relative_path: {LOCATION}, location_name: story}}\n"
        "  - python_file: {relative_path: other.py, location_name: other}\n"
    )
    ended = site.invoke("ledger", "resume", "--all", "-w", workspace, "--json")
    assert ended.status == 4
    assert "names 2 code locations" in ended.stderr
    ended = site.invoke(
        "ledger", "resume", "--all", "-w", workspace, "--location", "story", "--json"
    )
    assert (ended.status, outcomes(ended)) == (0, {"a": "stored"})
    assert site.bill == ["draw a"]


def test_the_installed_program_finds_the_definitions(site: Site, launch: Call) -> None:
    """definitions.py of the working directory; the run is in the instance of DAGSTER_HOME."""
    (row,) = site.leave_open("a")
    home = site.folder / "home"
    home.mkdir()
    shutil.copy(LOCATION, site.folder / "definitions.py")
    env = {"DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT)}
    ended = launch("ledger", "resume", row.id, env=env)
    assert ended.status == 0, ended.stderr
    assert f"{row.id[-12:]}  story/image[a]  stored" in ended.stdout
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert run.tags["genblaze/resume_only"] == "true"
        assert instance.get_materialized_partitions(dg.AssetKey(["story", "image"])) == {"a"}
    assert site.bill == ["draw a"]
