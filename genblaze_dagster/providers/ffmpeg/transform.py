"""One operation on one file."""

from dataclasses import replace
from pathlib import Path

from genblaze_dagster.errors import ConfigError, InvalidRequestError, MissingExtraError
from genblaze_dagster.providers.ffmpeg.containers import Kind, kind_of
from genblaze_dagster.providers.ffmpeg.operations import FONT_FILE, OPERATIONS, Source
from genblaze_dagster.providers.ffmpeg.parameters import Parameters
from genblaze_dagster.providers.ffmpeg.provider import DEFAULT_MAX_BYTES, FFmpegProvider, Plan
from genblaze_dagster.providers.protocol import GenerationRequest

_FONT_POINTS = 20


class FFmpegTransform(FFmpegProvider):
    """Changes the first video, audio or image input as `operation` says.

    * `resize`: `width`, `height` in pixels; -1 for one of them keeps the shape.
    * `crop`: `width`, `height`, and the corner `x`, `y` (0, 0).
    * `overlay_text`: `text`, and `x`, `y` (10, 10), `fontsize` (24), `fontcolor` (white; a name or
      `#RRGGBB`, with `@0.5` half transparent).
    * `audio_normalize`: EBU R128 loudness, to `target_lufs` (-24).
    * `convert_format`: `format`: mp4, mov, mkv, webm, gif; mp3, wav, flac, m4a, ogg; png, jpg,
      webp. A video becomes its sound when the format is one of sound. mp4, m4a or png when left
      out.

    All but the last keep the format of the input where it can be written. Sound of a video is
    copied by the first three, pictures by `audio_normalize`; what is encoded is H.264 and AAC in
    MP4, MOV and Matroska, VP9 and Opus in WebM.

    Args:
        output_dir, ffmpeg_path, timeout, max_bytes: see `FFmpegProvider`.
        font: TrueType or OpenType file of `overlay_text`; that of Pillow, which has Latin letters
            only, when left out.
    """

    name = "ffmpeg-transform"

    def __init__(
        self,
        output_dir: str | Path | None = None,
        ffmpeg_path: str | None = None,
        timeout: float = 120.0,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        font: str | Path | None = None,
    ) -> None:
        super().__init__(output_dir, ffmpeg_path, timeout, max_bytes=max_bytes)
        self._font = None if font is None else Path(font)

    def plan(self, request: GenerationRequest) -> Plan:
        """Return the one run.

        Raises:
            InvalidRequestError: no input, an unknown operation or a wrong parameter.
            MissingExtraError: `overlay_text` without a font, and Pillow is not installed.
            ConfigError: the font cannot be read.
        """
        source = self._source(request)
        params = Parameters(self.name, request.params)
        operation = OPERATIONS[params.choice("operation", tuple(OPERATIONS))]
        plan = operation(source, params)
        params.refuse_others()
        if FONT_FILE not in plan.files:
            return plan
        return replace(plan, files={**plan.files, FONT_FILE: self._font_bytes()})

    def _source(self, request: GenerationRequest) -> Source:
        for media in request.inputs:
            kind = kind_of(media.asset.media_type)
            if kind is not None:
                return Source(media, kind)
        raise InvalidRequestError(
            f"{self.name} needs a {', '.join(Kind)} input; name the step that makes it with "
            "input_from",
            param="inputs",
            sent=False,
        )

    def _font_bytes(self) -> bytes:
        if self._font is not None:
            try:
                return self._font.read_bytes()
            except OSError as exc:
                raise ConfigError(
                    f"font {self._font} cannot be read ({exc.strerror}); give another file"
                ) from exc
        try:
            from PIL import ImageFont
        except ImportError:
            raise MissingExtraError(
                "pillow, which has the font of overlay_text,", "ffmpeg"
            ) from None
        font = ImageFont.load_default(_FONT_POINTS)
        data = getattr(font, "font_bytes", None)
        if not isinstance(data, bytes):
            raise ConfigError("this Pillow has no font for overlay_text; give the provider font=")
        return data
