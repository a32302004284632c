import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.providers.models import ModelRegistry, ModelSpec
from genblaze_dagster.providers.param_schemas import IntSchema
from genblaze_dagster.providers.pricing import (
    PricingContext,
    PricingStrategy,
    bucketed_by_duration,
    by_model_and_param,
    by_param,
    compute_cost,
    estimate_cost,
    first_match,
    per_input_chars,
    per_output_second,
    per_response_metric,
    per_unit,
    tiered,
)


def context(
    count: int = 0,
    *,
    duration: float | None = None,
    prompt: str | None = None,
    params: dict[str, Any] | None = None,
    chars: tuple[Any, ...] = (),
    payload: Mapping[str, Any] | None = None,
) -> PricingContext:
    inputs = [
        Asset(url=f"https://x.test/{i}", media_type="text/plain", metadata={"char_count": c})
        for i, c in enumerate(chars)
    ]
    step = Step(provider="p", model="m", prompt=prompt, params=params or {}, inputs=inputs)
    output = Asset(url="https://x.test/o", media_type="video/mp4", duration=duration)
    return PricingContext(step=step, assets=[output] * count, provider_payload=payload or {})


BUCKETS = bucketed_by_duration([((0, 5), 1.0), ((5, 10), 2.0)])
BY_Q = by_param("q", {"hd": 0.5, 4: 0.7})
BY_MODEL = by_model_and_param("q", {("m", "hd"): 0.5, ("other", "hd"): 9})
TIERED = tiered({("m", 1): 0.5}, lambda c: (c.step.model, c.step.params.get("t")))

FORMULAS: list[tuple[str, PricingStrategy, PricingContext, float | None]] = [
    ("unit", per_unit(0.1), context(3), 0.3),
    ("unit-none", per_unit(0.1), context(0), None),
    ("unit-free", per_unit(0), context(2), 0.0),
    ("chars", per_input_chars(0.3), context(1, prompt="x" * 1500), 0.45),
    ("chars-per", per_input_chars(2, per=10), context(prompt="x" * 5), 1.0),
    ("chars-inputs", per_input_chars(0.3), context(1, chars=(500, None, 250)), 0.225),
    ("chars-prompt-first", per_input_chars(1), context(prompt="x", chars=(5000,)), 0.001),
    ("chars-text", per_input_chars(0.3), context(1, prompt="", chars=("500",)), 0.15),
    ("chars-bool", per_input_chars(0.3), context(1, chars=(True, -4, "many")), None),
    ("chars-zero", per_input_chars(0.3), context(1, chars=(0,)), 0.0),
    ("chars-none", per_input_chars(0.3), context(1), None),
    ("second", per_output_second(0.1), context(3, duration=0.1), 0.03),
    ("second-none", per_output_second(0.1), context(2, params={"duration": 4}), None),
    ("second-zero", per_output_second(0.1), context(2, duration=0), 0.0),
    ("bucket-low", BUCKETS, context(1, duration=0), 1.0),
    ("bucket-below", BUCKETS, context(1, duration=4.9), 1.0),
    ("bucket-edge", BUCKETS, context(1, duration=5), 2.0),
    ("bucket-above", BUCKETS, context(1, duration=10), None),
    ("bucket-sum", BUCKETS, context(2, duration=3), 2.0),
    ("bucket-seconds", BUCKETS, context(1, params={"duration_seconds": 6, "duration": 1}), 2.0),
    ("bucket-param", BUCKETS, context(1, params={"duration": "6"}), 2.0),
    ("bucket-own-first", BUCKETS, context(1, duration=1, params={"duration": 6}), 1.0),
    ("bucket-odd", BUCKETS, context(1, params={"duration": "6s"}), None),
    ("bucket-bool", BUCKETS, context(1, params={"duration": True}), None),
    ("bucket-none", BUCKETS, context(1), None),
    ("param", BY_Q, context(2, params={"q": "hd"}), 1.0),
    ("param-number", BY_Q, context(1, params={"q": 4}), 0.7),
    ("param-no-output", BY_Q, context(0, params={"q": "hd"}), 0.5),
    ("param-missing", BY_Q, context(2), None),
    ("param-list", BY_Q, context(2, params={"q": ["hd"]}), None),
    ("param-default", by_param("q", {"hd": 0.5}, default=0.1), context(2, params={"q": "x"}), 0.2),
    ("param-absent", by_param("q", {"hd": 0.5}, default=0.1), context(2), 0.2),
    (
        "param-whole",
        by_param("q", {"hd": 0.5}, per_output=False),
        context(3, params={"q": "hd"}),
        0.5,
    ),
    ("param-free", by_param("q", {"hd": 0}, default=1), context(1, params={"q": "hd"}), 0.0),
    ("model-param", BY_MODEL, context(2, params={"q": "hd"}), 1.0),
    ("model-param-missing", BY_MODEL, context(2), None),
    (
        "model-param-whole",
        by_model_and_param("q", {("m", 1): 0.5}, per_output=False),
        context(2, params={"q": 1}),
        0.5,
    ),
    ("tiered", TIERED, context(2, params={"t": 1}), 1.0),
    ("tiered-no-output", TIERED, context(0, params={"t": 1}), 0.5),
    ("tiered-missing", TIERED, context(1, params={"t": 2}), None),
    ("first", first_match(per_unit(1), lambda c: 3.0), context(0), 3.0),
    ("first-free", first_match(lambda c: 0.0, per_unit(1)), context(1), 0.0),
    ("first-none", first_match(), context(1), None),
    (
        "metric",
        per_response_metric(lambda c: c.provider_payload["u"] * 2),
        context(payload={"u": 2}),
        4,
    ),
]


