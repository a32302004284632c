from pathlib import Path

import pytest

from tests.cli.conftest import Call

_DEFINITIONS = """
import dagster as dg
from genblaze_dagster import Pipeline, genblaze_resources
from tests.support.providers import CountingProvider

def made(name):
    step = Pipeline(name).step(CountingProvider(), model="m", name="image", prompt="x")
    return dg.Definitions(assets=step.to_assets(), resources=genblaze_resources())

first = made("first")
second = made("second")
"""
_FILE = "- python_file: {relative_path: code/defs.py, attribute: %s%s}"
_FIRST = _FILE % ("first", ", location_name: one")
_SECOND = _FILE % ("second", "")
_SERVER = "- grpc_server: {host: localhost, port: 4266, location_name: far}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two sets of definitions in one file; the working directory is beside it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "defs.py").write_text(_DEFINITIONS)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path


def write(project: Path, *entries: str) -> None:
    (project / "workspace.yaml").write_text("\n".join(["load_from:", *entries]))


@pytest.mark.parametrize(
    ("entries", "arguments", "planned"),
    [
        ([_FIRST], [], "first"),
        ([_FIRST, _SERVER], [], "first"),
        ([_FIRST, _SECOND], ["--location", "one"], "first"),
        ([_FIRST, _SECOND], ["--location", "defs.py:second"], "second"),
        (
            ["- python_module: {module_name: defs, attribute: second, working_directory: code}"],
            [],
            "second",
        ),
    ],
    ids=["one", "server-beside", "named", "default-name", "module"],
)
def test_the_code_location_of_a_workspace_is_planned(
    project: Path, invoke: Call, entries: list[str], arguments: list[str], planned: str
) -> None:
    """Paths are those of the file, as Dagster takes them; code servers are none of its."""
    write(project, *entries)
    ended = invoke("plan", "-w", "../workspace.yaml", *arguments, "--json")
    assert ended.status == 0, ended
    assert [asset["asset_key"] for asset in ended.document["assets"]] == [f"{planned}/image"]


@pytest.mark.parametrize(
    ("text", "arguments", "status", "told"),
    [
        (None, [], 4, "no such file"),
        ("load_from: [", [], 4, "cannot be read"),
        ("load: x", [], 4, "has no list load_from"),
        ("load_from:\n- python_file: {attribute: defs}", [], 4, "has no relative_path"),
        (f"load_from:\n{_SERVER}", [], 4, "names 0 code locations"),
        (f"load_from:\n{_FIRST}\n{_SECOND}", [], 4, "one, defs.py:second"),
        (f"load_from:\n{_FIRST}", ["--location", "two"], 4, "no code locations 'two'"),
        ("load_from:\n- python_file: code/gone.py", [], 4, "gone.py: no such file"),
        ("load_from:\n- python_file: code/defs.py", [], 4, "has 2 Definitions objects"),
        (f"load_from:\n{_FIRST}", ["-m", "x"], 2, "give one of them"),
    ],
)
def test_a_workspace_that_says_too_little_is_refused(
    project: Path,
    invoke: Call,
    text: str | None,
    arguments: list[str],
    status: int,
    told: str,
) -> None:
    """With the status of its kind, and what to do."""
    if text is not None:
        (project / "workspace.yaml").write_text(text)
    ended = invoke("plan", "-w", "../workspace.yaml", *arguments)
    assert ended.status == status, ended
    assert told in ended.stderr


def test_a_location_needs_a_workspace(project: Path, invoke: Call) -> None:
    """Elsewhere the name of a location says nothing."""
    ended = invoke("plan", "-f", "../code/defs.py", "--location", "one")
    assert (ended.status, "belongs to -w" in ended.stderr) == (2, True)
