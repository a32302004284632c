"""Runs as OpenTelemetry spans: one trace per run, below whatever span is current when it starts."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from genblaze_dagster.core.enums import RunStatus, StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType, shown_error
from genblaze_dagster.pipeline.tracing.tracer import Tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.trace import Tracer as OTelApiTracer

    from genblaze_dagster.pipeline.result import PipelineResult

AttributeValue = str | bool | int | float
Attributes = Mapping[str, AttributeValue | None]
AttributeHook = Callable[[str, Step | None], Attributes]
"""Run id, and the step or None for the run itself, to more attributes of the span."""

# Which of the names in the GenAI conventions a provider's name begins with.
_KNOWN_SYSTEMS: Final = {
    "openai": "openai",
    "google": "gcp.gemini",
    "gemini": "gcp.gemini",
    "imagen": "gcp.gemini",
    "veo": "gcp.gemini",
}
_NOTED: Final = frozenset(
    {
        StreamEventType.STEP_QUEUED,
        StreamEventType.STEP_RETRIED,
        StreamEventType.AGENT_ITERATION_STARTED,
        StreamEventType.AGENT_ITERATION_EVALUATED,
        StreamEventType.AGENT_COMPLETED,
    }
)
# An evaluator's words and the vendors' error texts may quote prompts.
_NOT_NOTED: Final = frozenset({"type", "timestamp", "message", "feedback", "error"})


@dataclass(slots=True)
class _RunSpans:
    span: "Span"
    steps: "dict[int, Span]" = field(default_factory=dict[int, "Span"])
    index_of: dict[str, int] = field(default_factory=dict[str, int])


class OTelTracer(Tracer):
    """Makes a span of every run and, below it, of every step.

    Spans `pipeline:{name}` and `step:{provider}/{model}` with `genblaze.*` attributes and those of
    OpenTelemetry's GenAI conventions. Failed steps and runs have status ERROR. Progress, retries
    and waiting are span events. Prompts are nowhere. `span` makes them current, so that whatever
    is instrumented below joins the trace.

    Without the package opentelemetry-api (extra `otel`) it does nothing, silently.

    Args:
        tracer_name: name of the instrumentation.
        attributes: called for more attributes of each span; Dagster's run id and asset key come
            this way.
        tracer_provider: the provider to use instead of the global one.
    """

    def __init__(
        self,
        tracer_name: str = "genblaze",
        *,
        attributes: AttributeHook | None = None,
        tracer_provider: "TracerProvider | None" = None,
    ) -> None:
        self._tracer = _api_tracer(tracer_name, tracer_provider)
        self._attributes = attributes or _no_attributes
        self._runs: dict[str, _RunSpans] = {}

    @property
    def is_enabled(self) -> bool:
        """Whether opentelemetry-api is installed."""
        return self._tracer is not None

    def on_run_start(
        self,
        run_id: str,
        name: str | None,
        *,
        tenant_id: str | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Start the run's span; metadata may hold anything and is left out."""
        if self._tracer is None:
            return
        self._close(run_id)
        span = self._tracer.start_span(
            f"pipeline:{name or 'anonymous'}",
            attributes=_present(
                {
                    "genblaze.run_id": run_id,
                    "genblaze.tenant_id": tenant_id,
                    "genblaze.total_steps": total_steps,
                    "gen_ai.operation.name": "invoke_workflow",
                    "gen_ai.workflow.name": name,
                }
            ),
        )
        # Kept before the caller's hook runs, which may raise.
        self._runs[run_id] = _RunSpans(span)
        span.set_attributes(_present(self._attributes(run_id, None)))

    def on_step_start(self, run_id: str, step: Step, *, step_index: int, total_steps: int) -> None:
        """Start the step's span, as a child of its run's."""
        run = self._runs.get(run_id)
        if self._tracer is None or run is None:
            return
        from opentelemetry.trace import SpanKind, set_span_in_context

        span = self._tracer.start_span(
            f"step:{step.provider or step.step_type}/{step.model}",
            context=set_span_in_context(run.span),
            kind=SpanKind.INTERNAL if step.provider is None else SpanKind.CLIENT,
            attributes=_present(_step_attributes(run_id, step, step_index)),
        )
        run.steps[step_index] = span
        run.index_of[step.step_id] = step_index
        span.set_attributes(_present(self._attributes(run_id, step)))

    def on_event(self, event: StreamEvent) -> None:
        """Add progress, retries, waiting and what an agent loop does as span events."""
        if self._tracer is None:
            return
        if event.type in _NOTED:
            noted = {k: v for k, v in event.to_dict().items() if k not in _NOT_NOTED}
            self._span_of(event).add_event(event.type.value, _scalars(noted))
        elif event.type is StreamEventType.STEP_PROGRESS and not event.is_heartbeat:
            url = event.preview_url
            self._span_of(event).add_event(
                "progress",
                _present(
                    {
                        "progress_pct": event.progress_pct,
                        "preview_url": None if url is None else strip_url(url),
                    }
                ),
            )

    def on_step_end(self, run_id: str, step: Step, *, duration_ms: float, step_index: int) -> None:
        """End the step's span."""
        run = self._runs.get(run_id)
        # By index: a step that fell back to another model may end under another id.
        span = None if run is None else run.steps.pop(step_index, None)
        if span is None:
            return
        span.set_attributes(
            _present({"genblaze.duration_ms": duration_ms, **_outcome_attributes(step)})
        )
        if step.status is StepStatus.FAILED:
            code = step.error_code.value if step.error_code is not None else "unknown"
            _set_error(span, shown_error(step) or code, code)
        span.end()

    def on_run_end(self, run_id: str, result: "PipelineResult") -> None:
        """End the run's span, and those of steps that were broken off."""
        run = self._runs.get(run_id)
        if run is None:
            return
        run.span.set_attributes(
            _present(
                {
                    "genblaze.status": result.run.status.value,
                    "genblaze.manifest_hash": result.manifest.canonical_hash,
                    "genblaze.cost_usd": _total_cost(result.run.steps),
                }
            )
        )
        if result.run.status is RunStatus.FAILED:
            failed = [step for step in result.run.steps if step.status is StepStatus.FAILED]
            codes = [step.error_code.value for step in failed if step.error_code is not None]
            message = f"{len(failed)} of {len(result.run.steps)} steps failed"
            _set_error(run.span, message, codes[0] if codes else "unknown")
        self._close(run_id)

    @contextmanager
    def span(self, run_id: str, step_id: str | None = None) -> Generator[None]:
        """Make the span of a run or a step current; see `Tracer.span`."""
        run = self._runs.get(run_id)
        if run is None:
            yield
            return
        from opentelemetry.trace import use_span

        index = None if step_id is None else run.index_of.get(step_id)
        span = run.span if index is None else run.steps.get(index, run.span)
        # How it ended is told by the hooks, with secrets taken out.
        with use_span(
            span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        ):
            yield

    def _span_of(self, event: StreamEvent) -> "Span":
        from opentelemetry.trace import get_current_span

        run = None if event.run_id is None else self._runs.get(event.run_id)
        if run is None:
            return get_current_span()
        index = None if event.step_id is None else run.index_of.get(event.step_id)
        return run.span if index is None else run.steps.get(index, run.span)

    def _close(self, run_id: str) -> None:
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        for span in run.steps.values():
            span.set_attribute("genblaze.status", StepStatus.CANCELLED.value)
            span.end()
        run.span.end()


