"""Which images Luma's requests take, by their roles, and how many of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.providers.protocol import GenerationRequest

FIRST = (None, "first_frame")


@dataclass(frozen=True, slots=True)
class Slot:
    """A field that takes images of some roles; None is an image without one."""

    field: str
    roles: tuple[str | None, ...]
    most: int = 1


def slots_of(request: GenerationRequest, *, is_agents: bool) -> Sequence[Slot]:
    """Return the fields a request has for images; `is_agents`: to the successor API."""
    is_video, edits = request.modality is Modality.VIDEO, request.step_type is StepType.EDIT
    if is_agents and is_video:
        return (Slot("start_frame", FIRST), Slot("end_frame", ("last_frame",)))
    if is_agents:
        return (Slot("image_ref", (None, "reference"), 9 if edits else 8),)
    if is_video:
        # Either frame, since the parameter holds both.
        return (Slot("keyframes", FIRST), Slot("keyframes", ("last_frame",)))
    return (
        # The first one of an edit is what is changed.
        Slot("image_ref", (None, "reference"), 5 if edits else 4),
        Slot("modify_image_ref", ("modify",)),
        Slot("style_ref", ("style",), 8),
        Slot("character_ref", ("character",), 4),
    )
