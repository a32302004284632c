"""Which fields a text of a manifest leaves out."""

from typing import Final, NamedTuple


class LeftOut(NamedTuple):
    """Field names that a text does without, per model."""

    run: tuple[str, ...] = ()
    step: tuple[str, ...] = ()
    asset: tuple[str, ...] = ()


_RUN_OPERATION: Final = (
    "completed_at",
    "created_at",
    "idempotency_key",
    "parent_run_id",
    "started_at",
    "status",
)
_STEP_OPERATION: Final = (
    "completed_at",
    "cost_usd",
    "error",
    "error_code",
    "provider_payload",
    "retries",
    "started_at",
    "status",
    "step_index",
)

NOTHING: Final = LeftOut()
"""The stored text holds every field."""

_OPERATION: Final = LeftOut(run=_RUN_OPERATION, step=_STEP_OPERATION)
REPRODUCIBLE: Final = LeftOut(
    run=(*_RUN_OPERATION, "run_id"),
    step=(*_STEP_OPERATION, "run_id", "step_id"),
    asset=("asset_id", "url"),
)
"""Since schema 1.4 the hashed text holds nothing that differs between two equal runs."""

HASHED: Final = {
    **dict.fromkeys(("1.0", "1.1", "1.2", "1.3"), _OPERATION),
    **dict.fromkeys(("1.4", "1.5", "1.6"), REPRODUCIBLE),
}
"""What the hashed text leaves out, by schema version."""
