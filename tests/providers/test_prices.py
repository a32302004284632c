import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest

from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.providers.price_list import PriceList
from genblaze_dagster.providers.price_units import CREDITS, PriceUnit, per_second, token_rate
from genblaze_dagster.providers.prices import Condition, price, price_table, words_of
from genblaze_dagster.providers.pricing import PricingContext, compute_cost, estimate_cost, per_unit

MODEL = {"vendor": "acme", "model": "m"}


def registry(*entries: Mapping[str, Any], **fields: Any) -> ModelRegistry:
    """Return a registry with a price list, and the model m with these fields when there are any."""
    models = ModelRegistry()
    if fields:
        models.register(ModelSpec("m", **fields))
    listed = [{**MODEL, **entry} for entry in entries]
    models.use_prices(PriceList.from_mappings(listed).lookup("acme"))
    return models


def files(count: int, **facts: Any) -> list[Asset]:
    return [Asset(url="https://x.test/o", media_type="video/mp4", **facts) for _ in range(count)]


def cost(
    models: ModelRegistry,
    *,
    model: str = "m",
    prompt: str | None = None,
    params: Mapping[str, Any] | None = None,
    inputs: Sequence[Asset] = (),
    assets: Sequence[Asset] = (),
    reported: Mapping[str, Any] | None = None,
) -> float | None:
    step = Step(
        provider="acme", model=model, prompt=prompt, params=dict(params or {}), inputs=list(inputs)
    )
    return compute_cost(models, step, assets=assets, provider_payload=reported or {})


USAGE = {"input_tokens": 2000, "output_tokens": 1000}
GEMINI = {"promptTokenCount": 2000, "candidatesTokenCount": 600, "thoughtsTokenCount": 400}
TOKENS = {"unit": "million_tokens", "usd_in": 2, "usd_out": 10}

UNITS: list[tuple[str, dict[str, Any], dict[str, Any], float | None]] = [
    ("request", {"usd": 0.5}, {"assets": files(3)}, 0.5),
    ("output", {"usd": 0.1}, {"assets": files(3)}, 0.3),
    ("image", {"usd": 0.1}, {"assets": files(3)}, 0.3),
    ("output_second", {"usd": 0.1}, {"assets": files(3, duration=0.1)}, 0.03),
    ("output_second", {"usd": 0.1}, {"assets": files(2), "params": {"duration": "8s"}}, 1.6),
    ("output_second", {"usd": 0.1, "seconds": 5}, {"assets": files(2)}, 1.0),
    ("output_second", {"usd": 0.1}, {"assets": files(2)}, None),
    (
        "output_second",
        {"usd": 0.1, "seconds": 5},
        {"assets": files(1), "params": {"duration": "auto"}},
        None,
    ),
    ("output_minute", {"usd": 6}, {"assets": files(1, duration=30)}, 3.0),
    ("input_second", {"usd": 0.04}, {"inputs": files(1, duration=5)}, 0.2),
    ("input_second", {"usd": 0.04}, {"inputs": files(1)}, None),
    ("input_minute", {"usd": 0.6}, {"inputs": files(2, duration=30)}, 0.6),
    ("input_hour", {"usd": 0.15}, {"inputs": files(1, duration=7200)}, 0.3),
    ("input_hour", {"usd": 0.36}, {"reported": {"audio_duration": 10}}, 0.001),
    ("1k_characters", {"usd": 0.3}, {"prompt": "x" * 1500}, 0.45),
    ("1k_characters", {"usd": 0.3}, {"params": {"text": "x" * 500}}, 0.15),
    ("1k_characters", {"usd": 0.3}, {}, None),
    ("1m_characters", {"usd": 15}, {"prompt": "x" * 1000}, 0.015),
    ("megapixel", {"usd": 0.01}, {"assets": files(2, width=1000, height=500)}, 0.01),
    ("megapixel", {"usd": 0.01}, {"assets": files(2), "params": {"size": "2000x1000"}}, 0.04),
    ("megapixel", {"usd": 0.01}, {"params": {"width": 1000, "height": 1000}}, 0.01),
    (
        "megapixel",
        {"usd": 0.01},
        {"params": {"image_size": {"width": 500, "height": 1000}}},
        0.005,
    ),
    ("megapixel", {"usd": 0.01}, {"assets": files(2), "params": {"size": "square"}}, None),
    ("credit", {"usd": 0.01}, {"reported": {"credits": 25}}, 0.25),
    ("credit", {"usd": 0.0002}, {"reported": {"character_cost": "50"}}, 0.01),
    ("credit", {"usd": 0.01}, {}, None),
    ("compute_second", {"usd": 0.001}, {"reported": {"metrics": {"predict_time": 2.5}}}, 0.0025),
    ("compute_second", {"usd": 0.001}, {"reported": {"metrics": {}}}, None),
    ("million_tokens", {"usd_in": 2, "usd_out": 10}, {"reported": {"usage": USAGE}}, 0.014),
    ("million_tokens", {"usd_in": 2, "usd_out": 10}, {"reported": {"usage": GEMINI}}, 0.014),
    ("million_tokens", {"usd_in": 2, "usd_out": 10}, {}, None),
    ("request", {"usd": 0}, {}, 0.0),
]


