"""Providers: one interface, one module or package per vendor. Names are imported on first use."""

from typing import TYPE_CHECKING

from genblaze_dagster.core.lazy import lazy_exports

if TYPE_CHECKING:
    from genblaze_dagster.providers.adapter import adapt as adapt
    from genblaze_dagster.providers.assemblyai import AssemblyAIProvider as AssemblyAIProvider
    from genblaze_dagster.providers.base import BaseProvider as BaseProvider
    from genblaze_dagster.providers.base import SyncProvider as SyncProvider
    from genblaze_dagster.providers.catalogue import vendor_of as vendor_of
    from genblaze_dagster.providers.constraints import implies as implies
    from genblaze_dagster.providers.constraints import mutually_exclusive as mutually_exclusive
    from genblaze_dagster.providers.constraints import required_one_of as required_one_of
    from genblaze_dagster.providers.constraints import requires_together as requires_together
    from genblaze_dagster.providers.decart import DecartImageProvider as DecartImageProvider
    from genblaze_dagster.providers.decart import DecartVideoProvider as DecartVideoProvider
    from genblaze_dagster.providers.discovery import BrokenEntryPoint as BrokenEntryPoint
    from genblaze_dagster.providers.discovery import discover_providers as discover_providers
    from genblaze_dagster.providers.elevenlabs import (
        ElevenLabsMusicProvider as ElevenLabsMusicProvider,
    )
    from genblaze_dagster.providers.elevenlabs import ElevenLabsSFXProvider as ElevenLabsSFXProvider
    from genblaze_dagster.providers.elevenlabs import ElevenLabsTTSProvider as ElevenLabsTTSProvider
    from genblaze_dagster.providers.fal import FalProvider as FalProvider
    from genblaze_dagster.providers.ffmpeg import FFmpegCompositor as FFmpegCompositor
    from genblaze_dagster.providers.ffmpeg import FFmpegTransform as FFmpegTransform
    from genblaze_dagster.providers.gmicloud import GMICloudAudioProvider as GMICloudAudioProvider
    from genblaze_dagster.providers.gmicloud import GMICloudImageProvider as GMICloudImageProvider
    from genblaze_dagster.providers.gmicloud import GMICloudVideoProvider as GMICloudVideoProvider
    from genblaze_dagster.providers.google import GeminiImageProvider as GeminiImageProvider
    from genblaze_dagster.providers.google import ImagenProvider as ImagenProvider
    from genblaze_dagster.providers.google import VeoProvider as VeoProvider
    from genblaze_dagster.providers.hume import HumeTTSProvider as HumeTTSProvider
    from genblaze_dagster.providers.input_mapping import chain_routers as chain_routers
    from genblaze_dagster.providers.input_mapping import route_audio as route_audio
    from genblaze_dagster.providers.input_mapping import route_by_media_type as route_by_media_type
    from genblaze_dagster.providers.input_mapping import route_images as route_images
    from genblaze_dagster.providers.input_mapping import route_keyframes as route_keyframes
    from genblaze_dagster.providers.input_mapping import route_video as route_video
    from genblaze_dagster.providers.lmnt import LMNTProvider as LMNTProvider
    from genblaze_dagster.providers.local import LocalProvider as LocalProvider
    from genblaze_dagster.providers.luma import LumaProvider as LumaProvider
    from genblaze_dagster.providers.mock import MockAudioProvider as MockAudioProvider
    from genblaze_dagster.providers.mock import MockProvider as MockProvider
    from genblaze_dagster.providers.mock import MockVideoProvider as MockVideoProvider
    from genblaze_dagster.providers.model_spec import FALLBACK_SPEC as FALLBACK_SPEC
    from genblaze_dagster.providers.model_spec import FamilyMatch as FamilyMatch
    from genblaze_dagster.providers.model_spec import ModelFamily as ModelFamily
    from genblaze_dagster.providers.model_spec import ModelSpec as ModelSpec
    from genblaze_dagster.providers.models import ModelRegistry as ModelRegistry
    from genblaze_dagster.providers.nvidia import NvidiaAudioProvider as NvidiaAudioProvider
    from genblaze_dagster.providers.nvidia import NvidiaImageProvider as NvidiaImageProvider
    from genblaze_dagster.providers.nvidia import NvidiaVideoProvider as NvidiaVideoProvider
    from genblaze_dagster.providers.openai import DalleProvider as DalleProvider
    from genblaze_dagster.providers.openai import OpenAITTSProvider as OpenAITTSProvider
    from genblaze_dagster.providers.openai import SoraProvider as SoraProvider
    from genblaze_dagster.providers.param_schemas import ArraySchema as ArraySchema
    from genblaze_dagster.providers.param_schemas import BoolSchema as BoolSchema
    from genblaze_dagster.providers.param_schemas import EnumSchema as EnumSchema
    from genblaze_dagster.providers.param_schemas import FloatSchema as FloatSchema
    from genblaze_dagster.providers.param_schemas import IntSchema as IntSchema
    from genblaze_dagster.providers.param_schemas import ParamSchema as ParamSchema
    from genblaze_dagster.providers.param_schemas import StringSchema as StringSchema
    from genblaze_dagster.providers.param_surface import ParamSurface as ParamSurface
    from genblaze_dagster.providers.param_surface import modality_defaults as modality_defaults
    from genblaze_dagster.providers.param_surface import (
        register_modality_default as register_modality_default,
    )
    from genblaze_dagster.providers.preflight import apreflight as apreflight
    from genblaze_dagster.providers.preflight import aprobe_models as aprobe_models
    from genblaze_dagster.providers.preflight import preflight as preflight
    from genblaze_dagster.providers.preflight import probe_models as probe_models
    from genblaze_dagster.providers.price_list import PriceList as PriceList
    from genblaze_dagster.providers.pricing import PricingContext as PricingContext
    from genblaze_dagster.providers.pricing import PricingStrategy as PricingStrategy
    from genblaze_dagster.providers.pricing import bucketed_by_duration as bucketed_by_duration
    from genblaze_dagster.providers.pricing import by_model_and_param as by_model_and_param
    from genblaze_dagster.providers.pricing import by_param as by_param
    from genblaze_dagster.providers.pricing import compute_cost as compute_cost
    from genblaze_dagster.providers.pricing import first_match as first_match
    from genblaze_dagster.providers.pricing import per_input_chars as per_input_chars
    from genblaze_dagster.providers.pricing import per_output_second as per_output_second
    from genblaze_dagster.providers.pricing import per_response_metric as per_response_metric
    from genblaze_dagster.providers.pricing import per_unit as per_unit
    from genblaze_dagster.providers.pricing import tiered as tiered
    from genblaze_dagster.providers.protocol import FindsJobs as FindsJobs
    from genblaze_dagster.providers.protocol import FoundJobs as FoundJobs
    from genblaze_dagster.providers.protocol import GenerationRequest as GenerationRequest
    from genblaze_dagster.providers.protocol import HasAccount as HasAccount
    from genblaze_dagster.providers.protocol import InputMedia as InputMedia
    from genblaze_dagster.providers.protocol import JobState as JobState
    from genblaze_dagster.providers.protocol import JobStatus as JobStatus
    from genblaze_dagster.providers.protocol import Output as Output
    from genblaze_dagster.providers.protocol import Provider as Provider
    from genblaze_dagster.providers.protocol import RateLimit as RateLimit
    from genblaze_dagster.providers.protocol import Result as Result
    from genblaze_dagster.providers.protocol import Submission as Submission
    from genblaze_dagster.providers.registry import register_provider as register_provider
    from genblaze_dagster.providers.registry import resolve_provider as resolve_provider
    from genblaze_dagster.providers.replicate import ReplicateProvider as ReplicateProvider
    from genblaze_dagster.providers.retry import RetryPolicy as RetryPolicy
    from genblaze_dagster.providers.runway import RunwayProvider as RunwayProvider
    from genblaze_dagster.providers.stability_audio import (
        StabilityAudioProvider as StabilityAudioProvider,
    )
    from genblaze_dagster.providers.validation import DiscoveryResult as DiscoveryResult
    from genblaze_dagster.providers.validation import DiscoveryStatus as DiscoveryStatus
    from genblaze_dagster.providers.validation import DiscoverySupport as DiscoverySupport
    from genblaze_dagster.providers.validation import LiveProbeResult as LiveProbeResult
    from genblaze_dagster.providers.validation import ValidationOutcome as ValidationOutcome
    from genblaze_dagster.providers.validation import ValidationResult as ValidationResult
    from genblaze_dagster.providers.validation import ValidationSource as ValidationSource
    from genblaze_dagster.providers.values import ProgressEvent as ProgressEvent
    from genblaze_dagster.providers.values import ProviderCapabilities as ProviderCapabilities
    from genblaze_dagster.providers.values import RunnableConfig as RunnableConfig
    from genblaze_dagster.providers.values import SubmitResult as SubmitResult
    from genblaze_dagster.providers.vendor.api import Vendor as Vendor
    from genblaze_dagster.providers.vendor.chat import ChatMessage as ChatMessage
    from genblaze_dagster.providers.vendor.chat import ChatResponse as ChatResponse
    from genblaze_dagster.providers.vendor.chat import ToolCall as ToolCall
    from genblaze_dagster.providers.vendor.provider import VendorProvider as VendorProvider
    from genblaze_dagster.providers.vendor.traits import InputForm as InputForm
    from genblaze_dagster.providers.vendor.traits import Traits as Traits

