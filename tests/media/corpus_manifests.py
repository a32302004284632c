"""Manifests of every allowed shape that are about a file: one of their outputs is its bytes."""

import hashlib
from collections.abc import Iterator
from functools import cache
from itertools import cycle
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.media.sniff import media_type_for_extension
from tests.core.strategies import runs
from tests.media.corpus import files


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


def written(
    container: str, count: int, seed: int, folder: Path
) -> Iterator[tuple[Path, bytes, Manifest]]:
    """Write generated files into a folder; yield each with its content and a manifest about it."""
    named = files(container, count, seed)
    for (name, data), run in zip(named, cycle(some_runs()), strict=False):
        path = folder / name
        path.write_bytes(data)
        yield path, data, about(data, container, run)
