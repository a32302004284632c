"""Manifests of every allowed shape that are about a file: one of their outputs is its bytes."""

import hashlib
from functools import cache
from itertools import cycle, islice

from hypothesis import HealthCheck, given, settings

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.media.sniff import media_type_for_extension
from tests.core.strategies import runs


@cache
def some_runs(count: int = 60) -> tuple[Run, ...]:
    """Return the same runs every time, from an empty one to ones with everything in them."""
    drawn: list[Run] = []

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(runs())
    def draw(run: Run) -> None:
        drawn.append(run)

    draw()
    return tuple(drawn)


def about(data: bytes, container: str, run: Run | None = None) -> Manifest:
    """Return a manifest of `run` and one more step, whose output has just these bytes.

    All prompts are public: what a file shows is then what the manifest holds.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    output = Asset(
        url=f"https://cdn.test/{sha256[:12]}.{container}",
        media_type=media_type_for_extension(container) or "application/octet-stream",
        sha256=sha256,
        size_bytes=len(data),
    )
    run = run or Run(name="caf\u00e9 <&> ]]>")
    public = {"prompt_visibility": PromptVisibility.PUBLIC}
    steps = [step.model_copy(update=public) for step in run.steps]
    steps.append(Step(provider="acme", model="m", prompt="\u2713 <b>&amp;", assets=[output]))
    return Manifest.from_run(run.model_copy(update={"steps": steps}))


def manifests_about(container: str, named: list[tuple[str, bytes]]) -> list[Manifest]:
    """Return a manifest about each of the files, each of another run as far as they go."""
    turns = islice(cycle(some_runs()), len(named))
    return [about(data, container, run) for (_, data), run in zip(named, turns, strict=True)]
