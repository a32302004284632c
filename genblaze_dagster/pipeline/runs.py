"""What can be done with a declared pipeline, and the settings of its runs."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, cast

from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.providers.base import BaseProvider
from genblaze_dagster.providers.values import RunnableConfig

if TYPE_CHECKING:
    from dagster import AssetsDefinition

    from genblaze_dagster.pipeline.batch import BatchOutcome
    from genblaze_dagster.pipeline.declaration import Pipeline
    from genblaze_dagster.pipeline.intake import Ingestible
    from genblaze_dagster.pipeline.moderation import ModerationHook
    from genblaze_dagster.pipeline.pipeline_template import PipelineTemplate
    from genblaze_dagster.pipeline.result import PipelineResult
    from genblaze_dagster.pipeline.step_cache import StepCache
    from genblaze_dagster.pipeline.stream_events import StreamEvent
    from genblaze_dagster.pipeline.tracing import Tracer

_CONFIG_KEYS = RunnableConfig.__optional_keys__ | RunnableConfig.__required_keys__


def checked_config(config: Mapping[str, Any]) -> RunnableConfig:
    """Return a config whose keys are all known.

    Raises:
        ConfigError: it holds `tenant_id`, or a key that says nothing.
    """
    if "tenant_id" in config:
        raise ConfigError("config holds tenant_id; give it to the Pipeline or the sink")
    unknown = sorted(map(str, config.keys() - _CONFIG_KEYS))
    if unknown:
        raise ConfigError(
            f"config holds {unknown[0][:80]!r}; it may hold {', '.join(sorted(_CONFIG_KEYS))}"
        )
    return cast(RunnableConfig, dict(config))


class Runs:
    """Runs of a pipeline: run, stream, batch, and how each of them is set up.

    The methods that set something up return the pipeline.

    Args:
        structured_log: write JSON lines about every run.
        moderation: looks at what is asked and at what comes of it.
        tracer: watches every run.
        preflight: look before a run whether its models exist.
    """

    def __init__(
        self,
        *,
        structured_log: bool = False,
        moderation: "ModerationHook | None" = None,
        tracer: "Tracer | None" = None,
        preflight: bool = True,
    ) -> None:
        self.structured_log = structured_log
        self.moderation = moderation
        self.has_preflight = preflight
        self.run_tracer = tracer
        self.run_config: RunnableConfig = {}
        self.run_metadata: dict[str, Any] = {}
        self.parent_run_id: str | None = None
        self.step_cache: StepCache | None = None

    def config(self, cfg: RunnableConfig) -> Self:
        """Set timeout, max_retries, callbacks and the like for every run that says nothing else.

        Its tags and metadata are recorded with the run.

        Raises:
            ConfigError: `cfg` holds `tenant_id`, or a key that says nothing.
        """
        self.run_config = checked_config(cfg)
        return self

    def tracer(self, tracer: "Tracer") -> Self:
        """Let a tracer watch every run."""
        self.run_tracer = tracer
        return self

    def cache(self, cache: "StepCache | None") -> Self:
        """Take what was asked before from a cache, at no cost; None asks anew."""
        self.step_cache = cache
        return self

    def preflight(self, enabled: bool) -> Self:
        """Look before a run whether its models exist, or do not."""
        self.has_preflight = enabled
        return self

    def from_result(self, result: "PipelineResult") -> Self:
        """Make the next runs children of a run, recorded as `parent_run_id` outside the hash."""
        self.parent_run_id = result.run.run_id
        return self

    def metadata(self, **fields: Any) -> Self:
        """Record fields with every run; they are hashed into its manifest."""
        self.run_metadata |= fields
        return self

    def run(self, **options: Any) -> "PipelineResult":
        """Run every step in this process and return when all is stored; see `arun`."""
        return run_sync(self.arun(**options))

    async def arun(self, **options: Any) -> "PipelineResult":
        """Run every step; independent ones at the same time.

        Options are those of `genblaze_dagster.pipeline.execution.execute` and `run_options`.

        Raises:
            PipelineError: a step failed (unless `raise_on_failure=False`); `result` holds what
                succeeded, which is stored.
        """
        from genblaze_dagster.pipeline.execution import execute

        return await execute(self._pipeline(), **options)

    def invoke(self, input: None = None, config: RunnableConfig | None = None) -> "PipelineResult":
        """Run with a config; see `arun`."""
        return run_sync(self.ainvoke(input, config))

    async def ainvoke(
        self, input: None = None, config: RunnableConfig | None = None
    ) -> "PipelineResult":
        """Run with a config in async code; see `arun`.

        Raises:
            ConfigError: there is an input; a pipeline has those of its steps.
        """
        if input is not None:
            raise ConfigError("invoke() takes no input; give it to a step, or use variables=")
        return await self.arun(config=config)

    def stream(self, *, heartbeats: bool = True, **options: Any) -> "Generator[StreamEvent]":
        """Run, and yield what happens when it does; see `astream`. Leaving the loop cancels."""
        from genblaze_dagster.pipeline.streaming import stream

        return stream(self._pipeline(), heartbeats=heartbeats, **options)

    def astream(self, *, heartbeats: bool = True, **options: Any) -> "AsyncGenerator[StreamEvent]":
        """Run, and yield what happens when it does.

        Leaving the loop cancels the run: close the generator, or let it be collected. What the run
        raises is raised after its last event. Options are those of `arun`.

        Args:
            heartbeats: also tell, every 10 s, that a long wait goes on.
            **options: as in `arun`.
        """
        from genblaze_dagster.pipeline.streaming import astream

        return astream(self._pipeline(), heartbeats=heartbeats, **options)

    def batch_run(
        self, prompts: "Iterable[str | Mapping[str, object]] | None" = None, **options: Any
    ) -> "list[PipelineResult]":
        """Run once per prompt, many at the same time; see `abatch_run`."""
        return run_sync(self.abatch_run(prompts, **options))

    async def abatch_run(
        self, prompts: "Iterable[str | Mapping[str, object]] | None" = None, **options: Any
    ) -> "list[PipelineResult]":
        """Run once per prompt or item and return the results in their order.

        Options are those of `genblaze_dagster.pipeline.batch.run_batch`.

        Raises:
            BatchPipelineError: items failed (unless `raise_on_failure=False`), after all have run.
        """
        from genblaze_dagster.pipeline.batch import run_batch

        return await run_batch(self._pipeline(), prompts, **options)

    def abatch_stream(
        self, prompts: "Iterable[str | Mapping[str, object]] | None" = None, **options: Any
    ) -> "AsyncIterator[BatchOutcome]":
        """Run once per prompt or item and yield what comes of each as it ends.

        Nothing is kept, and `prompts` is read as it is needed: memory does not grow with the batch.
        Options are those of `genblaze_dagster.pipeline.batch.stream_batch`.
        """
        from genblaze_dagster.pipeline.batch import stream_batch

        return stream_batch(self._pipeline(), prompts, **options)

    @staticmethod
    def ingest(assets: "Sequence[Ingestible]", *, source: str, **options: Any) -> "PipelineResult":
        """Store media that no step made; see `genblaze_dagster.pipeline.ingest.aingest`."""
        from genblaze_dagster.pipeline.ingest import ingest

        return ingest(assets, source=source, **options)

    def estimated_cost(self) -> Decimal | None:
        """Return what one run may cost in USD; None when the price of a step is unknown."""
        from genblaze_dagster.pipeline.estimate import estimated_price

        total = Decimal(0)
        for spec in self._pipeline().steps:
            price = estimated_price(spec)
            if price is None:
                return None
            total += Decimal(str(price))
        return total

    def to_template(self, **about: Any) -> "PipelineTemplate":
        """Return the declaration as a template; see `pipeline_template.template_of`."""
        from genblaze_dagster.pipeline.pipeline_template import template_of

        return template_of(self._pipeline(), **about)

    def resume_step(
        self,
        step: Step,
        prediction_id: Any,
        provider: BaseProvider,
        config: RunnableConfig | None = None,
    ) -> Step:
        """Wait for a job that was submitted elsewhere and return its step; see `BaseProvider.resume`.

        Jobs that a run of ours submitted need no id: the same run in the same `scope` resumes them.
        """
        settings = {**self.run_config, **checked_config(config or {})}
        return provider.resume(prediction_id, step, cast(RunnableConfig, settings))

    def to_assets(self, **options: Any) -> "list[AssetsDefinition]":
        """Return Dagster assets, one per step; options are those of `assets.pipeline_assets`.

        The import is the one place where a layer below Dagster names one above it: users look for
        this on the pipeline, and nothing is imported until they ask.

        Raises:
            ConfigError: the pipeline has moderation, which assets would silently be without.
        """
        from genblaze_dagster.assets import pipeline_assets

        if self.moderation is not None:
            raise ConfigError(
                "moderation is looked at by run() and not by assets; leave it out, or run the "
                "pipeline inside an asset of your own"
            )
        return pipeline_assets(self._pipeline(), **options)

    def _pipeline(self) -> "Pipeline":
        # There is one class of runs, and it is below.
        return cast("Pipeline", self)
