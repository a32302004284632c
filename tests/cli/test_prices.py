from pathlib import Path

import pytest

from genblaze_dagster.providers.price_list import PRICES_VARIABLE
from tests.cli.conftest import Call

_DEFINITIONS = """
import dagster as dg
from genblaze_dagster import LMNTResource, Pipeline, PromptTable, genblaze_resources

table = PromptTable.from_rows([{"key": key, "line": key * 500} for key in "abcd"])
talk = (
    Pipeline("talk")
    .step("lmnt", model="blizzard", name="voice", modality="audio", prompt="{line}", voice="leah")
    .to_assets(partitions=table)
)
defs = dg.Definitions(
    assets=talk, resources={**genblaze_resources(), "lmnt": LMNTResource(api_key="k")}
)
"""
_PRICES = """
[[price]]
vendor = "lmnt"
model = "blizzard"
unit = "1k_characters"
usd = 0.05

[[price]]
vendor = "replicate"
model = "acme/*"
unit = "compute_second"
usd = 0.001

[[price]]
vendor = "runwai"
model = "gen4"
unit = "image"
usd = 1
"""


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A price list in a folder with definitions, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "definitions.py").write_text(_DEFINITIONS)
    path = tmp_path / "prices.toml"
    path.write_text(_PRICES)
    monkeypatch.setenv(PRICES_VARIABLE, str(path))
    return path


def test_a_plan_sums_prices_of_a_file(prices: Path, invoke: Call) -> None:
    """Four speeches of 500 characters; without the list nobody knows what they cost."""
    document = invoke("plan", "--json").document
    assert document["estimated_usd"] == 0.1
    assert [item["cost_usd"] for item in document["items"]] == [0.025] * 4
    unknown = invoke("plan", "--json", env={PRICES_VARIABLE: ""}).document
    assert [item["cost_usd"] for item in unknown["items"]] == [None] * 4


def test_a_wrong_price_list_fails_a_plan(prices: Path, invoke: Call) -> None:
    """It is not planned with other prices instead."""
    prices.write_text(_PRICES.replace("compute_second", "furlong"))
    ended = invoke("plan")
    assert ended.status != 0
    assert "entry 2 (line 8): unit is 'furlong'" in ended.stdout + ended.stderr


def test_providers_are_listed_with_their_prices(
    prices: Path, invoke: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own prices, those of further models too, and - for what is unknown."""
    monkeypatch.setenv("COLUMNS", "200")
    lines = [line.split() for line in invoke("providers", "--prices").stdout.splitlines()]
    assert ["lmnt", "blizzard", "0.05", "USD", "per", "1k_characters"] in lines
    assert ["replicate", "acme/*", "0.001", "USD", "per", "compute_second"] in lines
    assert ["hume-tts", "octave-2", "-"] in lines
    assert lines[-1][:4] == ["GENBLAZE_PRICES:", "'runwai'", "is", "no"]
    document = invoke("providers", "--json").document
    by_name = {one["name"]: one["prices"] for one in document["providers"]}
    assert by_name["lmnt"] == {"blizzard": "0.05 USD per 1k_characters"}
    assert by_name["nvidia-audio"]["nvidia/magpie-tts-multilingual"] is None
    assert by_name["google-imagen"]["imagen-4.0-generate-001"] == "0.04 USD per image"


def test_patterns_and_conditions_are_listed_as_they_are_written(
    prices: Path, invoke: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are no markup, and several prices of one pattern are all told."""
    monkeypatch.setenv("COLUMNS", "200")
    entry = '[[price]]\nvendor = "replicate"\nmodel = "acme[/x]*"\nunit = "image"\n'
    prices.write_text(f'{entry}usd = 2\nwhen = {{ size = "4k" }}\n{entry}usd = 1\n')
    told = "2 USD per image (size 4k); 1 USD per image"
    ended = invoke("providers", "--prices")
    assert ended.status == 0, ended
    assert ["replicate", "acme[/x]*", *told.split()] in [
        line.split() for line in ended.stdout.splitlines()
    ]
    document = invoke("providers", "--json").document
    by_name = {one["name"]: one["prices"] for one in document["providers"]}
    assert by_name["replicate"]["acme[/x]*"] == told


def test_a_wrong_price_list_is_told_by_the_listing(prices: Path, invoke: Call) -> None:
    """Whoever asks for the prices is told what is wrong with the list."""
    prices.write_text("price = 1")
    ended = invoke("providers", "--prices")
    assert ended.status != 0
    assert "expected [[price]] tables" in ended.stdout + ended.stderr
