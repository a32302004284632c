"""A run that repeats or refines another."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NOT_IN_KEY = re.compile(r"[^A-Za-z0-9_]+")
_MOST_NAME_CHARS = 60


@dataclass(frozen=True, slots=True)
class Refinement:
    """The run that a new one repeats or refines: its id, and the run metadata to keep.

    The steps are kept under `replay/<pipeline>/<step>` with the old run's id as partition, so the
    current media of no asset changes. One manifest of the whole run has the old id as its parent.
    """

    run_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def asset_key(self, pipeline: str | None, step: str) -> str:
        """Return the key under which a step's media is referenced."""
        name = _NOT_IN_KEY.sub("_", pipeline or "pipeline")[:_MOST_NAME_CHARS]
        return f"replay/{name}/{step}"