@pytest.mark.parametrize(
    ("unit", "entry", "done", "usd"), UNITS, ids=[f"{i}-{u[0]}" for i, u in enumerate(UNITS)]
)
def test_every_unit_has_a_golden_number(
    unit: str, entry: dict[str, Any], done: dict[str, Any], usd: float | None
) -> None:
    """What is counted times the price; None, and never 0, where the count is not known."""
    assert cost(registry({"unit": unit, **entry}), **done) == usd


def test_no_unit_is_left_out() -> None:
    """Each unit a list may name has been priced above."""
    assert {case[0] for case in UNITS} == set(PriceUnit)


def test_credits_are_expected_where_the_model_says_how_many() -> None:
    """The vendor's report wins over what was expected."""
    models = registry({"unit": "credit", "usd": 0.01}, extras={CREDITS: lambda context: 20})
    assert estimate_cost(models, "m", provider="acme") == Decimal("0.2")
    assert cost(models, reported={"credits": 5}) == 0.05


def test_tokens_have_a_price_only_where_all_of_them_have() -> None:
    """Cached tokens are cheaper, or unknown; long prompts have their own prices."""
    rate = token_rate(2, 10, most=1000, beyond=token_rate(4, 20, 1))
    assert rate.of(1000, 100) == 0.003
    assert rate.of(1000, 100, 1) is None
    assert rate.of(2000, 100, 1000) == 0.007
    assert token_rate(2, 10, most=10).of(11, 1) is None
    assert rate.of(None, 1) is None


CASES: list[tuple[Any, Any, bool]] = [
    ("4k", "4K", True),
    ("4k", "1080p", False),
    ("4k", None, False),
    (["4k", "2k"], "2k", True),
    (8, 8, True),
    (8, "8", True),
    (8, "8s", True),
    ("8s", 8, True),
    (8, 8.5, False),
    (1, True, False),
    (True, True, True),
    (True, False, False),
    (False, 0, False),
    (True, "true", False),
    ({"from": 5, "below": 10}, 5, True),
    ({"from": 5, "below": 10}, "9.9s", True),
    ({"from": 5, "below": 10}, 10, False),
    ({"from": 5}, 4, False),
    ({"below": 5}, 0, True),
    ({"below": 5}, "auto", False),
    ({"below": 5}, [1], False),
]


@pytest.mark.parametrize(("condition", "given", "holds"), CASES, ids=str)
def test_a_condition_looks_at_a_parameter(condition: Any, given: Any, holds: bool) -> None:
    """Texts without regard to case, lengths however they are written, and no yes for a 1."""
    models = registry({"unit": "request", "usd": 1, "when": {"p": condition}})
    params = {} if given is None else {"p": given}
    assert cost(models, params=params) == (1.0 if holds else None)
    assert estimate_cost(models, "m", params, provider="acme") == (1 if holds else None)


def test_conditions_see_the_standard_and_the_native_name() -> None:
    """Also the vendor's defaults, which are what is sent."""
    spec: dict[str, Any] = {
        "param_aliases": {"resolution": "imageSize"},
        "param_defaults": {"quality": "high"},
    }
    for when in ({"resolution": "2k"}, {"imageSize": "2k"}, {"quality": "high"}):
        models = registry({"unit": "request", "usd": 1, "when": when}, **spec)
        assert cost(models, params={"resolution": "2K"}) == 1.0, when


