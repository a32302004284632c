"""Media files: what they are, and manifests into and out of them, to the byte."""

from typing import TYPE_CHECKING

from genblaze_dagster.core.lazy import lazy_exports

if TYPE_CHECKING:
    from genblaze_dagster.media.embedding import EmbedMethod as EmbedMethod
    from genblaze_dagster.media.embedding import EmbedResult as EmbedResult
    from genblaze_dagster.media.embedding import embed as embed
    from genblaze_dagster.media.extraction import extract as extract
    from genblaze_dagster.media.handlers import FlacHandler as FlacHandler
    from genblaze_dagster.media.handlers import JpegHandler as JpegHandler
    from genblaze_dagster.media.handlers import Mp3Handler as Mp3Handler
    from genblaze_dagster.media.handlers import Mp4Handler as Mp4Handler
    from genblaze_dagster.media.handlers import PngHandler as PngHandler
    from genblaze_dagster.media.handlers import SidecarHandler as SidecarHandler
    from genblaze_dagster.media.handlers import SmartEmbedder as SmartEmbedder
    from genblaze_dagster.media.handlers import WavHandler as WavHandler
    from genblaze_dagster.media.handlers import WebpHandler as WebpHandler
    from genblaze_dagster.media.handlers import get_handler as get_handler
    from genblaze_dagster.media.stripping import strip as strip
    from genblaze_dagster.media.stripping import strip_to as strip_to

_EXPORTS = {
    "embedding": ("EmbedMethod", "EmbedResult", "embed"),
    "extraction": ("extract",),
    "handlers": (
        "FlacHandler",
        "JpegHandler",
        "Mp3Handler",
        "Mp4Handler",
        "PngHandler",
        "SidecarHandler",
        "SmartEmbedder",
        "WavHandler",
        "WebpHandler",
        "get_handler",
    ),
    "stripping": ("strip", "strip_to"),
}

__all__, __getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
