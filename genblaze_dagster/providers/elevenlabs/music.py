"""ElevenLabs' music: `POST /v1/music`, and `/v1/music/detailed` with the plan it was made by.

Cost unit: minutes; what a plan pays for one is not built in: give your own price.
Quirks: a prompt or a composition plan, not both; a seed goes with a plan only; the detailed answer
is multipart/mixed, JSON first, then the audio.
Unverified: that only paid plans may use it.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from email.message import Message
from math import isfinite
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.net.client import HttpAnswer
from genblaze_dagster.providers.constraints import mutually_exclusive, required_one_of
from genblaze_dagster.providers.elevenlabs.audio import (
    AUDIO_ONLY,
    FORMAT,
    ElevenLabsAudio,
    native_format,
)
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import BoolSchema, IntSchema
from genblaze_dagster.providers.protocol import GenerationRequest, Submission
from genblaze_dagster.providers.vendor.provider import DEFAULT_MODEL
from genblaze_dagster.providers.vendor.traits import Traits


def _milliseconds(params: dict[str, Any]) -> dict[str, Any]:
    """Write a duration in seconds as the whole milliseconds the API takes."""
    native = dict(params)
    seconds = native.pop("duration", None)
    if seconds is None:
        return native
    length = seconds
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and isfinite(seconds):
        # As written, not in binary: 16.1 s are 16100 ms. A fraction of one is refused below.
        thousandfold = Decimal(str(seconds)) * 1000
        length = seconds if thousandfold % 1 else int(thousandfold)
    native.setdefault("music_length_ms", length)
    return native


FAMILIES = (
    ModelFamily(
        name="eleven-music",
        pattern=re.compile(rf"music_v|{DEFAULT_MODEL}$"),
        description="music",
        example_slugs=("music_v1", "music_v2"),
        spec_template=ModelSpec(
            model_id="music_v1",
            modality=Modality.AUDIO,
            param_transformer=_milliseconds,
            param_coercers={"output_format": native_format},
            param_schemas={
                "music_length_ms": IntSchema(min=3000, max=600_000),
                "seed": IntSchema(min=0, max=4_294_967_295),
                "force_instrumental": BoolSchema(),
                "respect_sections_durations": BoolSchema(),
                "sign_with_c2pa": BoolSchema(),
                "output_format": FORMAT,
                "detailed": BoolSchema(),
            },
            param_constraints=(
                required_one_of("prompt", "composition_plan"),
                mutually_exclusive("prompt", "composition_plan"),
                mutually_exclusive("prompt", "seed"),
                mutually_exclusive("composition_plan", "music_length_ms"),
                mutually_exclusive("composition_plan", "force_instrumental"),
            ),
            param_allowlist=frozenset(
                {"prompt", "composition_plan", "music_length_ms", "seed", "force_instrumental"}
                | {"respect_sections_durations", "store_for_inpainting", "sign_with_c2pa"}
                | {"output_format", "enable_logging", "detailed"}
            ),
        ),
    ),
)


class ElevenLabsMusicProvider(ElevenLabsAudio):
    """ElevenLabs' music.

    The prompt describes the piece, or the parameter `composition_plan` lays it out. Parameters:
    `duration` (3 to 600 seconds, with a prompt), `seed` (with a plan), `force_instrumental`,
    `sign_with_c2pa`, `output_format`; `detailed=True` records the plan the piece was made by. The
    model `default` leaves the choice of the model to the vendor.
    """

    name = "elevenlabs-music"
    traits = Traits(makes=("music",), modalities=AUDIO_ONLY, jobs=False)
    families = FAMILIES
    others = ModelSpec(
        model_id="*",
        param_transformer=_milliseconds,
        param_coercers={"output_format": native_format},
        param_schemas={"output_format": FORMAT, "detailed": BoolSchema()},
    )
    default_format = "mp3_44100_128"

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the piece.

        Raises:
            ProviderError: see `Provider`.
        """
        body, query = self.body(request)
        if not body.pop("detailed", False):
            answer = await self.make(request, "/v1/music", body, query)
            data = self.media_of(request, answer)
            return Submission(result=self.result(request, answer, data, query))
        answer = await self.make(request, "/v1/music/detailed", body, query)
        facts, audio = parts_of(answer)
        return Submission(result=self.result(request, answer, audio, query, payload=facts))


def parts_of(answer: HttpAnswer) -> tuple[Mapping[str, Any], bytes]:
    """Return the JSON and the audio of a multipart/mixed answer; nothing where it holds neither."""
    message = Message()
    message["content-type"] = answer.headers.get("content-type", "")
    boundary = str(message.get_param("boundary") or "")
    facts: dict[str, Any] = {}
    audio = b""
    if not boundary:
        return facts, audio
    # The parts lie between delimiters; what follows the closing one is no part.
    for part in (b"\r\n" + answer.content).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, body = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if b"application/json" in head.lower():
            facts |= _object(body)
        else:
            audio = body
    return facts, audio


def _object(body: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one where it is none, for the audio is worth more."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
