"""Rules about the package itself."""

import subprocess
import sys
from pathlib import Path

import pytest

import genblaze_dagster

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "genblaze_dagster"


def modules_after(code: str) -> set[str]:
    """Return the modules a fresh interpreter holds after running `code`."""
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return set(answer.stdout.split())


@pytest.mark.parametrize("name", [n for n in genblaze_dagster.__all__ if n != "__version__"])
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    """Whatever __all__ promises exists and says what it is."""
    value = getattr(genblaze_dagster, name)
    assert value.__doc__
    assert name in dir(genblaze_dagster)


def test_unknown_names_are_attribute_errors() -> None:
    """The lazy front door does not hide typing errors."""
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        genblaze_dagster.Pipelin  # noqa: B018


def test_reading_a_manifest_does_not_pay_for_the_rest() -> None:
    """Importing the package and parsing needs neither Dagster nor a database, an engine or boto3."""
    loaded = modules_after("import genblaze_dagster; genblaze_dagster.parse_manifest")
    heavy = {"dagster", "dagster_aws", "boto3", "duckdb", "pyarrow", "sqlalchemy", "PIL", "av"}
    assert not heavy & loaded


def test_the_dagster_modules_do_not_import_dagster_aws() -> None:
    """dagster_aws costs seconds; only a user who passes an S3Resource pays for it."""
    loaded = modules_after(
        "import genblaze_dagster.assets, genblaze_dagster.io_manager, genblaze_dagster.resources"
    )
    assert "dagster" in loaded
    assert not {"dagster_aws", "boto3", "duckdb", "av", "PIL"} & loaded


def test_no_module_outgrows_a_screenful_of_responsibility() -> None:
    """Files stay under 400 lines, tests under 500."""
    long = {
        str(path.relative_to(ROOT)): lines
        for folder, limit in ((PACKAGE, 400), (ROOT / "tests", 500), (ROOT / "bench", 400))
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > limit
    }
    assert not long


def test_every_dependency_is_explained() -> None:
    """docs/dependencies.md has a line for each requirement, optional ones too."""
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted}
    text = (ROOT / "docs" / "dependencies.md").read_text()
    assert not {name for name in names if name not in text}
