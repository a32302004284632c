import asyncio
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.errors import ConfigError, ModelError
from genblaze_dagster.providers.discovery import discover_providers
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.model_checks import ModelChecks, ProbeCache
from genblaze_dagster.providers.models import ModelFamily, ModelRegistry, ModelSpec
from genblaze_dagster.providers.openai import DalleProvider
from genblaze_dagster.providers.preflight import (
    MOST_AT_ONCE,
    apreflight,
    aprobe_models,
    preflight,
    probe_models,
)
from genblaze_dagster.providers.validation import (
    DiscoveryResult,
    DiscoveryStatus,
    DiscoverySupport,
    LiveProbeResult,
    ValidationOutcome,
    ValidationResult,
    ValidationSource,
)

FOUND = ValidationResult.ok_authoritative(ValidationSource.DISCOVERY)
MISSING = ValidationResult.not_found(ValidationSource.DISCOVERY, suggested_slugs=("good",))


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def family(**fields: Any) -> ModelFamily:
    return ModelFamily(
        name="acme",
        pattern=re.compile(r"acme-"),
        spec_template=ModelSpec(model_id="*"),
        description="Models of Acme.",
        example_slugs=("acme-1",),
        **fields,
    )


def models(**fields: Any) -> ModelRegistry:
    registry = ModelRegistry(provider_families=[family(**fields)], unstable_slugs=["shaky"])
    registry.register(
        ModelSpec(model_id="mine", aliases=frozenset({"my"}), deprecated_aliases=frozenset({"old"}))
    )
    return registry


def answer(result: ValidationResult) -> tuple[str, str]:
    return result.outcome.value, result.source.value


@pytest.mark.parametrize(
    ("name", "outcome", "source"),
    [
        ("mine", "ok_authoritative", "user"),
        ("my", "ok_authoritative", "user"),
        ("old", "ok_authoritative", "user"),
        ("acme-7", "ok_provisional", "family"),
        ("nobody", "unknown_permissive", "fallback"),
        ("shaky", "unknown_permissive", "fallback"),
    ],
    ids=str,
)
def test_a_registry_says_what_it_knows(name: str, outcome: str, source: str) -> None:
    """Without the vendor: registered models are sure, families likely, the rest unknown."""
    result = models().validate(name)
    assert answer(result) == (outcome, source)
    assert result.is_ok is outcome.startswith("ok")
    assert not result.is_terminal_failure


def test_details_tell_what_to_do() -> None:
    """Deprecated and unstable names come with a hint."""
    registry = models(discovery_required=True)
    assert registry.validate("old").detail == "deprecated; use mine"
    assert "discover_models" in str(registry.validate("shaky").detail)
    assert "not confirmed" in str(registry.validate("acme-2").detail)
    unstable = models(unstable_examples=frozenset({"acme-3"}))
    assert "come and go" in str(unstable.validate("acme-3").detail)


LISTED = DiscoveryResult.ok({"listed", "acme-1"})
STALE = DiscoveryResult(DiscoveryStatus.STALE, frozenset({"listed"}))
NATIVE, PARTIAL = DiscoverySupport.NATIVE, DiscoverySupport.PARTIAL


@pytest.mark.parametrize(
    ("name", "discovery", "support", "required", "expected"),
    [
        ("listed", LISTED, NATIVE, False, ("ok_authoritative", "discovery")),
        ("acme-1", LISTED, PARTIAL, False, ("ok_authoritative", "discovery")),
        ("gone", LISTED, NATIVE, False, ("not_found", "discovery")),
        ("acme-2", LISTED, NATIVE, False, ("not_found", "discovery")),
        ("gone", LISTED, PARTIAL, False, ("unknown_permissive", "fallback")),
        ("acme-2", LISTED, PARTIAL, False, ("ok_provisional", "family")),
        ("acme-2", LISTED, PARTIAL, True, ("not_found", "discovery")),
        ("listed", STALE, NATIVE, False, ("ok_authoritative", "discovery")),
        ("gone", STALE, NATIVE, False, ("unknown_permissive", "fallback")),
        ("gone", DiscoveryResult.failed("x"), NATIVE, False, ("unknown_permissive", "fallback")),
        ("gone", DiscoveryResult.ok(()), NATIVE, False, ("unknown_permissive", "fallback")),
        ("mine", LISTED, NATIVE, False, ("ok_authoritative", "user")),
    ],
)
def test_a_complete_and_fresh_list_decides(
    name: str,
    discovery: DiscoveryResult,
    support: DiscoverySupport,
    required: bool,
    expected: tuple[str, str],
) -> None:
    """Only a complete list of now can say that a model is not there; an empty one says nothing."""
    registry = models(discovery_required=required)
    found = registry.validate(name, discovery=discovery, discovery_support=support)
    assert answer(found) == expected


