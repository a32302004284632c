import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genblaze_dagster import Pipeline
from genblaze_dagster.errors import UnknownProviderError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.provider_resources import (
    PROVIDER_RESOURCES,
    LocalResource,
    OpenAIResource,
    resource_key,
)
from genblaze_dagster.providers.catalogue import VENDORS
from genblaze_dagster.providers.protocol import HasAccount, RateLimit
from genblaze_dagster.resources import LedgerResource, genblaze_resources
from genblaze_dagster.storage.store import MediaStore
from tests.support.world import World, failure_text, prompts


def test_definitions_with_all_defaults_load_and_open_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world: World
) -> None:
    """No key, no file and no connection is needed to look at the assets."""
    monkeypatch.chdir(tmp_path / "..")
    definitions = dg.Definitions(
        assets=world.pipeline().to_assets(), resources=genblaze_resources()
    )
    definitions.resolve_all_job_defs()
    assert not (tmp_path.parent / ".genblaze").exists()
    assert set(genblaze_resources()) == {"media", "ledger", *PROVIDER_RESOURCES}


def test_a_key_is_never_shown() -> None:
    """Neither repr nor the UI's resource page has it."""
    resource = OpenAIResource(api_key="sk-not-to-be-seen")
    assert "sk-not" not in repr(resource)
    assert OpenAIResource.model_fields["api_key"].json_schema_extra == {"dagster__is_secret": True}
    assert resource.get_provider().name == "openai"
    assert "sk-not" not in repr(resource.get_provider())


def test_a_missing_key_fails_only_runs_that_need_it(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """An unset EnvVar of a provider nobody selected does not matter."""
    monkeypatch.delenv("NOT_SET", raising=False)
    resources = {"openai": OpenAIResource(api_key=dg.EnvVar("NOT_SET"))}
    result = world.materialize(world.pipeline().to_assets(), resources=resources)
    assert result.success


def test_the_ledger_is_opened_on_first_use_and_closed_with_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its URL comes from the field, else from GENBLAZE_LEDGER, else it is .genblaze/ledger.db."""
    monkeypatch.chdir(tmp_path)
    resource = LedgerResource()
    assert not (tmp_path / ".genblaze").exists()
    ledger = resource.get_ledger()
    assert list(ledger.rows()) == []
    assert (tmp_path / ".genblaze" / "ledger.db").exists()
    assert resource.get_ledger() is ledger
    resource.teardown_after_execution(dg.build_init_resource_context())
    monkeypatch.setenv("GENBLAZE_LEDGER", f"sqlite:///{tmp_path / 'other.db'}")
    assert list(resource.get_ledger().rows()) == []
    assert (tmp_path / "other.db").exists()
    resource.teardown_after_execution(dg.build_init_resource_context())


def test_a_store_is_given_by_url_or_as_an_io_manager(tmp_path: Path) -> None:
    """Both spellings lead to the same store."""
    from genblaze_dagster.io_manager import LocalMediaIOManager

    by_url = genblaze_resources(store=(tmp_path / "s").as_uri())["media"]
    by_manager = genblaze_resources(store=LocalMediaIOManager(base_dir=str(tmp_path / "s")))[
        "media"
    ]
    assert by_url.store.url == by_manager.store.url == MediaStore((tmp_path / "s").as_uri()).url


def test_another_kind_of_io_manager_is_refused_by_name(world: World) -> None:
    """A resource of the right key and the wrong kind fails before anything is paid."""
    result = world.materialize(
        world.pipeline().to_assets(),
        resources={"media": dg.FilesystemIOManager(base_dir=str(world.folder))},
        raise_on_error=False,
    )
    assert "'media' is a" in failure_text(result)
    assert "need a media IO manager" in failure_text(result)
    result = world.materialize(
        world.pipeline().to_assets(), resources={"ledger": "x"}, raise_on_error=False
    )
    assert "need a LedgerResource" in failure_text(result)
    assert world.provider.submitted == 0


def test_the_local_provider_needs_nothing() -> None:
    """Its resource gives a provider of that name."""
    assert LocalResource().get_provider().name == "local"


def test_limits_of_an_account_hold_for_all_that_share_the_ledger(world: World) -> None:
    """One job at a time although the assets would run all of them at once."""
    pipeline = Pipeline("p").step("local", model="local-image", prompt="{subject}", width=32)
    assets = pipeline.to_assets(partitions=prompts(*"abc"))
    local = LocalResource(latency=0.2, concurrency=1)
    started = time.monotonic()
    assert world.materialize(assets, [*"abc"], resources={"local": local}).success
    assert time.monotonic() - started > 3 * 0.2
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}") as ledger:
        assert {row.account for row in ledger.rows()} == {"local"}


def test_an_account_is_known_by_a_fingerprint_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in every process, another for another key, and never the key itself."""
    one, same, other = (
        OpenAIResource(api_key=key, rate=30, concurrency=4).get_provider()
        for key in ("sk-one-secret", "sk-one-secret", "sk-other")
    )
    assert isinstance(one, HasAccount)
    assert isinstance(other, HasAccount)
    assert one.account == getattr(same, "account", None) != other.account
    assert "secret" not in one.account
    assert one.rate_limit == RateLimit(requests=30, seconds=60.0, concurrency=4)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    keyless = OpenAIResource().get_provider()
    assert isinstance(keyless, HasAccount)
    assert (keyless.account, keyless.rate_limit) == ("openai", None)
    assert not isinstance(LocalResource().get_provider(), HasAccount)


@pytest.mark.parametrize("limits", [{"rate": 0}, {"concurrency": 0}])
def test_limits_that_let_nothing_pass_are_refused(limits: dict[str, Any]) -> None:
    """When the definitions load, not when the first run waits for ever."""
    with pytest.raises(ValueError, match="greater than"):
        LocalResource(**limits)


@pytest.mark.parametrize(
    ("vendor", "name"),
    [(vendor, name) for vendor, names in VENDORS.items() for name in names],
)
def test_every_provider_comes_from_its_vendors_resource(vendor: str, name: str) -> None:
    """One resource per vendor makes each of its providers, with one account for all of them."""
    resource = PROVIDER_RESOURCES[vendor](api_key="k" * 32, rate=30)
    provider = resource.provider_named(name)
    assert resource_key(name) == vendor
    assert provider.account == resource.get_provider().account
    assert provider.rate_limit is not None
    assert "kkk" not in repr(provider)
    assert "kkk" not in repr(resource)


def test_a_name_of_another_vendor_is_refused() -> None:
    """A resource makes its own vendor's providers only."""
    with pytest.raises(UnknownProviderError, match="runway"):
        PROVIDER_RESOURCES["runway"]().provider_named("luma")