@pytest.mark.parametrize(
    ("strategy", "given_context", "price"), [c[1:] for c in FORMULAS], ids=[c[0] for c in FORMULAS]
)
def test_formulas(
    strategy: PricingStrategy, given_context: PricingContext, price: float | None
) -> None:
    """Each helper gives exactly its formula, without the dust of binary fractions."""
    assert strategy(given_context) == price


@given(
    st.decimals(0, 1000, places=4, allow_nan=False), st.integers(1, 50), st.floats(0, 600, width=16)
)
def test_prices_are_counted_in_decimals(rate: Decimal, count: int, seconds: float) -> None:
    """A price is the decimal product, rounded to a float once."""
    outputs = context(count, duration=seconds)
    assert per_unit(rate)(outputs) == float(rate * count)
    assert per_output_second(rate)(outputs) == float(rate * Decimal(str(seconds)) * count)
    assert outputs.output_duration_s == float(Decimal(str(seconds)) * count)


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf"), True, None], ids=str)
def test_a_wrong_rate_is_refused_where_it_is_written(rate: Any) -> None:
    """Negative and unreal prices fail in the declaration."""
    with pytest.raises(ConfigError, match="no amount of USD"):
        per_unit(rate)
    with pytest.raises(ConfigError, match="no amount of USD"):
        by_param("q", {"hd": rate})


def test_characters_are_priced_per_some() -> None:
    """A price per zero characters fails in the declaration."""
    with pytest.raises(ConfigError, match="per is 0"):
        per_input_chars(1, per=0)


def registry(pricing: PricingStrategy | None, **fields: Any) -> ModelRegistry:
    models = ModelRegistry()
    models.register(ModelSpec(model_id="m", pricing=pricing, **fields))
    return models


def test_settling_takes_outputs_and_payload_of_the_step() -> None:
    """After a run the step's own assets and payload decide, unless others are given."""
    made = Asset(url="https://x.test/1", media_type="image/png")
    step = Step(provider="p", model="m", assets=[made, made], provider_payload={"units": 3})
    assert compute_cost(registry(per_unit(0.1)), step) == 0.2
    assert compute_cost(registry(per_unit(0.1)), step, assets=[made]) == 0.1
    metric = registry(per_response_metric(lambda c: c.provider_payload["units"]))
    assert compute_cost(metric, step) == 3.0
    assert compute_cost(metric, step, provider_payload={"units": 5}) == 5.0


def test_unknown_is_never_free() -> None:
    """A model nobody knows, or without a price, costs None, before and after."""
    models = registry(None)
    for model in ("m", "nobody-knows"):
        assert compute_cost(models, Step(provider="p", model=model)) is None
        assert estimate_cost(models, model, {"duration": 4}, provider="p") is None