def test_close_names_are_suggested() -> None:
    """A misspelt model is answered with those the vendor has."""
    listed = DiscoveryResult.ok({"sora-2", "sora-2-pro", "veo-3", "x" * 10_000})
    found = models().validate("soar-2", discovery=listed, discovery_support=NATIVE)
    assert found.suggested_slugs[0] == "sora-2"
    assert "veo-3" not in found.suggested_slugs


def test_a_probe_decides_and_is_believed_for_a_time() -> None:
    """Live and dead are kept until the ttl is over; unknown is asked again; refresh asks now."""
    clock, asked = Clock(), list[str]()
    alive = {"acme-live": LiveProbeResult.LIVE, "acme-dead": LiveProbeResult.DEAD}

    def probe(name: str) -> LiveProbeResult:
        asked.append(name)
        return alive.get(name, LiveProbeResult.UNKNOWN)

    checks = ModelChecks(models(probe=probe), ttl=60, clock=clock)
    for _ in range(2):
        assert answer(checks.validate("acme-live")) == ("ok_authoritative", "probe")
        assert answer(checks.validate("acme-dead")) == ("not_found", "probe")
        assert answer(checks.validate("acme-what")) == ("ok_provisional", "family")
    assert asked == ["acme-live", "acme-dead", "acme-what", "acme-what"]
    checks.validate("acme-live", refresh=True)
    clock.now += 60
    checks.validate("acme-live")
    assert asked.count("acme-live") == 3


def test_a_probe_that_raises_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A failure to ask is no reason to refuse a model, and its message stays out of the log."""

    def probe(name: str) -> LiveProbeResult:
        raise ConnectionError("https://x.test/?key=abcdef123456")

    checks = ModelChecks(models(probe=probe))
    assert answer(checks.validate("acme-1")) == ("ok_provisional", "family")
    assert "ConnectionError" in caplog.text
    assert "abcdef" not in caplog.text


def test_a_provider_wires_a_probe_to_its_client() -> None:
    """The provider decides how a family's probe is called."""
    checks = ModelChecks(
        models(probe=lambda client, name: client[name]),
        probe=lambda probe, name: probe({"acme-1": "live"}, name),
    )
    assert answer(checks.validate("acme-1")) == ("ok_authoritative", "probe")


def test_the_probe_cache_is_bounded() -> None:
    """Of too many answers the longest unused goes; a ttl or a size of 0 keeps none."""
    clock = Clock()
    cache = ProbeCache(ttl=10, max_entries=2, clock=clock)
    for name in ("a", "b"):
        cache.put(name, LiveProbeResult.LIVE)
    assert cache.get("a") is LiveProbeResult.LIVE
    cache.put("c", LiveProbeResult.DEAD)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("live", None, "dead")
    clock.now += 9.9
    assert cache.get("a") == "live"
    clock.now += 0.1
    assert cache.get("a") is None
    for empty in (ProbeCache(ttl=0), ProbeCache(max_entries=0)):
        empty.put("a", LiveProbeResult.LIVE)
        assert empty.get("a") is None
    with pytest.raises(ConfigError, match="give 0 or more"):
        ProbeCache(ttl=-1)


def listing(results: list[DiscoveryResult | Exception]) -> Callable[[], DiscoveryResult]:
    def discover() -> DiscoveryResult:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    return discover


def test_the_list_is_asked_for_once_in_a_while() -> None:
    """A list is believed for the ttl; when it cannot be renewed the old one serves as stale."""
    clock = Clock()
    results: list[DiscoveryResult | Exception] = [
        DiscoveryResult.ok({"a"}),
        OSError("down"),
        DiscoveryResult.ok({"b"}),
    ]
    checks = ModelChecks(
        ModelRegistry(), discover=listing(results), support=NATIVE, ttl=100, clock=clock
    )
    assert answer(checks.validate("a")) == ("ok_authoritative", "discovery")
    assert answer(checks.validate("b")) == ("not_found", "discovery")
    clock.now += 100
    stale = checks.discover_models()
    assert (stale.status, stale.slugs, stale.detail) == ("stale", {"a"}, "OSError")
    assert answer(checks.validate("b")) == ("unknown_permissive", "fallback")
    clock.now += 30
    assert answer(checks.validate("b")) == ("ok_authoritative", "discovery")
    assert results == []


