"""Watching runs: hooks, JSON log lines, OpenTelemetry spans."""

from genblaze_dagster.pipeline.tracing.composite import CompositeTracer, safe
from genblaze_dagster.pipeline.tracing.json_lines import LoggingTracer, StructuredLogger
from genblaze_dagster.pipeline.tracing.otel import OTelTracer
from genblaze_dagster.pipeline.tracing.tracer import NoOpTracer, Tracer

__all__ = [
    "CompositeTracer",
    "LoggingTracer",
    "NoOpTracer",
    "OTelTracer",
    "StructuredLogger",
    "Tracer",
    "safe",
]
