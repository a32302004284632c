"""Base classes for providers written as in the genblaze guides: blocking methods over a `Step`.

Derive from `SyncProvider` for an API that answers at once, from `BaseProvider` for one with jobs to
poll. `genblaze_dagster.providers.protocol.Provider` is the async interface everything here ends in;
`genblaze_dagster.providers.adapter.adapt` makes one from the other.
"""

import os
import threading
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import OutputError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.providers.validation import DiscoveryResult, DiscoverySupport
from genblaze_dagster.providers.values import (
    ProgressEvent,
    ProviderCapabilities,
    RunnableConfig,
    StepRetriedEvent,
    SubmitResult,
    Voice,
)

if TYPE_CHECKING:
    from genblaze_dagster.providers.calls import Calls
    from genblaze_dagster.providers.model_checks import ModelChecks
    from genblaze_dagster.providers.model_spec import ModelSpec
    from genblaze_dagster.providers.models import ModelRegistry
    from genblaze_dagster.providers.validation import ValidationResult

SKIP_PREFLIGHT = "GENBLAZE_SKIP_PREFLIGHT"
SYNC_JOB = "sync"
"""The job id of every `SyncProvider`."""

_KEPT_SYNC_RESULTS = 256

__all__ = [
    "BaseProvider",
    "ProgressEvent",
    "ProviderCapabilities",
    "RunnableConfig",
    "StepRetriedEvent",
    "SubmitResult",
    "SyncProvider",
    "Voice",
]


