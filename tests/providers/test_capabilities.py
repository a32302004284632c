import pytest

from genblaze_dagster.providers.capabilities import Capability, capabilities
from genblaze_dagster.providers.catalogue import BUILT_IN
from genblaze_dagster.providers.registry import resolve_provider
from genblaze_dagster.providers.vendor.provider import VendorProvider

ALL = sorted(capabilities(), key=lambda one: one.name)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_what_is_said_of_a_provider_is_what_its_class_does(one: Capability) -> None:
    """Cancelling, jobs and lookups are there exactly where the table says so."""
    kind = type(resolve_provider(one.name))
    assert issubclass(kind, VendorProvider)
    assert one.traits.cancels == (kind.cancel is not VendorProvider.cancel)
    assert one.traits.jobs == (kind.poll is not VendorProvider.poll)
    assert one.traits.finds_jobs == one.finds_jobs
    assert one.name in (kind.name, *(n for n, where in BUILT_IN.items() if kind.__name__ in where))
    assert kind.__doc__
    assert one.traits.makes


def test_names_in_manifests_lead_back_to_their_provider() -> None:
    """A step recorded by a provider can be replayed by its name."""
    for one in ALL:
        provider = resolve_provider(one.name)
        assert type(resolve_provider(provider.name)) is type(provider)