_EXPORTS = {
    "adapter": ("adapt",),
    "assemblyai": ("AssemblyAIProvider",),
    "base": (
        "BaseProvider",
        "SyncProvider",
    ),
    "catalogue": ("vendor_of",),
    "constraints": (
        "implies",
        "mutually_exclusive",
        "required_one_of",
        "requires_together",
    ),
    "decart": (
        "DecartImageProvider",
        "DecartVideoProvider",
    ),
    "discovery": (
        "BrokenEntryPoint",
        "discover_providers",
    ),
    "elevenlabs": (
        "ElevenLabsMusicProvider",
        "ElevenLabsSFXProvider",
        "ElevenLabsTTSProvider",
    ),
    "fal": ("FalProvider",),
    "ffmpeg": (
        "FFmpegCompositor",
        "FFmpegTransform",
    ),
    "gmicloud": (
        "GMICloudAudioProvider",
        "GMICloudImageProvider",
        "GMICloudVideoProvider",
    ),
    "google": (
        "GeminiImageProvider",
        "ImagenProvider",
        "VeoProvider",
    ),
    "hume": ("HumeTTSProvider",),
    "input_mapping": (
        "chain_routers",
        "route_audio",
        "route_by_media_type",
        "route_images",
        "route_keyframes",
        "route_video",
    ),
    "lmnt": ("LMNTProvider",),
    "local": ("LocalProvider",),
    "luma": ("LumaProvider",),
    "mock": (
        "MockAudioProvider",
        "MockProvider",
        "MockVideoProvider",
    ),
    "model_spec": (
        "FALLBACK_SPEC",
        "FamilyMatch",
        "ModelFamily",
        "ModelSpec",
    ),
    "models": ("ModelRegistry",),
    "nvidia": (
        "NvidiaAudioProvider",
        "NvidiaImageProvider",
        "NvidiaVideoProvider",
    ),
    "openai": (
        "DalleProvider",
        "OpenAITTSProvider",
        "SoraProvider",
    ),
    "param_schemas": (
        "ArraySchema",
        "BoolSchema",
        "EnumSchema",
        "FloatSchema",
        "IntSchema",
        "ParamSchema",
        "StringSchema",
    ),
    "param_surface": (
        "ParamSurface",
        "modality_defaults",
        "register_modality_default",
    ),
    "preflight": (
        "apreflight",
        "aprobe_models",
        "preflight",
        "probe_models",
    ),
    "price_list": ("PriceList",),
    "pricing": (
        "PricingContext",
        "PricingStrategy",
        "bucketed_by_duration",
        "by_model_and_param",
        "by_param",
        "compute_cost",
        "first_match",
        "per_input_chars",
        "per_output_second",
        "per_response_metric",
        "per_unit",
        "tiered",
    ),
    "protocol": (
        "FindsJobs",
        "FoundJobs",
        "GenerationRequest",
        "HasAccount",
        "InputMedia",
        "JobState",
        "JobStatus",
        "Output",
        "Provider",
        "RateLimit",
        "Result",
        "Submission",
    ),
    "registry": (
        "register_provider",
        "resolve_provider",
    ),
    "replicate": ("ReplicateProvider",),
    "retry": ("RetryPolicy",),
    "runway": ("RunwayProvider",),
    "stability_audio": ("StabilityAudioProvider",),
    "validation": (
        "DiscoveryResult",
        "DiscoveryStatus",
        "DiscoverySupport",
        "LiveProbeResult",
        "ValidationOutcome",
        "ValidationResult",
        "ValidationSource",
    ),
    "values": (
        "ProgressEvent",
        "ProviderCapabilities",
        "RunnableConfig",
        "SubmitResult",
    ),
    "vendor.api": ("Vendor",),
    "vendor.chat": (
        "ChatMessage",
        "ChatResponse",
        "ToolCall",
    ),
    "vendor.provider": ("VendorProvider",),
    "vendor.traits": (
        "InputForm",
        "Traits",
    ),
}

__all__, __getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