@pytest.mark.parametrize(
    "answer",
    [lambda c: 1 / 0, lambda c: -1, lambda c: float("nan"), lambda c: "much", lambda c: True],
    ids=["raises", "negative", "nan", "text", "bool"],
)
def test_a_failing_strategy_is_logged_and_gives_none(
    answer: PricingStrategy, caplog: pytest.LogCaptureFixture
) -> None:
    """A strategy that raises or gives nonsense makes the cost unknown, and says so in the log."""
    with caplog.at_level(logging.WARNING):
        assert compute_cost(registry(answer), Step(provider="p", model="m")) is None
        assert estimate_cost(registry(answer), "m", provider="p") is None
    assert len(caplog.records) == 2
    assert "the cost is unknown" in caplog.text


def test_the_log_of_a_failing_strategy_quotes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The exception may quote the prompt; the log has its class and place only."""

    def quoting(priced: PricingContext) -> float:
        raise ValueError(priced.step.prompt)

    step = Step(provider="p", model="m", prompt="a private wish")
    assert compute_cost(registry(quoting), step) is None
    assert "wish" not in caplog.text
    assert "ValueError in test_pricing.py:" in caplog.text


ESTIMATES: list[tuple[str, PricingStrategy, dict[str, Any], int, str | None]] = [
    ("seconds", per_output_second(0.1), {"duration": 4}, 1, "0.4"),
    ("seconds-n", per_output_second(0.1), {"duration": 4}, 3, "1.2"),
    ("seconds-other", per_output_second(0.1), {"duration_seconds": "4"}, 1, "0.4"),
    ("seconds-none", per_output_second(0.1), {}, 1, None),
    ("unit", per_unit(0.04), {}, 1, "0.04"),
    ("unit-n", per_unit(0.04), {}, 4, "0.16"),
    ("bucket", BUCKETS, {"duration": 6}, 1, "2"),
    ("chars", per_input_chars(1), {"prompt": "abc"}, 1, "0.003"),
]


@pytest.mark.parametrize(
    ("strategy", "params", "count", "price"),
    [c[1:] for c in ESTIMATES],
    ids=[c[0] for c in ESTIMATES],
)
def test_estimates(
    strategy: PricingStrategy, params: dict[str, Any], count: int, price: str | None
) -> None:
    """Before a run: one output, as long as the parameters say."""
    estimate = estimate_cost(registry(strategy), "m", params, provider="p", n=count)
    assert estimate == (None if price is None else Decimal(price))


def test_prices_follow_what_is_really_sent() -> None:
    """Aliases and defaults of the model count: they decide what the vendor bills."""
    models = registry(
        first_match(by_param("seconds", {4: 0.5, 8: 0.9})),
        param_aliases={"duration": "seconds"},
        param_defaults={"seconds": 4},
    )
    assert estimate_cost(models, "m", provider="p") == Decimal("0.5")
    assert estimate_cost(models, "m", {"duration": 8}, provider="p") == Decimal("0.9")
    assert compute_cost(models, Step(provider="p", model="m", params={"duration": 8})) == 0.9
    models.register_pricing("m", per_output_second(1))
    assert estimate_cost(models, "m", provider="p") == 4


def test_parameters_the_model_refuses_do_not_break_an_estimate() -> None:
    """An estimate is made from the parameters as they are; the run will tell about them."""
    models = registry(by_param("n", {9: 0.5}), param_schemas={"n": IntSchema(1, 4)})
    assert estimate_cost(models, "m", {"n": 9}, provider="p") == Decimal("0.5")
    assert estimate_cost(models, "m", {"n": [9]}, provider="p") is None


def test_a_paid_step_is_priced_although_its_spec_is_broken() -> None:
    """What goes wrong with parameters afterwards cannot take the result away."""
    broken = registry(per_unit(0.5), param_transformer=lambda params: None)
    made = Asset(url="https://x.test/1", media_type="image/png")
    assert compute_cost(broken, Step(provider="p", model="m", assets=[made])) == 0.5
    assert estimate_cost(broken, "m", {"prompt": 7}, provider="p") == Decimal("0.5")
