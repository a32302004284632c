"""Generative media as Dagster assets, with provenance that can be checked, signed and queried.

Names are imported when they are first used: reading a manifest does not pay for Dagster.
"""

from typing import TYPE_CHECKING

from genblaze_dagster.core.lazy import lazy_exports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genblaze_dagster.assets import generation_asset as generation_asset
    from genblaze_dagster.assets import pipeline_assets as pipeline_assets
    from genblaze_dagster.checks import provenance_check as provenance_check
    from genblaze_dagster.core.canonical import canonical_hash as canonical_hash
    from genblaze_dagster.core.canonical import canonical_json as canonical_json
    from genblaze_dagster.core.enums import Modality as Modality
    from genblaze_dagster.core.enums import PromptVisibility as PromptVisibility
    from genblaze_dagster.core.enums import ProviderErrorCode as ProviderErrorCode
    from genblaze_dagster.core.enums import RunStatus as RunStatus
    from genblaze_dagster.core.enums import StepStatus as StepStatus
    from genblaze_dagster.core.enums import StepType as StepType
    from genblaze_dagster.core.manifest import Manifest as Manifest
    from genblaze_dagster.core.manifest import ManifestVerification as ManifestVerification
    from genblaze_dagster.core.models import Asset as Asset
    from genblaze_dagster.core.models import AudioMetadata as AudioMetadata
    from genblaze_dagster.core.models import Run as Run
    from genblaze_dagster.core.models import Step as Step
    from genblaze_dagster.core.models import Track as Track
    from genblaze_dagster.core.models import VideoMetadata as VideoMetadata
    from genblaze_dagster.core.models import WordTiming as WordTiming
    from genblaze_dagster.core.parse import parse_manifest as parse_manifest
    from genblaze_dagster.core.policy import EmbedMode as EmbedMode
    from genblaze_dagster.core.policy import EmbedPolicy as EmbedPolicy
    from genblaze_dagster.core.provenance import asset_provenance_key as asset_provenance_key
    from genblaze_dagster.core.reference import MediaObject as MediaObject
    from genblaze_dagster.core.reference import MediaRef as MediaRef
    from genblaze_dagster.core.reference import Rendition as Rendition
    from genblaze_dagster.errors import EmbeddingError as EmbeddingError
    from genblaze_dagster.errors import GenblazeError as GenblazeError
    from genblaze_dagster.errors import ManifestError as ManifestError
    from genblaze_dagster.errors import PipelineError as PipelineError
    from genblaze_dagster.errors import ProviderError as ProviderError
    from genblaze_dagster.errors import StorageError as StorageError
    from genblaze_dagster.index.catalog import IndexCatalog as IndexCatalog
    from genblaze_dagster.index.parquet_sink import ParquetSink as ParquetSink
    from genblaze_dagster.index.segment import SegmentWriter as SegmentWriter
    from genblaze_dagster.io_manager import LocalMediaIOManager as LocalMediaIOManager
    from genblaze_dagster.io_manager import MediaIOManager as MediaIOManager
    from genblaze_dagster.io_manager import S3MediaIOManager as S3MediaIOManager
    from genblaze_dagster.ledger.ledger import Ledger as Ledger
    from genblaze_dagster.media.embedding import EmbedMethod as EmbedMethod
    from genblaze_dagster.media.embedding import EmbedResult as EmbedResult
    from genblaze_dagster.partitions import PromptTable as PromptTable
    from genblaze_dagster.pipeline.declaration import Pipeline as Pipeline
    from genblaze_dagster.pipeline.declaration import StepSpec as StepSpec
    from genblaze_dagster.pipeline.replay import Replay as Replay
    from genblaze_dagster.pipeline.result import PipelineResult as PipelineResult
    from genblaze_dagster.pipeline.retry import RetryPolicy as RetryPolicy
    from genblaze_dagster.pipeline.template import Column as Column
    from genblaze_dagster.pipeline.template import PromptTemplate as PromptTemplate
    from genblaze_dagster.replay import replay_job as replay_job
    from genblaze_dagster.resources import LedgerResource as LedgerResource
    from genblaze_dagster.resources import LocalResource as LocalResource
    from genblaze_dagster.resources import OpenAIResource as OpenAIResource
    from genblaze_dagster.resources import ProviderResource as ProviderResource
    from genblaze_dagster.resources import genblaze_resources as genblaze_resources
    from genblaze_dagster.storage.backend import S3StorageBackend as S3StorageBackend
    from genblaze_dagster.storage.keys import KeyStrategy as KeyStrategy
    from genblaze_dagster.storage.media import Media as Media
    from genblaze_dagster.storage.media import StoredFile as StoredFile
    from genblaze_dagster.storage.sink import ObjectStorageSink as ObjectStorageSink
    from genblaze_dagster.storage.store import MediaStore as MediaStore
    from genblaze_dagster.translator import AssetStep as AssetStep
    from genblaze_dagster.translator import GenblazeTranslator as GenblazeTranslator
    from genblaze_dagster.trust.report import VerificationReport as VerificationReport
    from genblaze_dagster.trust.verification import averify as averify
    from genblaze_dagster.trust.verification import verify as verify