def _api_tracer(name: str, provider: "TracerProvider | None") -> "OTelApiTracer | None":
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer(name, tracer_provider=provider)


def _no_attributes(run_id: str, step: Step | None) -> Attributes:
    return {}


def _step_attributes(run_id: str, step: Step, step_index: int) -> Attributes:
    attributes: dict[str, AttributeValue | None] = {
        "genblaze.run_id": run_id,
        "genblaze.step_id": step.step_id,
        "genblaze.step_index": step_index,
        "genblaze.provider": step.provider,
        "genblaze.model": step.model,
    }
    if step.provider is None:
        return attributes
    system = _KNOWN_SYSTEMS.get(step.provider.partition("-")[0], step.provider)
    return attributes | {
        # The conventions have no operation for images, sound or film alone.
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": system,
        # Its name before version 1.37, which many backends still look for.
        "gen_ai.system": system,
        "gen_ai.request.model": step.model,
        "gen_ai.request.seed": step.seed,
        "gen_ai.output.type": step.modality.value,
    }


def _outcome_attributes(step: Step) -> Attributes:
    payload = step.provider_payload
    used: object = payload.get("usage")
    usage: Mapping[str, object] = cast("dict[str, object]", used) if isinstance(used, dict) else {}
    return {
        "genblaze.status": step.status.value,
        "genblaze.cost_usd": step.cost_usd,
        "genblaze.retries": step.retries,
        "gen_ai.response.model": step.model_version or step.model,
        "gen_ai.response.id": _text(payload.get("job_id")) or _text(payload.get("request_id")),
        "gen_ai.usage.input_tokens": _count(usage.get("input_tokens")),
        "gen_ai.usage.output_tokens": _count(usage.get("output_tokens")),
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _total_cost(steps: list[Step]) -> float | None:
    known = [step.cost_usd for step in steps if step.cost_usd is not None]
    return sum(known) if len(known) == len(steps) else None


def _set_error(span: "Span", message: str, kind: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message))


def _present(attributes: Attributes) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}


def _scalars(values: Mapping[str, object]) -> dict[str, AttributeValue]:
    return {k: v for k, v in values.items() if isinstance(v, (str, bool, int, float))}