def test_the_first_failure_to_list_is_a_result() -> None:
    """Nothing is raised, and nothing is refused."""
    checks = ModelChecks(ModelRegistry(), discover=listing([OSError("down")]), support=NATIVE)
    assert checks.discover_models().status is DiscoveryStatus.FAILED
    assert answer(checks.validate("a")) == ("unknown_permissive", "fallback")
    assert ModelChecks(ModelRegistry()).discover_models().status is DiscoveryStatus.UNSUPPORTED


def test_refresh_believes_the_vendor_more_than_the_registry() -> None:
    """A registered model the vendor has dropped is found by a probe run, not by a preflight."""
    calls = 0

    def discover() -> DiscoveryResult:
        nonlocal calls
        calls += 1
        return DiscoveryResult.ok({"other"})

    checks = ModelChecks(models(), discover=discover, support=NATIVE)
    assert answer(checks.validate("mine")) == ("ok_authoritative", "user")
    assert calls == 0
    assert answer(checks.validate("mine", refresh=True)) == ("not_found", "discovery")
    assert answer(checks.validate("other", refresh=True)) == ("ok_authoritative", "discovery")
    assert calls == 1


def test_threads_that_ask_together_ask_once() -> None:
    """Eight models of one vendor cost one request for its list."""
    calls: list[float] = []

    def discover() -> DiscoveryResult:
        calls.append(time.monotonic())
        threading.Event().wait(0.05)
        return DiscoveryResult.ok({"a"})

    checks = ModelChecks(ModelRegistry(), discover=discover, support=NATIVE)
    threads = [threading.Thread(target=checks.validate, args=(f"m{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


class Vendor:
    """Says about a model what it was told to say; counts how many ask at once."""

    def __init__(self, name: str, *answers: tuple[str, Any], default: Any = FOUND) -> None:
        self.name = name
        self.answers = dict(answers)
        self.default = default
        self.asked: list[tuple[str, bool]] = []
        self.most = self.running = 0
        self.lock = threading.Lock()
        self.gate: threading.Event | None = None

    def validate_model(self, model_id: str, *, refresh: bool = False) -> ValidationResult:
        with self.lock:
            self.asked.append((model_id, refresh))
            self.running += 1
            self.most = max(self.most, self.running)
        if self.gate is not None:
            self.gate.wait(300)
        with self.lock:
            self.running -= 1
        result = self.answers.get(model_id, self.default)
        if isinstance(result, Exception):
            raise result
        return result


class AsyncVendor(Vendor):
    async def validate_model(  # type: ignore[override]
        self, model_id: str, *, refresh: bool = False
    ) -> ValidationResult:
        await asyncio.sleep(0)
        return self.answers.get(model_id, self.default)


@pytest.mark.parametrize("kind", [Vendor, AsyncVendor])
def test_a_model_that_does_not_exist_stops_the_pipeline(kind: type[Vendor]) -> None:
    """All missing models are named with close ones; nothing was sent."""
    vendor = kind("acme", ("bad", MISSING), ("worse", MISSING))
    with pytest.raises(
        ModelError, match=r"acme: there is no model 'bad'; did you mean good\?"
    ) as caught:
        preflight([(vendor, "good"), (vendor, "bad"), (vendor, "worse")], within=60.0)
    assert "'worse'" in str(caught.value)
    assert (caught.value.sent, caught.value.provider, caught.value.model) == (False, "acme", "bad")


def test_many_missing_models_make_a_short_message() -> None:
    """Five are named, the others counted; a name is cut and holds no secret."""
    vendor = Vendor("acme", default=MISSING)
    names = [f"m{n}" for n in range(8)] + ["sk-proj-" + "a" * 40]
    with pytest.raises(ModelError, match="and 4 more"):
        preflight([(vendor, name) for name in names], within=60.0)
    with pytest.raises(ModelError) as caught:
        preflight([(vendor, names[-1])], within=60.0)
    assert "aaaa" not in str(caught.value)


def test_each_model_is_checked_once_and_eight_at_a_time() -> None:
    """A batch with one model asks once; many models never run more than eight checks together."""
    vendor = Vendor("acme")
    vendor.gate = threading.Event()
    steps = [(vendor, f"m{n % 20}") for n in range(200)]

    async def run() -> int:
        task = asyncio.create_task(apreflight(steps, within=60.0))
        while vendor.running < MOST_AT_ONCE:
            await asyncio.sleep(0.001)
        assert vendor.gate is not None
        vendor.gate.set()
        return len(await task)

    assert asyncio.run(run()) == 20
    assert vendor.most == MOST_AT_ONCE
    assert sorted(vendor.asked) == sorted((f"m{n}", False) for n in range(20))


def test_doubtful_models_are_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """Provisional and unknown models run; each is named once per process."""
    vendor = Vendor(
        "doubt",
        ("likely", ValidationResult.ok_provisional(family_name="fam")),
        ("strange", ValidationResult.unknown_permissive()),
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            checks = preflight(
                [(vendor, "likely"), (vendor, "strange"), (vendor, "sure")], within=60.0
            )
    assert [c.result.outcome for c in checks] == [
        ValidationOutcome.OK_PROVISIONAL,
        ValidationOutcome.UNKNOWN_PERMISSIVE,
        ValidationOutcome.OK_AUTHORITATIVE,
    ]
    assert [r.getMessage() for r in caplog.records] == [
        "doubt: the model 'likely' is taken for one of the family fam",
        "doubt: the model 'strange' is not known here; the vendor decides",
    ]


def test_a_provider_that_cannot_be_asked_does_not_stop_the_pipeline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exception is a warning without its message."""
    vendor = Vendor("silent", default=OSError("https://x.test/?key=abcdef123456"))
    (check,) = preflight([(vendor, "m")], within=60.0)
    assert check.result.outcome is ValidationOutcome.UNKNOWN_PERMISSIVE
    assert "could not be asked (OSError)" in caplog.text
    assert "abcdef" not in caplog.text


def test_a_vendor_that_hangs_is_not_waited_for() -> None:
    """When the time is over the unanswered models are unknown."""
    vendor = Vendor("hangs")
    vendor.gate = threading.Event()
    quick = Vendor("quick")
    try:
        # On a busy machine the other one needs more time, too.
        for within in (0.1, 1.0, 10.0, 60.0):
            slow, good = preflight([(vendor, "m"), (quick, "m")], within=within)
            if good.result is FOUND:
                break
        assert vendor.running
    finally:
        vendor.gate.set()
    assert slow.result.detail == "no answer in time"
    assert good.result is FOUND


def test_providers_that_check_requests_themselves_are_passed_over() -> None:
    """A provider of our protocol without `validate_model` refuses models in `validate`."""
    assert preflight([(LocalProvider(), "any"), (LocalProvider(), "thing")]) == ()


def test_probing_fails_only_on_missing_models() -> None:
    """A schedule learns what is gone; doubt and silence are no failures."""
    vendor = Vendor(
        "acme",
        ("gone", MISSING),
        ("unknown", ValidationResult.unknown_permissive()),
        ("down", OSError()),
    )
    report = probe_models([(vendor, name) for name in ("good", "unknown", "down")])
    assert report.ok
    assert all(refresh for _, refresh in vendor.asked)
    report = asyncio.run(aprobe_models([(vendor, "good"), (vendor, "gone")]))
    assert not report.ok
    assert [check.model for check in report.not_found] == ["gone"]


def test_installed_providers_are_found() -> None:
    """Our own entry points are there, as classes by name."""
    found = discover_providers(on_broken=lambda broken: None)
    assert found["local"] is LocalProvider
    assert found["openai"] is DalleProvider


INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
from genblaze_dagster.providers.discovery import discover_providers
broken = []
for name, kind in discover_providers(on_broken=broken.append).items():
    print("found", name, kind.__name__)
for point in broken:
    print("broken", point.name, point.group, point.package, point.value, point.reason, sep="|")
discover_providers()
"""


def test_other_packages_and_broken_ones(tmp_path: Path) -> None:
    """Both groups are read, ours wins, and what cannot be had is reported, never raised."""
    metadata = tmp_path / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[genblaze_dagster.providers]\n"
        "acme = acme_media:First\n"
        "local = acme_media:Second\n"
        "gone = acme_missing:Nothing\n"
        "[genblaze.providers]\n"
        "acme = acme_media:Second\n"
        "guide = acme_media:Second\n"
        "function = acme_media:make\n"
        "exits = acme_exits:Nothing\n"
    )
    (tmp_path / "acme_media.py").write_text(
        "class First: ...\nclass Second: ...\ndef make(): ...\n"
    )
    (tmp_path / "acme_exits.py").write_text("raise SystemExit('api_key=abcdefgh12345678ijkl')\n")
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert {"found acme First", "found guide Second", "found local LocalProvider"} <= set(lines)
    broken = {line.split("|")[1]: line.split("|") for line in lines if line.startswith("broken")}
    assert set(broken) == {"gone", "function", "exits"}
    assert broken["gone"][2:5] == ["genblaze_dagster.providers", "acme", "acme_missing:Nothing"]
    assert "ModuleNotFoundError" in broken["gone"][5]
    assert broken["function"][5] == "it is a function, not a class"
    assert "abcdefgh" not in done.stdout
    assert "provider 'gone' of acme (acme_missing:Nothing) cannot be used" in done.stderr
