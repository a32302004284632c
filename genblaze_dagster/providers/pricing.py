"""What a generation costs in USD: strategies a model is registered with, and where they are asked.

A strategy gets a `PricingContext` and returns a price, or None when it does not know. Unknown is
never 0. The strategies here count in decimals, so that 3 x 0.1 is 0.3, and give a float.
"""

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import ConfigError, GenblazeError

if TYPE_CHECKING:
    from genblaze_dagster.providers.models import ModelRegistry

_log = logging.getLogger(__name__)

_DURATIONS = ("duration_seconds", "duration")
_TEXTS = ("text", "input", "promptText", "gen_text")
_LONGEST_NUMBER = 32


@dataclass(frozen=True, slots=True)
class PricingContext:
    """What a strategy may look at: the step, its outputs, and what the vendor reported."""

    step: Step
    assets: Sequence[Asset] = ()
    provider_payload: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def output_count(self) -> int:
        """How many outputs there are."""
        return len(self.assets)

    @property
    def output_duration_s(self) -> float | None:
        """Seconds of all outputs together; None when no output has a duration."""
        total = _output_seconds(self)
        return None if total is None else float(total)


PricingStrategy = Callable[[PricingContext], float | Decimal | None]
"""Returns a price in USD, None when it is unknown."""


def per_unit(rate: float | Decimal) -> PricingStrategy:
    """Price each output at `rate` USD."""
    price = rate_of(rate)

    def strategy(context: PricingContext) -> float | None:
        return float(price * context.output_count) if context.output_count else None

    return strategy


def per_input_chars(rate: float | Decimal, per: int = 1000) -> PricingStrategy:
    """Price the characters of the prompt at `rate` USD per `per` of them.

    Without a prompt a text among the parameters counts, else the `char_count` in the metadata of
    the inputs.
    """
    if per < 1:
        raise ConfigError(f"per_input_chars: per is {per}; give a number of characters above 0")
    price = rate_of(rate) / per

    def strategy(context: PricingContext) -> float | None:
        chars = _input_chars(context.step)
        return None if chars is None else float(price * chars)

    return strategy


def per_output_second(rate: float | Decimal) -> PricingStrategy:
    """Price each second of the outputs at `rate` USD; unknown when none has a duration."""
    price = rate_of(rate)

    def strategy(context: PricingContext) -> float | None:
        seconds = _output_seconds(context)
        return None if seconds is None else float(price * seconds)

    return strategy


def tiered(
    table: Mapping[tuple[Hashable, ...], float | Decimal],
    key: Callable[[PricingContext], tuple[Hashable, ...]],
) -> PricingStrategy:
    """Price each output as the table says for `key(context)`; at least one output counts."""
    prices = _rates(table)

    def strategy(context: PricingContext) -> float | None:
        price = _look_up(prices, key(context))
        return None if price is None else float(price * max(context.output_count, 1))

    return strategy


def bucketed_by_duration(
    buckets: Sequence[tuple[tuple[float, float], float | Decimal]],
) -> PricingStrategy:
    """Price the whole by its duration in seconds: the first bucket with `low <= d < high`.

    The duration is that of all outputs together; without one, the parameter `duration_seconds` or
    `duration`.
    """
    prices = [(low, high, rate_of(price)) for (low, high), price in buckets]

    def strategy(context: PricingContext) -> float | None:
        seconds = _output_seconds(context)
        if seconds is None:
            params = context.step.params
            seconds = first_amount(params.get(name) for name in _DURATIONS)
        if seconds is None:
            return None
        return next((float(price) for low, high, price in prices if low <= seconds < high), None)

    return strategy


def by_param(
    param: str,
    table: Mapping[Any, float | Decimal],
    *,
    default: float | Decimal | None = None,
    per_output: bool = True,
) -> PricingStrategy:
    """Price by the value of a parameter.

    Args:
        param: its name.
        table: USD by value.
        default: for other values, and without the parameter; None makes them unknown.
        per_output: each output costs that much (at least one counts), or all of them together.
    """
    prices = _rates(table)
    otherwise = None if default is None else rate_of(default)

    def strategy(context: PricingContext) -> float | None:
        price = _look_up(prices, context.step.params.get(param))
        return _per_output(otherwise if price is None else price, context, per_output)

    return strategy


def by_model_and_param(
    param: str,
    table: Mapping[tuple[str, Any], float | Decimal],
    *,
    per_output: bool = True,
) -> PricingStrategy:
    """Price by model and the value of a parameter, for a spec that several models share.

    Args:
        param: the parameter's name.
        table: USD by model and value.
        per_output: each output costs that much (at least one counts), or all of them together.
    """
    prices = _rates(table)

    def strategy(context: PricingContext) -> float | None:
        step = context.step
        return _per_output(
            _look_up(prices, (step.model, step.params.get(param))), context, per_output
        )

    return strategy


def first_match(*strategies: PricingStrategy) -> PricingStrategy:
    """Ask one strategy after the other; the first price is the price."""

    def strategy(context: PricingContext) -> float | Decimal | None:
        return next((p for p in (ask(context) for ask in strategies) if p is not None), None)

    return strategy


def per_response_metric(
    extract: Callable[[PricingContext], float | Decimal | None],
) -> PricingStrategy:
    """Price by what the vendor reported; `extract` finds it in `context.provider_payload`."""
    return extract


