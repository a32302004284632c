"""What the README promises can be typed in as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from genblaze_dagster.providers.capabilities import markdown_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PROGRAM = Path(sys.executable).with_name("genblaze-dagster")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_loads_as_a_code_location(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 30 lines give two partitioned assets with every field the UI shows, without a key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.csv").write_text("key,subject,seed\nfox,a fox,1\nowl,an owl,2\n")
    example = blocks("python")[0]
    assert len(example.splitlines()) <= 30
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - our own README
    defs = names["defs"]
    assert isinstance(defs, dg.Definitions)
    graph = defs.resolve_asset_graph()
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == {"shots/still", "shots/clip"}
    for key, spec in specs.items():
        assert spec.kinds
        assert spec.owners == ["team:media"]
        assert spec.description
        assert spec.group_name == "shots"
        assert spec.code_version
        node = graph.get(dg.AssetKey.from_user_string(key))
        assert node.partitions_def is not None
        assert node.partitions_def.get_partition_keys() == ["fox", "owl"]


def test_the_two_commands_come_first() -> None:
    """A newcomer meets `make demo` and `make dev` before anything else to type."""
    assert [line.split("#")[0].strip() for line in blocks("sh")[0].strip().splitlines()] == [
        "make demo",
        "make dev",
    ]


def test_links_and_pictures_exist() -> None:
    """Every relative link of the README and the docs leads somewhere."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_definitions_validate() -> None:
    """`dagster definitions validate` has nothing to say about the workspace at the top level."""
    answer = subprocess.run(
        [
            Path(sys.executable).with_name("dagster"),
            "definitions",
            "validate",
            "-w",
            "workspace.yaml",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    # Dagster calls this very command superseded; nothing else may be warned about.
    assert answer.stderr.count("Warning:") == answer.stderr.count("SupersessionWarning:")


def test_commands_of_the_readme_exist() -> None:
    """Each genblaze-dagster command the README shows is a command."""
    for command in set(re.findall(r"genblaze-dagster (\w+)", "\n".join(blocks("sh")))):
        assert subprocess.run([PROGRAM, command, "--help"], capture_output=True).returncode == 0


def test_the_table_of_vendors_is_that_of_the_code() -> None:
    """`python -m genblaze_dagster.providers.capabilities` has been run since the last change."""
    table = README.split("<!-- providers")[1].partition("\n")[2].split("<!-- /providers -->")[0]
    assert table.strip() == markdown_table()
