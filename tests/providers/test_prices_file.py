import os
import re
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.provider_resources import LMNTResource, RunwayResource
from genblaze_dagster.providers.catalogue import BUILT_IN, VENDORS
from genblaze_dagster.providers.lmnt import LMNTProvider
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.providers.openai import DalleProvider
from genblaze_dagster.providers.price_list import PRICES_VARIABLE, PriceList
from genblaze_dagster.providers.price_units import PriceUnit
from genblaze_dagster.providers.pricing import per_input_chars
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.registry import resolve_provider
from genblaze_dagster.providers.runway import RunwayProvider
from genblaze_dagster.providers.vendor.provider import VendorProvider

PAGE = Path(__file__).parents[2] / "docs" / "prices.md"
GOOD = '[[price]]\nvendor = "lmnt"\nmodel = "blizzard"\nunit = "1k_characters"\nusd = 0.05\n'
ENTRY: dict[str, Any] = {"vendor": "lmnt", "model": "*", "unit": "1k_characters", "usd": 0.05}
SPEECH = GenerationRequest(model="blizzard", prompt="x" * 1000, params={"voice": "leah"})


def written(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text)
    return path


def test_a_file_is_read_and_read_again_after_it_changed(tmp_path: Path) -> None:
    """A price of the file is that of the file, exactly."""
    path = written(tmp_path, GOOD)
    (price,) = PriceList.from_file(path).prices
    assert (price.vendor, price.model, price.unit) == (
        "lmnt",
        "blizzard",
        PriceUnit.THOUSAND_CHARACTERS,
    )
    assert str(price.usd) == "0.05"
    path.write_text(GOOD.replace("0.05", "0.045"))
    (price,) = PriceList.from_file(str(path)).prices
    assert str(price.usd) == "0.045"


WRONG: list[tuple[str, str]] = [
    ('unit = "picture"', "unit is 'picture'; expected one of request, output, image, output_s"),
    ("unit = 3", "unit is 3; expected one of"),
    ("usd = -0.1", "usd is '-0.1'; expected a number of 0 or more"),
    ("usd = nan", "usd is 'NaN'; expected a number of 0 or more"),
    ("usd = inf", "usd is 'Infinity'; expected a number of 0 or more"),
    ("usd = true", "usd is True; expected a number of 0 or more"),
    ('usd = "a lot"', "usd is 'a lot'; expected a number of 0 or more"),
    ('model = ""', "model is ''; expected a name"),
    ("vendor = 1", "vendor is 1; expected a name"),
    ("cost = 1", "'cost' is no field; known: model, seconds, unit, usd"),
    ("seconds = -1", "seconds is -1; expected a number of 0 or more"),
    ("usd_in = 1", "usd_in is not for the unit 1k_characters; give usd"),
    ("when = 1", "when is 1; expected a table of parameters"),
    ("when = { a = [] }", "when.a is []; expected a value, a list of values, or from and below"),
    ("when = { a = [[1]] }", "when.a is [[1]]; expected a value"),
    ("when = { a = 2026-01-01 }", "when.a is datetime.date(2026, 1, 1); expected a value"),
    ("when = { a = { above = 1 } }", "when.a has other bounds than from and below"),
    ("when = { a = { from = 8, below = 8 } }", "when.a is from 8 and below 8, which no value is"),
    ("when = { a = { from = 8, below = 2 } }", "when.a is from 8 and below 2, which no value is"),
    ("when = { a = { from = -1 } }", "when.a: from is -1; expected a number of 0 or more"),
]


