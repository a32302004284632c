"""Finished steps by what was asked, in a folder: asking the same again costs nothing.

The files are genblaze's: `<key>.json` holds a step, and the key is the hash of its request.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from genblaze_dagster.core.canonical import canonical_hash
from genblaze_dagster.core.enums import StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import ManifestError
from genblaze_dagster.media.whole import replacing

MAX_ENTRY_BYTES = 16 * 1024 * 1024

CACHE_MARK = "step_cache"
"""Key in `provider_payload` of a step that was taken from a cache."""

_ASKED = (
    *("provider", "model", "model_version", "model_hash", "prompt", "negative_prompt"),
    *("prompt_visibility", "params", "seed", "modality", "step_type"),
)


class StepCache:
    """Finished steps in a folder; safe to use from many threads and processes at once.

    Steps that were asked under a private prompt are kept without it. Media is not kept here: a hit
    leads to what a store, or the address of the asset, still has.

    Attributes:
        corruption_count: entries that could not be read, each of which was a miss.

    Args:
        cache_dir: the folder; made with the first entry.
    """

    def __init__(self, cache_dir: str | Path) -> None:
        self.cache_dir = Path(cache_dir)
        self.corruption_count = 0
        self._lock = threading.Lock()

    def get(self, step: Step, tenant_id: str | None = None) -> Step | None:
        """Return the outcome of an equal request, as the outcome of this one; None when unknown.

        It keeps id, place and metadata of `step`, costs 0.0, and says in its `provider_payload`,
        which is outside the hash, whose outcome it is.
        """
        found = self.stored(cache_key(step, tenant_id))
        if found is None:
            return None
        return found.model_copy(
            update={
                "step_id": step.step_id,
                "run_id": step.run_id,
                "step_index": step.step_index,
                "metadata": dict(step.metadata),
                "provider_payload": {**found.provider_payload, **cache_mark(found)},
                "cost_usd": 0.0,
                "retries": 0,
            }
        )

    def stored(self, key: str) -> Step | None:
        """Return the step of an entry as it was kept; None when there is none that can be read."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_ENTRY_BYTES + 1)
            if len(data) > MAX_ENTRY_BYTES:
                raise ValueError("too long")
            step = Step.model_validate_json(data)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, ManifestError, ValidationError):
            self.count_corrupt()
            return None
        return step if step.status is StepStatus.SUCCEEDED else None

    def count_corrupt(self) -> None:
        """Count an entry that cannot be used."""
        with self._lock:
            self.corruption_count += 1

    def put(self, step: Step, result: Step, tenant_id: str | None = None) -> None:
        """Keep the outcome of a request; only of a step that succeeded.

        Raises:
            OSError: the file cannot be written.
        """
        if result.status is not StepStatus.SUCCEEDED:
            return
        with replacing(self._path(cache_key(step, tenant_id))) as part:
            part.write_bytes(result.model_dump_json().encode())

    def clear(self) -> None:
        """Remove every entry; other files in the folder stay."""
        for path in self.cache_dir.glob("*.json"):
            if len(path.stem) == _KEY_CHARS:
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.cache_dir / f"{key}.json"


_KEY_CHARS = 64


def cache_key(step: Step, tenant_id: str | None = None) -> str:
    """Return the hash of what a step asks, for a tenant if there is one."""
    asked: dict[str, Any] = {name: getattr(step, name) for name in _ASKED}
    asked["input_ids"] = [asset.sha256 or asset.url for asset in step.inputs] or None
    if tenant_id:
        asked["tenant_id"] = tenant_id
    return canonical_hash(asked)


def cache_mark(found: Step) -> Mapping[str, Any]:
    """Return what says in a payload that a step was taken from a cache, and whose it was."""
    return {CACHE_MARK: {"hit": True, "step_id": found.step_id}}
