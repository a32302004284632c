from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest

from genblaze_dagster import Column, Pipeline, generation_asset
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import ConfigError, ProviderError
from genblaze_dagster.provider_resources import OpenAIResource
from genblaze_dagster.providers import DiscoveryResult, DiscoverySupport, ModelSpec
from genblaze_dagster.providers.base import RunnableConfig, SyncProvider
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.schedules import model_checks, probe_schedule
from tests.support.world import World, prompts


class Vendor(SyncProvider):
    """A vendor whose list of models a test writes."""

    name = "vendor"
    discovery_support = DiscoverySupport.NATIVE

    def __init__(self, *listed: str, down: bool = False) -> None:
        super().__init__()
        self.listed = listed
        self.down = down

    @classmethod
    def create_registry(cls) -> ModelRegistry:
        registry = ModelRegistry()
        registry.register(ModelSpec(model_id="new-1", deprecated_aliases=frozenset({"old-1"})))
        registry.register(ModelSpec(model_id="gone-1"))
        return registry

    def discover_models(self, *, max_age_seconds: float | None = None) -> DiscoveryResult:
        if self.down:
            raise ProviderError("https://vendor.test/models?key=secret does not answer")
        return DiscoveryResult.ok(self.listed)

    def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
        raise AssertionError("a probe generates nothing")


def probed(
    world: World, assets: Sequence[dg.AssetsDefinition], **resources: Any
) -> dict[str, dg.AssetCheckEvaluation]:
    """Run the job of the schedule, as the daemon would, and return its checks by asset."""
    checks = model_checks(assets)
    schedule = probe_schedule(checks)
    definitions = dg.Definitions(
        assets=assets,
        asset_checks=[checks],
        schedules=[schedule],
        resources={**world.resources, **resources},
    )
    job = definitions.resolve_job_def("probe_models")
    result = job.execute_in_process(instance=world.instance, raise_on_error=True)
    return world.checks(result)


def step(provider: Any, model: str, **options: Any) -> list[dg.AssetsDefinition]:
    """One step over a table whose only row has a width of 64."""
    return (
        Pipeline("p")
        .step(provider, model=model, name="image", prompt="draw {subject}", **options)
        .to_assets(partitions=prompts("a", width={"a": 64}))
    )


def test_a_model_the_vendor_lists_passes(world: World) -> None:
    """The check says who vouches for the model."""
    (check,) = probed(world, step(Vendor("new-1"), "new-1")).values()
    assert check.passed
    assert check.metadata["models"].value.records[0].data["said_by"] == "discovery"


def test_a_model_that_is_gone_fails_the_asset_that_uses_it(world: World) -> None:
    """The error is at that asset alone, and names what is close."""
    vendor = Vendor("new-1", "gone-2")
    assets = [
        *step(vendor, "gone-1"),
        *Pipeline("q").step(vendor, model="new-1", name="other", prompt="x").to_assets(),
    ]
    found = probed(world, assets)
    assert found["q/other"].passed
    gone = found["p/image"]
    assert (gone.passed, gone.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "did you mean gone-2" in (gone.description or "")


def test_a_missing_fallback_and_a_deprecated_name_are_warnings(world: World) -> None:
    """The asset can still be made, so nobody is woken up."""
    (check,) = probed(
        world, step(Vendor("new-1", "old-1"), "old-1", fallback_models=["gone-1"])
    ).values()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "old-1: deprecated; use new-1" in (check.description or "")
    assert "gone-1: there is no such model" in (check.description or "")


def test_a_vendor_that_cannot_be_asked_is_a_warning_without_its_secrets(world: World) -> None:
    """Neither an outage nor a missing key fails anything."""
    down = Vendor(down=True)
    assets = [
        *step(down, "unheard-of"),
        *Pipeline("q").step("openai", model="gpt-image-1", name="o", prompt="x").to_assets(),
    ]
    found = probed(world, assets, openai=OpenAIResource(base_url="http://127.0.0.1:1"))
    for check in found.values():
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "cannot be asked" in (check.description or "")
        assert "secret" not in str(check)


def test_local_models_and_their_parameters_need_no_key(world: World) -> None:
    """What is declared is checked with a row of the table; a refused value is an error."""
    fine = step("local", "local-image", params={"width": Column("width")})
    (check,) = probed(world, fine).values()
    assert check.passed, check.description
    (check,) = probed(world, step("local", "local-image", params={"width": "wide"})).values()
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert "declared request is refused" in (check.description or "")
    (check,) = probed(world, step("local", "local-gone")).values()
    assert "there is no such model" in (check.description or "")


def test_prompt_functions_are_checked_without_being_called(world: World) -> None:
    """Their models are asked for; their requests are known when they run."""

    @generation_asset(provider="local", model="local-image")
    def poster() -> str:
        raise AssertionError("a probe calls nothing")

    (check,) = probed(world, [poster]).values()
    assert check.passed


def test_assets_that_are_not_generated_are_refused(world: World) -> None:
    """A check of nothing would always be green."""

    @dg.asset
    def mine() -> None: ...

    with pytest.raises(ConfigError, match="none of the assets is generated"):
        model_checks([mine])
