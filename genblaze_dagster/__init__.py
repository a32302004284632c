"""Generative media as Dagster assets, with provenance that can be checked, signed and queried.

Names are imported when they are first used: reading a manifest does not pay for Dagster.
"""

from typing import TYPE_CHECKING

from genblaze_dagster.core.lazy import lazy_exports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genblaze_dagster.agents import agent_asset as agent_asset
    from genblaze_dagster.assets import generation_asset as generation_asset
    from genblaze_dagster.assets import pipeline_assets as pipeline_assets
    from genblaze_dagster.checks import provenance_check as provenance_check
    from genblaze_dagster.core.canonical import canonical_hash as canonical_hash
    from genblaze_dagster.core.canonical import canonical_json as canonical_json
    from genblaze_dagster.core.enums import Modality as Modality
    from genblaze_dagster.core.enums import ModerationStage as ModerationStage
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
    from genblaze_dagster.errors import AuthError as AuthError
    from genblaze_dagster.errors import BudgetExceededError as BudgetExceededError
    from genblaze_dagster.errors import ConfigError as ConfigError
    from genblaze_dagster.errors import ContentPolicyError as ContentPolicyError
    from genblaze_dagster.errors import EmbeddingError as EmbeddingError
    from genblaze_dagster.errors import GenblazeError as GenblazeError
    from genblaze_dagster.errors import HeldError as HeldError
    from genblaze_dagster.errors import InvalidRequestError as InvalidRequestError
    from genblaze_dagster.errors import LedgerError as LedgerError
    from genblaze_dagster.errors import ManifestError as ManifestError
    from genblaze_dagster.errors import ModelError as ModelError
    from genblaze_dagster.errors import ModerationRejectedError as ModerationRejectedError
    from genblaze_dagster.errors import PipelineError as PipelineError
    from genblaze_dagster.errors import PipelineTimeoutError as PipelineTimeoutError
    from genblaze_dagster.errors import ProviderError as ProviderError
    from genblaze_dagster.errors import QuotaError as QuotaError
    from genblaze_dagster.errors import RateLimitError as RateLimitError
    from genblaze_dagster.errors import SinkError as SinkError
    from genblaze_dagster.errors import StorageError as StorageError
    from genblaze_dagster.errors import UnverifiedAssetError as UnverifiedAssetError
    from genblaze_dagster.errors import WebhookError as WebhookError
    from genblaze_dagster.index.catalog import IndexCatalog as IndexCatalog
    from genblaze_dagster.index.parquet_sink import ParquetSink as ParquetSink
    from genblaze_dagster.index.segment import SegmentWriter as SegmentWriter
    from genblaze_dagster.io_manager import LocalMediaIOManager as LocalMediaIOManager
    from genblaze_dagster.io_manager import MediaIOManager as MediaIOManager
    from genblaze_dagster.io_manager import S3MediaIOManager as S3MediaIOManager
    from genblaze_dagster.ledger.budgets import Budget as Budget
    from genblaze_dagster.ledger.budgets import BudgetScope as BudgetScope
    from genblaze_dagster.ledger.budgets import Spend as Spend
    from genblaze_dagster.ledger.ledger import Ledger as Ledger
    from genblaze_dagster.media.embedding import EmbedMethod as EmbedMethod
    from genblaze_dagster.media.embedding import EmbedResult as EmbedResult
    from genblaze_dagster.net.callbacks import CallbackEndpoint as CallbackEndpoint
    from genblaze_dagster.net.webhooks import WebhookConfig as WebhookConfig
    from genblaze_dagster.partitions import PromptTable as PromptTable
    from genblaze_dagster.pipeline.agent.course import AgentContext as AgentContext
    from genblaze_dagster.pipeline.agent.course import AgentIteration as AgentIteration
    from genblaze_dagster.pipeline.agent.course import AgentResult as AgentResult
    from genblaze_dagster.pipeline.agent.evaluation import CallableEvaluator as CallableEvaluator
    from genblaze_dagster.pipeline.agent.evaluation import EvaluationResult as EvaluationResult
    from genblaze_dagster.pipeline.agent.evaluation import Evaluator as Evaluator
    from genblaze_dagster.pipeline.agent.evaluation import ThresholdEvaluator as ThresholdEvaluator
    from genblaze_dagster.pipeline.agent.loop import AgentLoop as AgentLoop
    from genblaze_dagster.pipeline.batch import BatchPipelineError as BatchPipelineError
    from genblaze_dagster.pipeline.builders import RunBuilder as RunBuilder
    from genblaze_dagster.pipeline.builders import StepBuilder as StepBuilder
    from genblaze_dagster.pipeline.callbacks import callback_app as callback_app
    from genblaze_dagster.pipeline.declaration import Pipeline as Pipeline
    from genblaze_dagster.pipeline.declaration import StepSpec as StepSpec
    from genblaze_dagster.pipeline.moderation import ModerationHook as ModerationHook
    from genblaze_dagster.pipeline.moderation import ModerationResult as ModerationResult
    from genblaze_dagster.pipeline.pipeline_template import PipelineTemplate as PipelineTemplate
    from genblaze_dagster.pipeline.pipeline_template import StepTemplate as StepTemplate
    from genblaze_dagster.pipeline.progress_display import ProgressDisplay as ProgressDisplay
    from genblaze_dagster.pipeline.replay import Replay as Replay
    from genblaze_dagster.pipeline.result import PipelineResult as PipelineResult
    from genblaze_dagster.pipeline.step_cache import StepCache as StepCache
    from genblaze_dagster.pipeline.stream_events import StreamEvent as StreamEvent
    from genblaze_dagster.pipeline.stream_events import StreamEventType as StreamEventType
    from genblaze_dagster.pipeline.template import Column as Column
    from genblaze_dagster.pipeline.template import PromptTemplate as PromptTemplate
    from genblaze_dagster.pipeline.tracing.composite import CompositeTracer as CompositeTracer
    from genblaze_dagster.pipeline.tracing.json_lines import LoggingTracer as LoggingTracer
    from genblaze_dagster.pipeline.tracing.json_lines import StructuredLogger as StructuredLogger
    from genblaze_dagster.pipeline.tracing.otel import OTelTracer as OTelTracer
    from genblaze_dagster.pipeline.tracing.tracer import NoOpTracer as NoOpTracer
    from genblaze_dagster.pipeline.tracing.tracer import Tracer as Tracer
    from genblaze_dagster.pipeline.webhooks import WebhookEvent as WebhookEvent
    from genblaze_dagster.pipeline.webhooks import WebhookNotifier as WebhookNotifier
    from genblaze_dagster.pipeline.webhooks import WebhookSink as WebhookSink
    from genblaze_dagster.provider_resources import AssemblyAIResource as AssemblyAIResource
    from genblaze_dagster.provider_resources import DecartResource as DecartResource
    from genblaze_dagster.provider_resources import ElevenLabsResource as ElevenLabsResource
    from genblaze_dagster.provider_resources import FalResource as FalResource
    from genblaze_dagster.provider_resources import GMICloudResource as GMICloudResource
    from genblaze_dagster.provider_resources import GoogleResource as GoogleResource
    from genblaze_dagster.provider_resources import HumeResource as HumeResource
    from genblaze_dagster.provider_resources import LimitedResource as LimitedResource
    from genblaze_dagster.provider_resources import LMNTResource as LMNTResource
    from genblaze_dagster.provider_resources import LocalResource as LocalResource
    from genblaze_dagster.provider_resources import LumaResource as LumaResource
    from genblaze_dagster.provider_resources import NvidiaResource as NvidiaResource
    from genblaze_dagster.provider_resources import OpenAIResource as OpenAIResource
    from genblaze_dagster.provider_resources import ProviderResource as ProviderResource
    from genblaze_dagster.provider_resources import ReplicateResource as ReplicateResource
    from genblaze_dagster.provider_resources import RunwayResource as RunwayResource
    from genblaze_dagster.provider_resources import StabilityResource as StabilityResource
    from genblaze_dagster.provider_resources import VendorResource as VendorResource
    from genblaze_dagster.providers.base import BaseProvider as BaseProvider
    from genblaze_dagster.providers.base import SyncProvider as SyncProvider
    from genblaze_dagster.providers.discovery import discover_providers as discover_providers
    from genblaze_dagster.providers.ffmpeg import FFmpegCompositor as FFmpegCompositor
    from genblaze_dagster.providers.ffmpeg import FFmpegTransform as FFmpegTransform
    from genblaze_dagster.providers.mock import MockAudioProvider as MockAudioProvider
    from genblaze_dagster.providers.mock import MockProvider as MockProvider
    from genblaze_dagster.providers.mock import MockVideoProvider as MockVideoProvider
    from genblaze_dagster.providers.model_spec import ModelSpec as ModelSpec
    from genblaze_dagster.providers.models import ModelRegistry as ModelRegistry
    from genblaze_dagster.providers.price_list import PriceList as PriceList
    from genblaze_dagster.providers.retry import RetryPolicy as RetryPolicy
    from genblaze_dagster.providers.values import ProgressEvent as ProgressEvent
    from genblaze_dagster.providers.values import ProviderCapabilities as ProviderCapabilities
    from genblaze_dagster.providers.values import SubmitResult as SubmitResult
    from genblaze_dagster.quotes import Quote as Quote
    from genblaze_dagster.quotes import StepQuote as StepQuote
    from genblaze_dagster.quotes import quote as quote
    from genblaze_dagster.reconcile import reconcile_sensor as reconcile_sensor
    from genblaze_dagster.replay import replay_job as replay_job
    from genblaze_dagster.resources import BudgetConfig as BudgetConfig
    from genblaze_dagster.resources import LedgerResource as LedgerResource
    from genblaze_dagster.resources import genblaze_resources as genblaze_resources
    from genblaze_dagster.schedules import model_checks as model_checks
    from genblaze_dagster.schedules import probe_job as probe_job
    from genblaze_dagster.schedules import probe_schedule as probe_schedule
    from genblaze_dagster.sensors import rescue_sensor as rescue_sensor
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
    "agents": ("agent_asset",),
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
        "ModerationStage",
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
        "AuthError",
        "BudgetExceededError",
        "ConfigError",
        "ContentPolicyError",
        "EmbeddingError",
        "GenblazeError",
        "HeldError",
        "InvalidRequestError",
        "LedgerError",
        "ManifestError",
        "ModelError",
        "ModerationRejectedError",
        "PipelineError",
        "PipelineTimeoutError",
        "ProviderError",
        "QuotaError",
        "RateLimitError",
        "SinkError",
        "StorageError",
        "UnverifiedAssetError",
        "WebhookError",
    ),
    "index.catalog": ("IndexCatalog",),
    "index.parquet_sink": ("ParquetSink",),
    "index.segment": ("SegmentWriter",),
    "io_manager": (
        "LocalMediaIOManager",
        "MediaIOManager",
        "S3MediaIOManager",
    ),
    "ledger.budgets": (
        "Budget",
        "BudgetScope",
        "Spend",
    ),
    "ledger.ledger": ("Ledger",),
    "media.embedding": (
        "EmbedMethod",
        "EmbedResult",
    ),
    "net.callbacks": ("CallbackEndpoint",),
    "net.webhooks": ("WebhookConfig",),
    "partitions": ("PromptTable",),
    "pipeline.agent.course": (
        "AgentContext",
        "AgentIteration",
        "AgentResult",
    ),
    "pipeline.agent.evaluation": (
        "CallableEvaluator",
        "EvaluationResult",
        "Evaluator",
        "ThresholdEvaluator",
    ),
    "pipeline.agent.loop": ("AgentLoop",),
    "pipeline.batch": ("BatchPipelineError",),
    "pipeline.builders": (
        "RunBuilder",
        "StepBuilder",
    ),
    "pipeline.callbacks": ("callback_app",),
    "pipeline.declaration": (
        "Pipeline",
        "StepSpec",
    ),
    "pipeline.moderation": (
        "ModerationHook",
        "ModerationResult",
    ),
    "pipeline.pipeline_template": (
        "PipelineTemplate",
        "StepTemplate",
    ),
    "pipeline.progress_display": ("ProgressDisplay",),
    "pipeline.replay": ("Replay",),
    "pipeline.result": ("PipelineResult",),
    "pipeline.step_cache": ("StepCache",),
    "pipeline.stream_events": (
        "StreamEvent",
        "StreamEventType",
    ),
    "pipeline.template": (
        "Column",
        "PromptTemplate",
    ),
    "pipeline.tracing.composite": ("CompositeTracer",),
    "pipeline.tracing.json_lines": (
        "LoggingTracer",
        "StructuredLogger",
    ),
    "pipeline.tracing.otel": ("OTelTracer",),
    "pipeline.tracing.tracer": (
        "NoOpTracer",
        "Tracer",
    ),
    "pipeline.webhooks": (
        "WebhookEvent",
        "WebhookNotifier",
        "WebhookSink",
    ),
    "provider_resources": (
        "AssemblyAIResource",
        "DecartResource",
        "ElevenLabsResource",
        "FalResource",
        "GMICloudResource",
        "GoogleResource",
        "HumeResource",
        "LMNTResource",
        "LimitedResource",
        "LocalResource",
        "LumaResource",
        "NvidiaResource",
        "OpenAIResource",
        "ProviderResource",
        "ReplicateResource",
        "RunwayResource",
        "StabilityResource",
        "VendorResource",
    ),
    "providers.base": (
        "BaseProvider",
        "SyncProvider",
    ),
    "providers.discovery": ("discover_providers",),
    "providers.ffmpeg": (
        "FFmpegCompositor",
        "FFmpegTransform",
    ),
    "providers.mock": (
        "MockAudioProvider",
        "MockProvider",
        "MockVideoProvider",
    ),
    "providers.model_spec": ("ModelSpec",),
    "providers.models": ("ModelRegistry",),
    "providers.price_list": ("PriceList",),
    "providers.retry": ("RetryPolicy",),
    "providers.values": (
        "ProgressEvent",
        "ProviderCapabilities",
        "SubmitResult",
    ),
    "quotes": (
        "Quote",
        "StepQuote",
        "quote",
    ),
    "reconcile": ("reconcile_sensor",),
    "replay": ("replay_job",),
    "resources": (
        "BudgetConfig",
        "LedgerResource",
        "genblaze_resources",
    ),
    "schedules": (
        "model_checks",
        "probe_job",
        "probe_schedule",
    ),
    "sensors": ("rescue_sensor",),
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
