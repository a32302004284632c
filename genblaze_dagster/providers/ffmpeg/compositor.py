"""Picture and sound into one file."""

from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.media.sniff import canonical_media_type
from genblaze_dagster.providers.ffmpeg.containers import CONTAINERS
from genblaze_dagster.providers.ffmpeg.provider import FFmpegProvider, Plan
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia

# What players expect in MP4; other sound is encoded as AAC on the way.
_COPIED_AUDIO = frozenset({"audio/mpeg", "audio/aac", "audio/mp4"})


class FFmpegCompositor(FFmpegProvider):
    """Puts the first video and the first audio input into one MP4 as long as the shorter of them.

    The pictures are copied, not encoded again, and so is sound in MP3 and AAC; other sound (WAV,
    FLAC, Ogg) becomes AAC. Sound that the video had is left out. Takes no parameters.
    """

    name = "ffmpeg-compositor"

    def plan(self, request: GenerationRequest) -> Plan:
        """Return the one run.

        Raises:
            InvalidRequestError: there is no video or no audio input, or there are parameters.
        """
        if request.params:
            param = next(iter(request.params))
            raise InvalidRequestError(
                f"{self.name} takes no parameters; leave out {param[:80]!r}",
                param=param[:80],
                sent=False,
            )
        video, audio = self._first(request, "video"), self._first(request, "audio")
        mp4 = CONTAINERS["mp4"]
        copied = canonical_media_type(audio.asset.media_type) in _COPIED_AUDIO
        return Plan(
            inputs=(video, audio),
            arguments=(
                *("-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy"),
                *(("-c:a", "copy") if copied else mp4.audio),
                *("-shortest", *mp4.extra),
            ),
            container=mp4,
            subject="put video and audio together",
        )

    def _first(self, request: GenerationRequest, kind: str) -> InputMedia:
        for media in request.inputs:
            if media.asset.media_type.startswith(f"{kind}/"):
                return media
        raise InvalidRequestError(
            f"{self.name} needs a video and an audio input, and there is no {kind}; name the steps "
            "that make them with input_from=[...]",
            param="inputs",
            sent=False,
        )