def test_the_first_entry_that_holds_counts_and_ids_come_before_patterns() -> None:
    """In the order of the list; what no entry holds for keeps its built-in price."""
    models = registry(
        {"model": "m*", "unit": "request", "usd": 9},
        {"unit": "request", "usd": 1, "when": {"size": "big"}},
        {"unit": "request", "usd": 2, "when": {"kind": "fine"}},
    )
    assert cost(models, params={"size": "big", "kind": "fine"}) == 1.0
    assert cost(models, params={"kind": "fine"}) == 2.0
    assert cost(models) == 9.0
    assert cost(models, model="m2") == 9.0
    assert cost(models, model="other") is None


def test_an_own_price_wins_over_a_built_in_one_where_it_holds() -> None:
    """An own price whose quantity is unknown leaves the cost unknown; it does not fall back."""
    built_in = ModelSpec("m", pricing=price_table(price("m", PriceUnit.REQUEST, 7)))
    family = ModelFamily("m", re.compile("m$"), built_in, "a model", ("m",))
    listed = PriceList.from_mappings(
        [{**MODEL, "unit": "output_second", "usd": 1, "when": {"size": "big"}}]
    )
    models = ModelRegistry(provider_families=[family])
    models.use_prices(listed.lookup("acme"))
    assert cost(models) == 7.0
    assert cost(models, params={"size": "big"}) is None
    assert cost(models, params={"size": "big", "duration": 3}) == 3.0
    models.register_pricing("m", per_unit(5))
    assert cost(models, params={"size": "big", "duration": 3}, assets=files(1)) == 5.0
    assert cost(models.fork(), assets=files(1)) == 5.0


def test_a_list_is_for_its_vendor_only() -> None:
    """Another vendor's registry is not touched, nor is the one that a fork came from."""
    listed = PriceList.from_mappings([{**MODEL, "unit": "request", "usd": 1}])
    assert listed.lookup("other") is None
    plain = ModelRegistry()
    priced = plain.fork()
    priced.use_prices(listed.lookup("acme"))
    assert cost(plain) is None
    assert cost(priced) == cost(priced.fork()) == 1.0
    priced.use_prices(None)
    assert cost(priced) is None


def test_prices_read_as_people_write_them() -> None:
    """For the command line: the amount, the unit, and when it holds."""
    table = price_table(
        price("m", PriceUnit.OUTPUT_SECOND, 0.40, resolution=("720p", "1080p")),
        price("x", PriceUnit.IMAGE, 1),
    )
    assert words_of(table, "m") == "0.4 USD per output_second (resolution 720p or 1080p)"
    assert words_of(table, "other") is None
    assert words_of(None, "m") is None
    assert words_of(per_unit(1), "m") == "by the request"
    assert str(Condition("d", low=Decimal(1), high=Decimal(2))) == "d from 1 below 2"
    models = registry({"unit": "credit", "usd": 150}, {**TOKENS, "when": {"a": True}})
    said = words_of(models.get("m").pricing, "m")
    assert said == "150 USD per credit; 2 and 10 USD per million_tokens (a True)"


def test_a_wrong_price_in_code_is_refused_where_it_is_written() -> None:
    """As in the strategies themselves."""
    with pytest.raises(ConfigError, match="no amount of USD"):
        price("m", PriceUnit.IMAGE, -1)
    with pytest.raises(ConfigError, match="no amount of USD"):
        per_second(float("nan"))
    with pytest.raises(ConfigError, match="no amount of USD"):
        token_rate(1, float("inf"))


def test_what_is_not_known_yet_is_no_fault_of_a_price(caplog: pytest.LogCaptureFixture) -> None:
    """A strategy that raises one of our errors is silent; its cost is unknown."""

    def unknowable(context: PricingContext) -> float:
        raise ConfigError("the length of an input is known when the input is made")

    models = registry(pricing=unknowable)
    assert cost(models) is None
    assert caplog.text == ""