@pytest.mark.parametrize(("line", "told"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_entry_is_named_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    """The second of two entries is wrong; the error says which, where, and what is allowed."""
    field = line.partition(" ")[0]
    second = "\n".join(kept for kept in GOOD.splitlines() if not kept.startswith(f"{field} "))
    second = second.replace('"blizzard"', '"aurora"')
    path = written(tmp_path, f"# mine\n{GOOD}\n{second}\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        PriceList.from_file(path)
    assert f"price list {path}: entry 2 (line 8): {told}" in str(caught.value)


def test_tokens_want_two_prices(tmp_path: Path) -> None:
    """One number cannot be the price of what goes in and of what comes out."""
    tokens = GOOD.replace("1k_characters", "million_tokens")
    with pytest.raises(ConfigError, match=r"usd is not for the unit million_tokens; give usd_in,"):
        PriceList.from_file(written(tmp_path, tokens))
    with pytest.raises(ConfigError, match="usd_out is missing"):
        PriceList.from_file(written(tmp_path, tokens.replace("usd =", "usd_in =")))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("price = x", r"is no TOML: .*line 1"),
        ("[[price]\n", r"is no TOML: .*line 1"),
        ("\x00", "is no TOML"),
        ("a = " + "[" * 5000, "is no TOML"),
        ("usd = " + "9" * 10_000, "is no TOML"),
        ("", r"holds none; expected \[\[price\]\] tables"),
        ("[price]\nusd = 1\n", r"holds none; expected \[\[price\]\]"),
        (f"{GOOD}[[prices]]\nusd = 1\n", "holds 'prices'"),
        ("price = [1]", "entry 1: is no table"),
        (f"{GOOD}\n{GOOD}", r"entry 2 \(line 7\): lmnt blizzard has a price already, in entry 1"),
    ],
    ids=range(10),
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """No TOML, no entries, other tables, or the same entry twice."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=told) as caught:
        PriceList.from_file(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8, or far too large."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        PriceList.from_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        PriceList.from_file(tmp_path)
    path = tmp_path / "prices.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no TOML"):
        PriceList.from_file(path)
    os.truncate(path, 2 * 1024 * 1024)
    with pytest.raises(ConfigError, match="1048576 are allowed"):
        PriceList.from_file(path)
    with pytest.raises(ConfigError, match="more than 5000 prices"):
        PriceList.from_mappings({**ENTRY, "model": f"m{i}"} for i in range(10**9))


def test_the_variable_is_named_when_its_file_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent: when the provider is made."""
    monkeypatch.setenv(PRICES_VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"GENBLAZE_PRICES: price list .*none\.toml"):
        LMNTProvider("k")
    monkeypatch.setenv(PRICES_VARIABLE, "")
    assert LMNTProvider("k").estimate_cost(SPEECH) is None


def test_prices_count_in_the_order_code_argument_file_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source is asked when those before it say nothing."""
    image = GenerationRequest(
        model="gen4_image_turbo", prompt="a fox", params={"ratio": "1280:720"}
    )
    assert RunwayProvider("k").estimate_cost(image) == 0.02
    entry = {"vendor": "runway", "model": "gen4_image*", "unit": "image"}
    monkeypatch.setenv(
        PRICES_VARIABLE,
        str(
            written(
                tmp_path,
                '[[price]]\nvendor = "runway"\nmodel = "gen4_image_turbo"\nunit = "image"\nusd = 0.3\n',
            )
        ),
    )
    assert RunwayProvider("k").estimate_cost(image) == 0.3
    assert RunwayProvider("k", prices=[{**entry, "usd": 0.4}]).estimate_cost(image) == 0.4
    other = {**entry, "usd": 0.4, "when": {"ratio": "720:720"}}
    assert RunwayProvider("k", prices=[other]).estimate_cost(image) == 0.3
    models = ModelRegistry(provider_families=RunwayProvider.families, strict_params=True)
    assert RunwayProvider("k", models=models).estimate_cost(image) == 0.3
    models.register_pricing("gen4_image_turbo", lambda context: 0.5)
    priced = RunwayProvider("k", models=models, prices=[{**entry, "usd": 0.4}])
    assert priced.estimate_cost(image) == 0.5
    # The registry that was given is left as it was, for whoever else has it.
    assert models.get("gen4_image").pricing is RunwayProvider.families[1].spec_template.pricing


def test_an_argument_may_be_a_list_that_was_read(tmp_path: Path) -> None:
    """Read once, for many providers; prices for others do not matter."""
    listed = PriceList.from_file(written(tmp_path, GOOD))
    assert LMNTProvider("k", prices=listed).estimate_cost(SPEECH) == 0.05
    models = ModelRegistry()
    assert RunwayProvider("k", models=models, prices=listed).models is models


def test_a_price_may_be_for_one_provider_of_a_vendor() -> None:
    """Under any of its names, or for all that the vendor has."""
    request = GenerationRequest(model="new-image", prompt="a fox")
    for vendor, usd in (
        ("openai", 0.1),
        ("openai-dalle", 0.1),
        ("openai-tts", None),
        ("google", None),
    ):
        entry = {"vendor": vendor, "model": "new-*", "unit": "image", "usd": 0.1}
        assert DalleProvider("k", prices=[entry]).estimate_cost(request) == usd, vendor


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"local"}))
def test_every_vendors_provider_takes_prices(name: str) -> None:
    """As an argument, by its vendor's name, whatever it is called itself."""
    kind = type(resolve_provider(name))
    if not issubclass(kind, VendorProvider):
        return
    vendor = next(vendor for vendor, names in VENDORS.items() if name in names)
    entry = {"vendor": vendor, "model": "own-model", "unit": "request", "usd": 3}
    provider = kind(api_key="k", prices=[entry])
    pricing = provider.models.get("own-model").pricing
    assert pricing is not None
    assert kind(api_key="k").models.get("other").pricing != pricing


def test_a_resource_takes_prices_without_the_vendor() -> None:
    """As Dagster configuration; a wrong one is named when the provider is made."""
    entry = {name: value for name, value in ENTRY.items() if name != "vendor"}
    assert LMNTResource(api_key="k", prices=[entry]).get_provider().estimate_cost(SPEECH) == 0.05
    nested = {**entry, "when": {"speed": {"from": 1, "below": 2}, "voice": ["leah", "ava"]}}
    assert LMNTResource(api_key="k", prices=[nested]).get_provider().estimate_cost(SPEECH) is None
    wrong = RunwayResource(api_key="k", prices=[entry, {**entry, "unit": "mile"}])
    with pytest.raises(ConfigError, match=r"prices: entry 2: unit is 'mile'; expected one of"):
        wrong.get_provider()


def test_a_registered_price_is_not_lost_by_a_list() -> None:
    """Whoever registers a price in code for a model means that one."""
    models = ModelRegistry(provider_families=LMNTProvider.families, strict_params=True)
    models.register_pricing("blizzard", per_input_chars(1))
    assert LMNTProvider("k", models=models, prices=[ENTRY]).estimate_cost(SPEECH) == 1.0


def test_the_example_of_the_page_is_a_price_list(tmp_path: Path) -> None:
    """docs/prices.md shows a file that can be used, with every unit explained."""
    page = PAGE.read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    listed = PriceList.from_file(written(tmp_path, example))
    assert len(listed.prices) == 6
    veo = {"model": "veo-3.1-generate-preview", "prompt": "a fox"}
    google = resolve_provider("google-veo")
    assert isinstance(google, VendorProvider)
    own = type(google)("k", prices=listed)
    assert own.estimate_cost(GenerationRequest(**veo)) == 2.56
    assert own.estimate_cost(GenerationRequest(**veo, params={"resolution": "4k"})) == 3.84
    rate = listed.token_rate("openai", "gpt-4.1-mini")
    assert rate is not None
    assert rate.of(1_000_000, 1_000_000, 1_000_000) == 7.65
    table = page.split("## Units")[1].split("##")[0]
    assert all(f"`{unit}`" in table for unit in PriceUnit)
    vendors = page.split("## Built-in")[1].lower()
    assert all(vendor in vendors for vendor in VENDORS)