_EXPORTS = {
    "assets": (
        "generation_asset",
        "pipeline_assets",
    ),
    "checks": ("provenance_check",),
    "core.canonical": (
        "canonical_hash",
        "canonical_json",
    ),
    "core.enums": (
        "Modality",
        "PromptVisibility",
        "ProviderErrorCode",
        "RunStatus",
        "StepStatus",
        "StepType",
    ),
    "core.manifest": (
        "Manifest",
        "ManifestVerification",
    ),
    "core.models": (
        "Asset",
        "AudioMetadata",
        "Run",
        "Step",
        "Track",
        "VideoMetadata",
        "WordTiming",
    ),
    "core.parse": ("parse_manifest",),
    "core.policy": (
        "EmbedMode",
        "EmbedPolicy",
    ),
    "core.provenance": ("asset_provenance_key",),
    "core.reference": (
        "MediaObject",
        "MediaRef",
        "Rendition",
    ),
    "errors": (
        "EmbeddingError",
        "GenblazeError",
        "ManifestError",
        "PipelineError",
        "ProviderError",
        "StorageError",
    ),
    "index.catalog": ("IndexCatalog",),
    "index.parquet_sink": ("ParquetSink",),
    "index.segment": ("SegmentWriter",),
    "io_manager": (
        "LocalMediaIOManager",
        "MediaIOManager",
        "S3MediaIOManager",
    ),
    "ledger.ledger": ("Ledger",),
    "media.embedding": (
        "EmbedMethod",
        "EmbedResult",
    ),
    "partitions": ("PromptTable",),
    "pipeline.declaration": (
        "Pipeline",
        "StepSpec",
    ),
    "pipeline.replay": ("Replay",),
    "pipeline.result": ("PipelineResult",),
    "pipeline.retry": ("RetryPolicy",),
    "pipeline.template": (
        "Column",
        "PromptTemplate",
    ),
    "replay": ("replay_job",),
    "resources": (
        "LedgerResource",
        "LocalResource",
        "OpenAIResource",
        "ProviderResource",
        "genblaze_resources",
    ),
    "storage.backend": ("S3StorageBackend",),
    "storage.keys": ("KeyStrategy",),
    "storage.media": (
        "Media",
        "StoredFile",
    ),
    "storage.sink": ("ObjectStorageSink",),
    "storage.store": ("MediaStore",),
    "translator": (
        "AssetStep",
        "GenblazeTranslator",
    ),
    "trust.report": ("VerificationReport",),
    "trust.verification": (
        "averify",
        "verify",
    ),
}

_NAMES, __getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)

__all__ = sorted(["__version__", *_NAMES], key=str.lower)  # pyright: ignore[reportUnsupportedDunderAll]
