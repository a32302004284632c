"""Several tracers at once, and tracers that cannot hurt a run."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from genblaze_dagster.core.models import Step
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.stream_events import StreamEvent
from genblaze_dagster.pipeline.tracing.tracer import NoOpTracer, Tracer

if TYPE_CHECKING:
    from genblaze_dagster.pipeline.result import PipelineResult

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SHOWN_CHARS = 200


def safe(tracer: Tracer | None) -> Tracer:
    """Return a tracer whose hooks never raise; what the given one raises is logged.

    None gives one that does nothing. The same hook of the same tracer is logged once; a tracer
    that fails on every event would flood the log of a batch.
    """
    if tracer is None:
        return NoOpTracer()
    # A class derived from these may raise again.
    return (
        tracer
        if type(tracer) in (_SafeTracer, CompositeTracer, NoOpTracer)
        else _SafeTracer(tracer)
    )


class CompositeTracer(Tracer):
    """Passes everything on to several tracers, in their order; one that raises harms no other."""

    def __init__(self, tracers: Sequence[Tracer]) -> None:
        self._tracers = [safe(tracer) for tracer in tracers]

    def on_run_start(
        self,
        run_id: str,
        name: str | None,
        *,
        tenant_id: str | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Pass it on."""
        for tracer in self._tracers:
            tracer.on_run_start(
                run_id, name, tenant_id=tenant_id, total_steps=total_steps, metadata=metadata
            )

    def on_step_start(self, run_id: str, step: Step, *, step_index: int, total_steps: int) -> None:
        """Pass it on."""
        for tracer in self._tracers:
            tracer.on_step_start(run_id, step, step_index=step_index, total_steps=total_steps)

    def on_event(self, event: StreamEvent) -> None:
        """Pass it on."""
        for tracer in self._tracers:
            tracer.on_event(event)

    def on_step_end(self, run_id: str, step: Step, *, duration_ms: float, step_index: int) -> None:
        """Pass it on."""
        for tracer in self._tracers:
            tracer.on_step_end(run_id, step, duration_ms=duration_ms, step_index=step_index)

    def on_run_end(self, run_id: str, result: "PipelineResult") -> None:
        """Pass it on."""
        for tracer in self._tracers:
            tracer.on_run_end(run_id, result)

    @contextmanager
    def span(self, run_id: str, step_id: str | None = None) -> Generator[None]:
        """Enter the spans of all tracers."""
        with ExitStack() as stack:
            for tracer in self._tracers:
                stack.enter_context(tracer.span(run_id, step_id))
            yield


class _SafeTracer(Tracer):
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._reported: set[str] = set()

    def on_run_start(
        self,
        run_id: str,
        name: str | None,
        *,
        tenant_id: str | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        self._call(
            "on_run_start",
            lambda: self._tracer.on_run_start(
                run_id, name, tenant_id=tenant_id, total_steps=total_steps, metadata=metadata
            ),
        )

    def on_step_start(self, run_id: str, step: Step, *, step_index: int, total_steps: int) -> None:
        self._call(
            "on_step_start",
            lambda: self._tracer.on_step_start(
                run_id, step, step_index=step_index, total_steps=total_steps
            ),
        )

    def on_event(self, event: StreamEvent) -> None:
        self._call("on_event", lambda: self._tracer.on_event(event))

    def on_step_end(self, run_id: str, step: Step, *, duration_ms: float, step_index: int) -> None:
        self._call(
            "on_step_end",
            lambda: self._tracer.on_step_end(
                run_id, step, duration_ms=duration_ms, step_index=step_index
            ),
        )

    def on_run_end(self, run_id: str, result: "PipelineResult") -> None:
        self._call("on_run_end", lambda: self._tracer.on_run_end(run_id, result))

    @contextmanager
    def span(self, run_id: str, step_id: str | None = None) -> Generator[None]:
        opened = self._call("span", lambda: _entered(self._tracer.span(run_id, step_id)))
        try:
            yield
        except BaseException as exc:
            # The tracer learns what the block raised, but cannot keep it from being raised.
            self._leave(opened, exc)
            raise
        self._leave(opened, None)

    def _leave(
        self, opened: AbstractContextManager[object] | None, raised: BaseException | None
    ) -> None:
        if opened is not None:
            trace = None if raised is None else raised.__traceback__
            kind = None if raised is None else type(raised)
            self._call("span", lambda: opened.__exit__(kind, raised, trace))

    def _call(self, hook: str, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as exc:
            if hook not in self._reported:
                self._reported.add(hook)
                logger.warning(
                    "%s.%s raises %s: %s; the run goes on without it",
                    type(self._tracer).__name__,
                    hook,
                    type(exc).__name__,
                    redact(str(exc), max_chars=_SHOWN_CHARS),
                )
        return None


def _entered(block: AbstractContextManager[object]) -> AbstractContextManager[object]:
    block.__enter__()
    return block
