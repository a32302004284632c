"""A place to leave jobs open in, and to finish them from."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genblaze_dagster.cli.code_location import load_definitions
from genblaze_dagster.ledger.ledger import Ledger, LedgerRow, SubmissionState
from tests.cli.conftest import Call, Ended

LOCATION = Path(__file__).with_name("resume_location.py")
ROOT = LOCATION.parents[2]


@dataclass
class Site:
    """A folder with a store, a ledger and a vendor's books, which the environment names."""

    folder: Path
    ledger: Ledger
    invoke: Call

    @property
    def url(self) -> str:
        return os.environ["GENBLAZE_LEDGER"]

    def say(self, name: str, text: str | None = "") -> None:
        """Leave a note for the vendor, or take it away."""
        path = self.folder / name
        path.unlink(missing_ok=True) if text is None else path.write_text(text)

    @property
    def bill(self) -> list[str]:
        """What the vendor was asked for, in order."""
        path = self.folder / "bill"
        return path.read_text().splitlines() if path.exists() else []

    def leave_open(self, *partitions: str, asset: str = "story/image") -> list[LedgerRow]:
        """Submit, and lose the vendor before a job is done."""
        self.say("down")
        defs = load_definitions(module=None, python_file=LOCATION)
        job = defs.resolve_implicit_global_asset_job_def()
        for partition in partitions or [None]:
            result = job.execute_in_process(
                asset_selection=[dg.AssetKey(asset.split("/"))],
                partition_key=partition,
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            assert not result.success
        self.say("down", None)
        return self.rows(SubmissionState.SUBMITTED)

    def rows(self, state: SubmissionState) -> list[LedgerRow]:
        return self.ledger.find(state=state)

    def resume(self, *arguments: object) -> Ended:
        return self.invoke("ledger", "resume", *arguments, "-f", LOCATION, "--json")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Call) -> Iterator[Site]:
    """A site of which the environment of this test knows."""
    monkeypatch.setenv("VENDOR_FOLDER", str(tmp_path))
    monkeypatch.setenv("GENBLAZE_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("GENBLAZE_LEDGER", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with Ledger(os.environ["GENBLAZE_LEDGER"]) as ledger:
        yield Site(tmp_path, ledger, invoke)


def outcomes(ended: Ended) -> dict[Any, str]:
    return {one["partition_key"]: one["outcome"] for one in ended.document["submissions"]}


def problems(ended: Ended) -> list[Any]:
    return [one["problem"] for one in ended.document["submissions"]]
