import re
import subprocess
import sys
from pathlib import Path

_LINE = re.compile(r"import time:\s+\d+ \|\s+\d+ \|\s+(\S+)")
HEAVY = {
    "dagster",
    "dagster_aws",
    "duckdb",
    "pyarrow",
    "boto3",
    "botocore",
    "av",
    "numpy",
    "PIL",
    "sqlalchemy",
    "httpx",
    "obstore",
}


def _imports(*arguments: object) -> set[str]:
    """Run the command and return every module it imported."""
    program = "import sys; from genblaze_dagster.cli import main; sys.argv[0] = 'x'; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, 3), done.stderr[-2000:]
    found = (_LINE.fullmatch(line) for line in done.stderr.splitlines())
    return {match[1] for match in found if match is not None}


def _packages(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


def test_verifying_a_file_imports_nothing_heavy(with_sidecar) -> None:
    """A sidecar is verified without Dagster, DuckDB, a client or a codec."""
    modules = _imports("verify", with_sidecar())
    assert "genblaze_dagster.trust.file" in modules
    assert not _packages(modules) & HEAVY


def test_verifying_embedded_manifests_imports_nothing_heavy(vectors: Path) -> None:
    """The readers of every container come without libraries for media."""
    folder = vectors / "genblaze" / "media" / "embedded"
    modules = _imports("verify", folder / "plain.png", folder / "faststart.mp4")
    assert not _packages(modules) & HEAVY


def test_help_imports_no_subcommand() -> None:
    """The overview needs names, errors and what prints it, whatever the commands below need."""
    modules = _imports("--help")
    assert "genblaze_dagster.cli.app" in modules
    folders = {name.split(".")[1] for name in modules if name.startswith("genblaze_dagster.")}
    assert folders <= {"cli", "core", "errors", "net", "trust"}
    assert "genblaze_dagster.trust.file" not in modules
    assert not _packages(modules) & {*HEAVY, "pydantic", "starlette", "yaml"}


def test_the_package_exposes_main_without_importing_click() -> None:
    """`genblaze_dagster.cli` itself costs nothing."""
    program = "import sys, genblaze_dagster.cli as c; c.main; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
