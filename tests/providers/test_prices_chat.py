import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.providers.google import chat as google
from genblaze_dagster.providers.openai import chat as openai
from genblaze_dagster.providers.price_list import PRICES_VARIABLE
from genblaze_dagster.providers.vendor.chat import ChatResponse
from tests.support.wire import API_KEY, Scenario, replay

OWN = """
[[price]]
vendor = "{vendor}"
model = "*"
unit = "million_tokens"
usd_in = 100
usd_out = 1000
"""


def said(
    vectors: Path, vendor: str, achat: Callable[..., Any], usage: dict[str, Any], model: str
) -> ChatResponse:
    """Return the answer to a golden chat, with another usage in it."""
    scenario = Scenario.load(vectors / "wire" / vendor / "chat_basic.json")
    body = scenario.exchanges[0]["response"]["json"]
    body["usage" if vendor == "openai" else "usageMetadata"] = usage

    async def main() -> ChatResponse:
        async with wire.client() as client:
            return await achat(model, prompt="Hi", api_key=API_KEY, client=client)

    with replay(scenario) as wire:
        return asyncio.run(main())


OPENAI: list[tuple[str, dict[str, Any], float | None]] = [
    ("gpt-4.1-mini", {"prompt_tokens": 1000, "completion_tokens": 500}, 0.0012),
    (
        "gpt-4.1-mini-2025-04-14",
        {
            "prompt_tokens": 1000,
            "completion_tokens": 500,
            "prompt_tokens_details": {"cached_tokens": 800},
        },
        0.00096,
    ),
    ("gpt-9", {"prompt_tokens": 1000, "completion_tokens": 500}, None),
    ("gpt-4.1-mini", {"prompt_tokens": "many", "completion_tokens": 500}, None),
    ("gpt-4.1-mini", {}, None),
]


@pytest.mark.parametrize(("model", "usage", "usd"), OPENAI, ids=range(len(OPENAI)))
def test_a_chat_with_openai_costs_its_tokens(
    vectors: Path, model: str, usage: dict[str, Any], usd: float | None
) -> None:
    """By the list prices, cached tokens for less; a strange report fails nothing that is paid."""
    assert said(vectors, "openai", openai.achat, usage, model).cost_usd == usd


GOOGLE: list[tuple[str, dict[str, Any], float | None]] = [
    ("gemini-2.5-flash", {"promptTokenCount": 1000, "candidatesTokenCount": 100}, 0.00055),
    (
        "models/gemini-2.5-pro",
        {"promptTokenCount": 1000, "candidatesTokenCount": 100, "thoughtsTokenCount": 100},
        0.00325,
    ),
    ("gemini-2.5-pro", {"promptTokenCount": 300_000, "candidatesTokenCount": 1000}, 0.765),
    (
        "gemini-2.5-flash",
        {
            "promptTokenCount": 1000,
            "candidatesTokenCount": 100,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 900}],
        },
        None,
    ),
    ("gemini-9", {"promptTokenCount": 1000, "candidatesTokenCount": 100}, None),
]


@pytest.mark.parametrize(("model", "usage", "usd"), GOOGLE, ids=range(len(GOOGLE)))
def test_a_chat_with_google_costs_its_tokens(
    vectors: Path, model: str, usage: dict[str, Any], usd: float | None
) -> None:
    """Thoughts are paid as output, long prompts cost more, and audio is not priced."""
    assert said(vectors, "google", google.achat, usage, model).cost_usd == usd


@pytest.mark.parametrize("vendor", ["openai", "google"])
def test_an_own_price_of_tokens_wins(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str
) -> None:
    """Also for a model that nobody knows; a wrong list fails before anything is sent."""
    path = tmp_path / "prices.toml"
    path.write_text(OWN.format(vendor=vendor))
    monkeypatch.setenv(PRICES_VARIABLE, str(path))
    named = ("prompt_tokens", "completion_tokens")
    usage = dict(
        zip(
            named if vendor == "openai" else ("promptTokenCount", "candidatesTokenCount"),
            (1000, 100),
            strict=True,
        )
    )
    achat = openai.achat if vendor == "openai" else google.achat
    assert said(vectors, vendor, achat, usage, "whatever").cost_usd == 0.2
    path.write_text("[[price]]")
    with pytest.raises(
        ConfigError, match=r"GENBLAZE_PRICES: .*entry 1 \(line 1\): unit is missing"
    ):
        asyncio.run(achat("whatever", prompt="Hi", api_key=API_KEY))
