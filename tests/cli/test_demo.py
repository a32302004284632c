import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(sys.executable).with_name("genblaze-dagster")


def demo(folder: Path, *options: str, expect: int = 0) -> dict[str, Any]:
    """Run the demo as a person would and return its JSON document."""
    answer = subprocess.run(
        [PROGRAM, "demo", "--dir", folder, "--json", *options],
        capture_output=True,
        timeout=240,
        cwd=folder.parent,
        env={**os.environ, "DAGSTER_DISABLE_TELEMETRY": "1"},
    )
    assert answer.returncode == expect, answer.stderr.decode()
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / ".demo"


@pytest.fixture(scope="module")
def first(folder: Path) -> dict[str, Any]:
    return demo(folder)


def test_the_demo_makes_proves_and_queries_36_files(first: dict[str, Any]) -> None:
    """Twelve partitions of three assets are generated in one run, verified and indexed."""
    assert first["ok"] is True
    assert first["generated"] == 36
    assert first["dagster_run_id"]
    assets = first["assets"]
    assert len(assets) == 36
    assert {a["asset"] for a in assets} == {"demo/image", "demo/audio", "demo/video"}
    assert len({a["partition"] for a in assets}) == 12
    assert all(a["verified"] and a["size_bytes"] > 1000 and a["cost_usd"] == 0 for a in assets)
    answers = {question.partition(" ")[0]: rows for question, rows in first["answers"].items()}
    assert {row["model"]: row["generations"] for row in answers["cost"]} == {
        "local-image": 12,
        "local-audio": 12,
        "local-video": 12,
    }
    assert {row["asset_key"] for row in answers["lineage"]} == {
        "demo/image",
        "demo/audio",
        "demo/video",
    }
    assert len(answers["outputs"]) == 1


def test_a_second_run_generates_nothing(folder: Path, first: dict[str, Any]) -> None:
    """What is stored is found again, without a Dagster run."""
    again = demo(folder)
    assert (again["generated"], again["dagster_run_id"], again["ok"]) == (0, None, True)
    assert again["assets"] == first["assets"]


def test_a_deleted_file_is_made_again_and_equals_the_old_one(
    folder: Path, first: dict[str, Any]
) -> None:
    """Only what is missing is generated; the local provider gives the same bytes."""
    lost = next(a for a in first["assets"] if a["asset"] == "demo/video")
    Path(lost["url"].removeprefix("file://")).unlink()
    again = demo(folder)
    assert (again["generated"], again["ok"]) == (1, True)
    made = {(a["asset"], a["partition"]): a["sha256"] for a in again["assets"]}
    assert made == {(a["asset"], a["partition"]): a["sha256"] for a in first["assets"]}


def test_a_tampered_file_makes_the_demo_fail(folder: Path, first: dict[str, Any]) -> None:
    """Changed bytes are reported with their object, and the exit status says so."""
    victim = next(a for a in first["assets"] if a["asset"] == "demo/audio")
    path = Path(victim["url"].removeprefix("file://"))
    original = path.read_bytes()
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    try:
        report = demo(folder, expect=1)
    finally:
        path.write_bytes(original)
    bad = [a for a in report["assets"] if not a["verified"]]
    assert [(a["asset"], a["partition"]) for a in bad] == [("demo/audio", victim["partition"])]
    assert "bytes differ" in bad[0]["findings"][0]


def test_the_demo_runs_on_an_s3_server_of_its_own(tmp_path: Path) -> None:
    """--s3 starts a server, stores everything there, verifies it and leaves no process."""
    report = demo(tmp_path / ".demo", "--s3")
    assert (report["ok"], report["generated"]) == (True, 36)
    assert report["store"].startswith("s3://")
    assert all(a["url"].startswith("http://127.0.0.1:") for a in report["assets"])