class BaseProvider(ABC):
    """A vendor's API with jobs: `submit`, `poll` until it says True, `fetch_output`.

    The three may block; they are called on threads of their own. Raise `ProviderError` (or a class
    below it) with the vendor's status and code; any other exception is classified by its class and
    the status it carries, never by its words. A submit that raises something unclear counts as
    perhaps accepted, and is not sent again; so does one that says only that the vendor failed or
    took too long, unless it says `sent=False`.

    Class attributes: `name` is what manifests call the provider; `version` is yours, change it when
    the same request would give something else; `poll_interval` is the first pause between polls in
    seconds; `IDEMPOTENCY_HEADER_NAME` the header that `idempotency_headers` fills; `deduplicates`
    says that the vendor does not bill twice for one value of it; files of outputs lie below
    `output_dir` or the temporary folder. Set `one_request` to False when
    `submit` (or `generate`) goes on after the request that is paid, polling or downloading: a
    failure to connect then no longer proves that nothing was sent.

    Args:
        models: registry to use in place of the class's own.
        retry_policy: for `invoke`; `RetryPolicy` with `poll_transient_retries` when left out.
        probe_cache_ttl: seconds a model's probe is believed; the class's own when left out.
        probe_cache_max_entries: how many probes are kept.
    """

    name: str = "base"
    version: str = "1"
    deduplicates: bool = False
    one_request: bool = True
    output_dir: Path | str | None = None
    poll_interval: float = 1.0
    poll_transient_retries: int = 5
    discovery_support: DiscoverySupport = DiscoverySupport.NONE
    IDEMPOTENCY_HEADER_NAME: str | None = None
    PROBE_CACHE_TTL_SECONDS: float = 3600.0
    PROBE_CACHE_MAX_ENTRIES: int = 256

    # A class that forgets super().__init__() works too.
    _models: "ModelRegistry | None" = None
    _retry_policy: RetryPolicy | None = None
    _own_calls: "Calls | None" = None
    _checks: "ModelChecks | None" = None
    _making: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        *,
        models: "ModelRegistry | None" = None,
        retry_policy: RetryPolicy | None = None,
        probe_cache_ttl: float | None = None,
        probe_cache_max_entries: int | None = None,
    ) -> None:
        self._models = models
        self._retry_policy = retry_policy
        # Constants of the class, which an instance may have otherwise.
        if probe_cache_ttl is not None:
            self.PROBE_CACHE_TTL_SECONDS = probe_cache_ttl  # pyright: ignore[reportConstantRedefinition]
        if probe_cache_max_entries is not None:
            self.PROBE_CACHE_MAX_ENTRIES = probe_cache_max_entries  # pyright: ignore[reportConstantRedefinition]

    @abstractmethod
    def submit(self, step: Step, config: RunnableConfig | None = None) -> Any:
        """Start the job; return its id, or a `SubmitResult`."""

    @abstractmethod
    def poll(self, prediction_id: Any, config: RunnableConfig | None = None) -> bool:
        """Return whether the job is over; raise when it failed."""

    @abstractmethod
    def fetch_output(self, prediction_id: Any, step: Step) -> Step:
        """Add the outputs of a finished job to the step and return it."""

    def poll_progress(self, prediction_id: Any) -> Mapping[str, Any] | None:
        """Return `progress_pct`, `message` and `preview_url` of a running job, as far as known."""
        return None

    def cancel(self, prediction_id: Any) -> bool:
        """Ask the vendor to stop a job; True when it confirms. The default cannot."""
        return False

    def read_output(self, asset: Asset, step: Step) -> bytes | Path | None:
        """Return the bytes of an output that is in hand already; None: they are at `asset.url`."""
        return None

    def get_capabilities(self) -> ProviderCapabilities | None:
        """Return what the provider can do; None when nothing is declared."""
        return None

    def normalize_params(
        self, params: dict[str, Any], modality: Modality | None = None
    ) -> dict[str, Any]:
        """Return standard parameters under the vendor's names. Must be idempotent."""
        return params

    def preflight_auth(self, *, timeout: float = 5.0) -> None:
        """Raise `AuthError` when the key is certainly wrong.

        Called once per instance before the first submit, unless GENBLAZE_SKIP_PREFLIGHT is set.
        """
        return None

    def list_voices(self, *, model: str | None = None, language: str | None = None) -> list[Voice]:
        """Return the voices of a speech provider."""
        return []

    @classmethod
    def create_registry(cls) -> "ModelRegistry":
        """Return a new registry of the models this class knows."""
        from genblaze_dagster.providers.models import ModelRegistry

        return ModelRegistry()

    @classmethod
    def models_default(cls) -> "ModelRegistry":
        """Return the registry that instances of this class share."""
        if "_shared_models" not in cls.__dict__:
            cls._shared_models = cls.create_registry()
        return cls._shared_models

    _shared_models: "ClassVar[ModelRegistry]"

    @property
    def models(self) -> "ModelRegistry":
        """The registry of this instance."""
        return self._models if self._models is not None else self.models_default()

    def list_models(self) -> "list[ModelSpec]":
        """Return the models the registry knows by name."""
        return [self.models.get(model) for model in self.models.known()]

    def prepare_payload(
        self,
        step: Step,
        *,
        base_params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the vendor's parameters of a step: aliases, defaults and checks of its model.

        Raises:
            InvalidRequestError: names the parameter and the allowed values.
        """
        return self.models.prepare_payload(step, base_params=base_params)

    def discover_models(self, *, max_age_seconds: float | None = None) -> DiscoveryResult:
        """Ask the vendor which models there are. The default says that it cannot.

        A class that can says with `discovery_support` whether the list is complete.
        """
        return DiscoveryResult.unsupported(detail="the vendor has no list of models")

    def validate_model(self, model_id: str, *, refresh: bool = False) -> "ValidationResult":
        """Say whether there is such a model: the registry, the vendor's list, a probe.

        Answers of the vendor are kept for `PROBE_CACHE_TTL_SECONDS`; `refresh` asks anew. Blocks.
        """
        if self._checks is None:
            from genblaze_dagster.providers.model_checks import ModelChecks

            with self._making:
                self._checks = self._checks or ModelChecks(
                    self.models,
                    discover=self.discover_models,
                    support=self.discovery_support,
                    ttl=self.PROBE_CACHE_TTL_SECONDS,
                    max_entries=self.PROBE_CACHE_MAX_ENTRIES,
                )
        return self._checks.validate(model_id, refresh=refresh)

    def estimate_cost(
        self, model: str, params: Mapping[str, Any] | None = None, *, n: int = 1
    ) -> Decimal | None:
        """Return the expected price of `n` outputs in USD; None when unknown."""
        from genblaze_dagster.providers.pricing import estimate_cost

        return estimate_cost(self.models, model, params or {}, provider=self.name, n=n)

    def price(self, step: Step) -> float | None:
        """Return what a finished step cost by the registry, in USD; None when unknown.

        Asked when the provider has left `cost_usd` empty.
        """
        from genblaze_dagster.providers.pricing import compute_cost

        return compute_cost(self.models, step)

    @property
    def retry_policy(self) -> RetryPolicy:
        """The policy of this instance."""
        return self._retry_policy or RetryPolicy(max_attempts=self.poll_transient_retries + 1)

    def idempotency_headers(
        self, step: Step, headers: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Return the headers with the idempotency key of a step, if the class names a header.

        Every attempt of one generation has the same key, unless the policy's strategy says
        `uuid_per_attempt` or `none`.
        """
        merged = dict(headers or {})
        strategy = self.retry_policy.idempotency_key_strategy
        if self.IDEMPOTENCY_HEADER_NAME and strategy != "none":
            key = step.step_id if strategy == "step_id" else str(uuid.uuid4())
            merged.setdefault(self.IDEMPOTENCY_HEADER_NAME, key)
        return merged

    @property
    def calls(self) -> "Calls":
        """The blocking methods of this instance as coroutines; what is in flight is known there."""
        if self._own_calls is None:
            from genblaze_dagster.providers.calls import Calls

            with self._making:
                self._own_calls = self._own_calls or Calls(self)
        return self._own_calls

    def invoke(self, step: Step, config: RunnableConfig | None = None) -> Step:
        """Run a step to its end; see `ainvoke`. Blocks."""
        return run_sync(self.ainvoke(step, config))

    async def ainvoke(self, step: Step, config: RunnableConfig | None = None) -> Step:
        """Return a copy of the step with its outputs, or with status, error and error_code.

        A failure of the provider is never raised. After the timeout the step is failed at once,
        although a blocking call cannot be stopped: its answer is kept in this process, and invoking
        the same step again takes it instead of paying again. The job id is in
        `provider_payload["job_id"]`, outside the hash.

        Raises:
            ValueError: the config holds `tenant_id`, which belongs to the pipeline.
        """
        from genblaze_dagster.providers.invocation import Invocation

        return await Invocation.of(self, step, config).run()

    def resume(self, prediction_id: Any, step: Step, config: RunnableConfig | None = None) -> Step:
        """Wait for a job that was submitted before; see `aresume`. Blocks."""
        return run_sync(self.aresume(prediction_id, step, config))

    async def aresume(
        self, prediction_id: Any, step: Step, config: RunnableConfig | None = None
    ) -> Step:
        """Return a copy of the step with the outputs of a job that was submitted before."""
        from genblaze_dagster.providers.invocation import Invocation

        return await Invocation.of(self, step, config, prediction_id=prediction_id).run()


class SyncProvider(BaseProvider):
    """A vendor's API that answers a request with the result: implement `generate`.

    A `generate` that polls or downloads by itself sets `one_request = False`; better is to return
    the URL, which is downloaded by us.
    """

    _results: "OrderedDict[str, Step] | None" = None
    _results_lock: ClassVar[threading.Lock] = threading.Lock()

    @abstractmethod
    def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
        """Add the outputs to the step and return it."""

    def submit(self, step: Step, config: RunnableConfig | None = None) -> Any:
        """Generate; the result waits for `fetch_output` (the last 256 do)."""
        made = self.generate(step, config)
        with self._results_lock:
            if self._results is None:
                self._results = OrderedDict()
            self._results[step.step_id] = made
            while len(self._results) > _KEPT_SYNC_RESULTS:
                self._results.popitem(last=False)
        return SYNC_JOB

    def poll(self, prediction_id: Any, config: RunnableConfig | None = None) -> bool:
        """Return True: whoever has the id has the result."""
        return True

    def fetch_output(self, prediction_id: Any, step: Step) -> Step:
        """Return what `submit` generated for this step.

        Raises:
            OutputError: nothing was, in this process.
        """
        with self._results_lock:
            made = self._results.pop(step.step_id, None) if self._results else None
        if made is None:
            raise OutputError(
                f"{self.name}: nothing was generated for step {step.step_id} in this process; a "
                "provider that answers at once has no job to resume"
            )
        return made


def preflight_is_skipped() -> bool:
    """Whether GENBLAZE_SKIP_PREFLIGHT asks for no check before the first submit."""
    return os.environ.get(SKIP_PREFLIGHT, "").lower() not in ("", "0", "false")
