import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from genblaze_dagster import errors
from genblaze_dagster.cli.exit_codes import ExitCode, exit_code, gravest
from genblaze_dagster.cli.group import LazyGroup
from tests.cli.conftest import PROGRAM

ROOT = Path(__file__).resolve().parents[2]


def test_version_is_that_of_the_distribution(launch) -> None:
    """--version names program and version."""
    assert launch("--version").stdout == f"genblaze-dagster {version('genblaze-dagster')}\n"


def test_help_lists_every_command_and_each_explains_itself(invoke) -> None:
    """The overview is complete, and every command has --help and --json."""
    overview = invoke("--help").stdout
    for name in ("demo", "verify", "extract", "sql"):
        assert f"\n  {name} " in overview
    for name in ("verify", "extract", "sql"):
        described = invoke(name, "--help")
        assert described.status == 0
        assert "--json" in described.stdout


def test_no_command_shows_the_help_and_is_a_usage_error(launch) -> None:
    """A bare call helps, on stderr, and does not count as success."""
    ended = launch()
    assert (ended.status, ended.stdout) == (2, "")
    assert "verify" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [("bogus",), ("verify",), ("verify", "--bogus", "x"), ("sql", "--format", "xml")]
)
def test_usage_errors_end_with_2(arguments: tuple[str, ...], invoke) -> None:
    """Whatever is wrong with the command line, the status is 2 and stdout stays empty."""
    ended = invoke(*arguments)
    assert (ended.status, ended.stdout) == (2, "")
    usage, error = ended.stderr.splitlines()
    assert usage.startswith("Usage: ")
    assert error.startswith("error: ")


def test_usage_errors_are_json_when_asked(invoke) -> None:
    """--json holds even when the parser itself fails."""
    ended = invoke("verify", "--json", "--bogus", "x")
    assert ended.status == 2
    assert ended.document["error"]["type"] == "NoSuchOption"
    assert "--bogus" in ended.document["error"]["message"]


def _run(error: BaseException, *arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run a command that ends with `error`."""

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def fail(as_json: bool) -> None:
        raise error

    group = LazyGroup(entries={})
    group.add_command(fail)
    return CliRunner().invoke(group, ["fail", *arguments], env=env)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.IntegrityError("m: tampered"), 1),
        (errors.SchemaError("m: malformed"), 1),
        (errors.ProviderError("p: refused"), 1),
        (errors.UnsupportedSchemaVersionError("m: 9.0"), 3),
        (errors.EmbeddingError("f: no manifest"), 3),
        (errors.PointerSidecarError("f: pointer", manifest_uri="u", canonical_hash=None), 3),
        (errors.NotFoundError("b: gone"), 4),
        (errors.ConfigError("v: unset"), 4),
        (errors.LedgerError("l: locked"), 4),
        (errors.IndexQueryError("q: no such column"), 5),
        (PermissionError(13, "Permission denied", "out.json"), 4),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("oops"), 70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_error_has_its_status(error: BaseException, status: int) -> None:
    """One line on stderr, the documented status, never a traceback."""
    result = _run(error)
    assert result.exit_code == status
    assert result.stdout == ""
    # After ^C click ends the terminal's line first.
    assert result.stderr.lstrip("\n").startswith("error: ")
    assert result.stderr.strip("\n").count("\n") == 0


def test_errors_are_json_when_asked() -> None:
    """The document holds type and message, and nothing else is on stdout."""
    result = _run(errors.NotFoundError("s3://b: gone"), "--json")
    assert json.loads(result.stdout) == {
        "error": {"type": "NotFoundError", "message": "s3://b: gone"}
    }


def test_an_error_of_ours_asks_to_be_reported_and_hides_its_traceback() -> None:
    """A bug is not a verdict: status 70, and GENBLAZE_DEBUG brings the traceback back."""
    result = _run(ZeroDivisionError("oops"))
    assert "ZeroDivisionError: oops" in result.stderr
    assert "GENBLAZE_DEBUG=1" in result.stderr
    assert isinstance(
        _run(ZeroDivisionError("x"), env={"GENBLAZE_DEBUG": "1"}).exception, ZeroDivisionError
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_secrets_in_messages_never_come_out(as_json: bool) -> None:
    """Presigned URLs and keys are taken out of every message, whoever wrote it."""
    signed = "https://b.s3.amazonaws.com/k?X-Amz-Signature=feedfacefeedfacefeedface"
    key = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
    for error in (errors.StorageError(f"{signed}: {key}"), RuntimeError(f"{signed} {key}")):
        result = _run(error, *["--json"] * as_json)
        assert "feedface" not in result.output
        assert key not in result.output
        assert "[REDACTED]" in result.output


def test_every_error_class_has_a_documented_status() -> None:
    """No error of the tree ends with a status the documentation does not know."""
    classes = [errors.GenblazeError]
    for known in classes:
        classes += known.__subclasses__()
    assert len(classes) > 30
    for kind in classes:
        assert exit_code(kind.__new__(kind)) in (1, 3, 4, 5), kind


def test_the_documentation_lists_every_status() -> None:
    """docs/cli.md has a row for each exit status."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    listed = {int(number) for row in rows for number in row.split(",") if number.strip().isdigit()}
    assert listed == {int(code) for code in ExitCode}


def test_the_gravest_status_of_several_wins() -> None:
    """Wrong before unreachable before undecided before fine; nothing at all is fine."""
    order = [
        ExitCode.FAILED,
        ExitCode.ENVIRONMENT,
        ExitCode.SQL,
        ExitCode.UNDECIDED,
        ExitCode.OK,
    ]
    for position in range(len(order)):
        assert gravest(reversed(order[position:])) is order[position]
    assert gravest([]) is ExitCode.OK


@pytest.mark.parametrize("arguments", [("extract",), ("verify",), ("verify", "--json")])
def test_a_reader_that_goes_away_is_not_an_error(arguments: tuple[str, ...], vectors: Path) -> None:
    """`| head` ends the program quietly, with the status the shell gives a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    manifest = vectors / "genblaze" / "manifests" / "002_image.json"
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [PROGRAM, *arguments, manifest], stdout=closed, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 141
    assert done.stderr == b""
