import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import genblaze_dagster.providers as providers
from genblaze_dagster.errors import ConfigError, UnknownProviderError
from genblaze_dagster.providers.openai import DalleProvider
from genblaze_dagster.providers.registry import (
    _registered,
    provider_names,
    register_provider,
    resolve_provider,
)


@pytest.fixture(autouse=True)
def _clean_registry() -> Iterator[None]:
    before = dict(_registered)
    yield
    _registered.clear()
    _registered.update(before)


def test_a_name_gives_a_fresh_instance_each_time() -> None:
    """Two look-ups give two providers, so that nobody shares state by accident."""
    first, second = resolve_provider("openai"), resolve_provider("openai")
    assert isinstance(first, DalleProvider)
    assert first is not second
    assert resolve_provider("local").name == "local"


@pytest.mark.parametrize(
    ("name", "close"), [("opnai", "openai"), ("OpenAI", "openai"), ("locl", "local")]
)
def test_an_unknown_name_is_answered_with_close_ones(name: str, close: str) -> None:
    """The error suggests what was meant and says how to register a provider."""
    with pytest.raises(UnknownProviderError, match=f"did you mean '{close}'") as caught:
        resolve_provider(name)
    assert "genblaze_dagster.providers" in str(caught.value)
    assert "register_provider" in str(caught.value)


def test_a_name_close_to_nothing_lists_what_there_is() -> None:
    """Without a near match the known names are listed."""
    with pytest.raises(UnknownProviderError, match=r"known: .*local.*openai"):
        resolve_provider("zzz")


def test_a_registered_provider_wins() -> None:
    """A program can add a provider, or put its own in the place of a built-in one."""
    mine = DalleProvider("sk-mine", base_url="https://gateway.test/v1")
    register_provider("openai", lambda: mine)
    register_provider("ours", lambda: mine)
    assert resolve_provider("openai") is mine
    assert resolve_provider("ours") is mine
    assert {"local", "openai", "ours"} <= set(provider_names())


def test_what_is_not_a_provider_is_refused() -> None:
    """A factory that gives something else, or needs arguments, is a configuration error."""
    register_provider("thing", object)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'thing' cannot be used.*object"):
        resolve_provider("thing")
    register_provider("needy", lambda key: DalleProvider(key))  # type: ignore[arg-type, misc]
    with pytest.raises(ConfigError, match="pass the instance"):
        resolve_provider("needy")


INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.providers import resolve_provider
assert resolve_provider("acme").name == "openai"
assert resolve_provider("openai").name == "openai"
try:
    resolve_provider("broken")
except ConfigError as exc:
    print(exc)
"""


def test_entry_points_of_other_packages_are_found(tmp_path: Path) -> None:
    """An installed package adds a provider; a broken one is named; built-ins stay built-in."""
    metadata = tmp_path / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[genblaze_dagster.providers]\n"
        "acme = genblaze_dagster.providers.openai:DalleProvider\n"
        "openai = acme_missing:Evil\n"
        "broken = acme_missing:Nothing\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert "provider 'broken' of acme (acme_missing:Nothing) cannot be imported" in output


def test_many_threads_may_ask_at_once() -> None:
    """Concurrent look-ups and registrations give every thread its provider."""
    found: list[object] = []

    def ask(number: int) -> None:
        register_provider(f"p{number}", DalleProvider)
        found.append(resolve_provider(f"p{number}"))
        found.append(resolve_provider("openai"))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(item) for item in found}) == 32


def test_the_package_exports_lazily() -> None:
    """Importing the package loads no vendor and no HTTP library; every name resolves."""
    code = (
        "import sys, genblaze_dagster.providers as p\n"
        "assert 'httpx' not in sys.modules and 'pydantic' not in sys.modules\n"
        "assert set(p.__all__) <= set(dir(p))\n"
        "p.DalleProvider\n"
        "assert 'httpx' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(providers, name) is not None for name in providers.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = providers.Nothing