def compute_cost(
    registry: "ModelRegistry",
    step: Step,
    *,
    assets: Sequence[Asset] | None = None,
    provider_payload: Mapping[str, Any] | None = None,
) -> float | None:
    """Return what a finished step cost in USD; None when unknown.

    Args:
        registry: knows the model's price.
        step: as it ran.
        assets: its outputs; those of the step when left out.
        provider_payload: what the vendor reported; that of the step when left out.
    """
    context = PricingContext(
        step=_with_effective_params(registry, step),
        assets=tuple(step.assets if assets is None else assets),
        provider_payload=step.provider_payload if provider_payload is None else provider_payload,
    )
    price = _price(registry, context)
    return None if price is None else float(price)


def estimate_cost(
    registry: "ModelRegistry",
    model: str,
    params: Mapping[str, Any] | None = None,
    *,
    provider: str,
    n: int = 1,
    prompt: str | None = None,
    inputs: Sequence[Asset] = (),
) -> Decimal | None:
    """Return what a step will probably cost in USD, before it runs; None when unknown.

    Args:
        registry: knows the model's price.
        model: any name the registry knows it by.
        params: the caller's; a duration among them is taken for that of each output.
        provider: its name, as in manifests.
        n: how many outputs are expected.
        prompt: a `prompt` in the parameters when left out.
        inputs: of the step.
    """
    spec = registry.get(model)
    if spec.pricing is None:
        return None
    given = dict(params or {})
    own_prompt = given.pop("prompt", None)
    step = Step(
        provider=provider,
        model=model,
        prompt=own_prompt if prompt is None and isinstance(own_prompt, str) else prompt,
        params=given,
        inputs=list(inputs),
        modality=spec.modality or Modality.IMAGE,
    )
    step = _with_effective_params(registry, step)
    seconds = _expected_seconds(registry, step)
    output = Asset(
        url="about:blank",
        media_type="application/octet-stream",
        duration=None if seconds is None else float(seconds),
    )
    return _price(registry, PricingContext(step=step, assets=(output,) * n))


def _price(registry: "ModelRegistry", context: PricingContext) -> Decimal | None:
    model = context.step.model
    strategy = registry.get(model).pricing
    if strategy is None:
        return None
    try:
        said = strategy(context)
    except GenblazeError:
        # It depends on what is not known yet, such as the length of an input still to be made.
        return None
    except Exception as exc:
        # Its message may quote a prompt or a key; where it was raised is enough to find it.
        _log.warning(
            "%s: its pricing raised %s in %s; the cost is unknown",
            model,
            type(exc).__name__,
            _place(exc),
        )
        return None
    if said is None:
        return None
    price = amount_of(said)
    if price is None:
        _log.warning("%s: its pricing gave no amount of USD; the cost is unknown", model)
    return price


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _with_effective_params(registry: "ModelRegistry", step: Step) -> Step:
    """Return the step with the defaults and native names that are really sent, beside its own."""
    try:
        payload = registry.prepare_payload(step)
    except GenblazeError:
        # Who runs the step is told. Here it may have run: then it is paid, and nothing may fail.
        return step
    return step.model_copy(update={"params": {**step.params, **payload}})


def _expected_seconds(registry: "ModelRegistry", step: Step) -> Decimal | None:
    aliases = registry.get(step.model).param_aliases
    names = (n for name in _DURATIONS for n in (aliases.get(name, name), name))
    return first_amount(seconds_of(step.params.get(name)) for name in names)


def _output_seconds(context: PricingContext) -> Decimal | None:
    return total_of(asset.duration for asset in context.assets)


def _input_chars(step: Step) -> Decimal | None:
    texts = (step.prompt, *(step.params.get(name) for name in _TEXTS))
    text = next((text for text in texts if isinstance(text, str) and text), None)
    if text is not None:
        return Decimal(len(text))
    return total_of(asset.metadata.get("char_count") for asset in step.inputs)


def _per_output(price: Decimal | None, context: PricingContext, per_output: bool) -> float | None:
    if price is None:
        return None
    return float(price * max(context.output_count, 1)) if per_output else float(price)


def _look_up(prices: Mapping[Any, Decimal], key: object) -> Decimal | None:
    try:
        return prices.get(key)
    except TypeError:
        # A list or an object as the value of a parameter: it cannot stand in a table.
        return None


def _rates(table: Mapping[Any, float | Decimal]) -> dict[Any, Decimal]:
    return {key: rate_of(price) for key, price in table.items()}


def rate_of(value: float | Decimal) -> Decimal:
    """Return a price in USD.

    Raises:
        ConfigError: it is no finite amount of 0 or more.
    """
    rate = amount_of(value)
    if rate is None:
        raise ConfigError(f"a price of {value!r} is no amount of USD; give a number of 0 or more")
    return rate


def total_of(values: Iterable[object]) -> Decimal | None:
    """Return the sum of those values that are amounts; None when none is."""
    known = [number for number in map(amount_of, values) if number is not None]
    return sum(known, Decimal(0)) if known else None


def first_amount(values: Iterable[object]) -> Decimal | None:
    """Return the first of the values that is an amount."""
    return next((number for number in map(amount_of, values) if number is not None), None)


def seconds_of(value: object) -> Decimal | None:
    """Return an amount of seconds, also of a text such as 8s."""
    return amount_of(value.removesuffix("s") if isinstance(value, str) else value)


def amount_of(value: object) -> Decimal | None:
    """Return a finite number of 0 or more, or a short text of one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        return None
    try:
        number = value if isinstance(value, Decimal) else Decimal(str(value))
        # What is beyond a float is beyond a manifest too.
        return number if 0 <= number <= Decimal("1e300") else None
    except (InvalidOperation, ValueError):
        return None
