"""ElevenLabs' sound effects: `POST /v1/sound-generation`.

Cost unit: a generation, or seconds where a duration is given; what a plan pays
for it is not built in: give your own price.
"""

import re

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.elevenlabs.audio import (
    AUDIO_ONLY,
    FORMAT,
    ElevenLabsAudio,
    native_format,
)
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import BoolSchema, FloatSchema, StringSchema
from genblaze_dagster.providers.protocol import GenerationRequest, Submission
from genblaze_dagster.providers.vendor.provider import DEFAULT_MODEL
from genblaze_dagster.providers.vendor.traits import Traits

_ALIASES = {"prompt": "text", "duration": "duration_seconds"}

FAMILIES = (
    ModelFamily(
        name="eleven-sound",
        pattern=re.compile(rf"eleven_text_to_sound|{DEFAULT_MODEL}$"),
        description="sound effects",
        example_slugs=("eleven_text_to_sound_v2",),
        spec_template=ModelSpec(
            model_id="eleven_text_to_sound_v2",
            modality=Modality.AUDIO,
            param_aliases=_ALIASES,
            param_coercers={"output_format": native_format},
            param_schemas={
                "text": StringSchema(min_len=1),
                "duration_seconds": FloatSchema(min=0.5, max=30),
                "prompt_influence": FloatSchema(min=0, max=1),
                "loop": BoolSchema(),
                "output_format": FORMAT,
                "enable_logging": BoolSchema(),
            },
            param_required=frozenset({"text"}),
            param_allowlist=frozenset(
                {"text", "duration_seconds", "prompt_influence", "loop", "output_format"}
                | {"enable_logging"}
            ),
        ),
    ),
)


class ElevenLabsSFXProvider(ElevenLabsAudio):
    """ElevenLabs' sound effects.

    The prompt describes the sound. Parameters: `duration` (0.5 to 30 seconds; chosen by the vendor
    when left out), `prompt_influence` (0 to 1), `loop`, `output_format`. The model `default` leaves
    the choice of the model to the vendor.
    """

    name = "elevenlabs-sfx"
    traits = Traits(makes=("sound effects",), modalities=AUDIO_ONLY, jobs=False)
    families = FAMILIES
    others = ModelSpec(
        model_id="*",
        param_aliases=_ALIASES,
        param_coercers={"output_format": native_format},
        param_schemas={"output_format": FORMAT},
        param_required=frozenset({"text"}),
    )

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the sound.

        Raises:
            ProviderError: see `Provider`.
        """
        body, query = self.body(request)
        answer = await self.make(request, "/v1/sound-generation", body, query)
        data = self.media_of(request, answer)
        return Submission(result=self.result(request, answer, data, query))
