"""A provider written as in the genblaze guides, as a provider of our protocol.

The Runner, the ledger and the retries work on the protocol; whoever wrote `submit`, `poll` and
`fetch_output` over a `Step` gets all of them by `adapt`.
"""

import asyncio
import json
import logging
import shutil
import tempfile
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import ConfigError, InvalidRequestError, ProviderError
from genblaze_dagster.media.sniff import extension_for
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.base import BaseProvider, ProviderCapabilities, RunnableConfig
from genblaze_dagster.providers.calls import Calls
from genblaze_dagster.providers.exchange import result_of, step_of
from genblaze_dagster.providers.invocation import poll_interval
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobState,
    JobStatus,
    Provider,
    RateLimit,
    Result,
    Submission,
)
from genblaze_dagster.providers.validation import (
    ValidationOutcome,
    ValidationResult,
    ValidationSource,
)

_METHODS = {"submit", "poll", "fetch_output"}
_JSON_ID = "json:"
_OBJECT_ID = "object:"
_KEPT_OBJECTS = 4096
_LONGEST_URL = 8192
_log = logging.getLogger(__name__)


def adapt(provider: BaseProvider | Provider, *, max_concurrency: int | None = None) -> Provider:
    """Return a provider of our protocol that asks a guide-style one; others are returned as is.

    Args:
        provider: an instance of `BaseProvider` or `SyncProvider`, or of genblaze's own classes of
            these names.
        max_concurrency: how many of its blocking calls may run at once; 1 for a client that is not
            thread-safe. None leaves it to the `max_concurrency` of the run.

    Raises:
        ConfigError: it lacks a method, or has coroutines where blocking methods belong.
    """
    if isinstance(provider, Provider):
        return provider
    has = {name for name in _METHODS if callable(getattr(provider, name, None))}
    if has != _METHODS or not isinstance(getattr(provider, "name", None), str):
        raise ConfigError(
            f"a {type(provider).__name__} is no provider; derive from BaseProvider or SyncProvider, "
            "or give it all of genblaze_dagster.providers.Provider"
        )
    return AdaptedProvider(provider, max_concurrency=max_concurrency)


class AdaptedProvider:
    """The four calls of the protocol over the blocking methods of `provider`.

    Inputs without a public URL are written to temporary files for the time of the submit; `poll` and
    `fetch_output` see only the others. A job id
    that is neither text nor JSON works in this process only: nobody else can resume that job.
    """

    def __init__(self, provider: BaseProvider, *, max_concurrency: int | None = None) -> None:
        self.provider = provider
        self.name = provider.name
        self.version: str = getattr(provider, "version", "1")
        self.deduplicates: bool = getattr(provider, "deduplicates", False)
        account = getattr(provider, "account", None)
        if isinstance(account, str):
            # Only then is it a `HasAccount`.
            self.account = account
            self.rate_limit: RateLimit | None = getattr(provider, "rate_limit", None)
        shared = getattr(provider, "calls", None) if max_concurrency is None else None
        own = shared if isinstance(shared, Calls) else None
        self._calls = own or Calls(provider, max_concurrency=max_concurrency)
        self._objects: OrderedDict[str, Any] = OrderedDict()
        self._polling_since: OrderedDict[str, float] = OrderedDict()

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what the declared capabilities exclude.

        Raises:
            InvalidRequestError: the modality, or an input, is none that the provider takes.
        """
        declared = self.provider.get_capabilities()
        if declared is not None:
            _check_capabilities(request, declared, self.name)

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        """Return what the provider estimates; None when it cannot, or fails to."""
        count = request.params.get("n", 1)
        outputs = count if isinstance(count, int) and not isinstance(count, bool) else 1
        try:
            # Prices by the character need the prompt.
            params = {"prompt": request.prompt, **request.params}
            cost = self.provider.estimate_cost(request.model, params, n=outputs)
        except Exception as exc:
            _log.warning("%s: no estimate: %s", self.name, redact(repr(exc), max_chars=200))
            return None
        return None if cost is None else float(cost)

    def validate_model(self, model_id: str, *, refresh: bool = False) -> ValidationResult:
        """Say whether the provider has a model; may block while it asks the vendor."""
        found = self.provider.validate_model(model_id, refresh=refresh)
        # Of another package, perhaps, with the same values.
        return ValidationResult(
            ValidationOutcome(found.outcome.value),
            ValidationSource(found.source.value),
            family_name=found.family_name,
            detail=found.detail,
            suggested_slugs=tuple(found.suggested_slugs),
        )

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start the job, or do the whole call.

        Raises:
            ProviderError: `sent` is False only when certainly nothing left this machine.
        """
        urls, staged = await _readable_inputs(request)
        accepted = await self._calls.submit(
            self._step(request, urls),
            _config(request),
            done=staged.remove if staged is not None else None,
        )
        if accepted.step is not None:
            return Submission(result=await self._result(accepted.step, request))
        return Submission(
            job_id=self._to_text(accepted.prediction_id),
            estimated_seconds=accepted.estimated_seconds,
        )

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask once whether the job is over.

        Raises:
            ProviderError: the job failed, or the vendor could not be asked.
        """
        prediction_id, step = self._to_id(job_id), self._step(request)
        if await self._calls.poll(prediction_id, step, _config(request)):
            self._polling_since.pop(job_id, None)
            return JobStatus(JobState.SUCCEEDED, progress=1.0)
        known = await self._calls.progress(prediction_id)
        return JobStatus(
            JobState.RUNNING,
            progress=_share(known.get("progress_pct")),
            message=_text(known.get("message")),
            preview_url=_address(known.get("preview_url")),
            poll_after=self._pause(job_id),
        )

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the outputs of a job that is over.

        Raises:
            ProviderError: there are none, or they cannot be had.
        """
        made = await self._calls.fetch_output(self._to_id(job_id), self._step(request))
        return await self._result(made, request)

    async def cancel(self, job_id: str) -> bool:
        """Ask the vendor to stop the job; False when the provider cannot."""
        if job_id.startswith(_OBJECT_ID) and job_id not in self._objects:
            return False
        return await self._calls.cancel(self._to_id(job_id))

    async def aclose(self) -> None:
        """Do nothing: the provider belongs to who made it, and its open jobs are still known."""
        return None

    async def _result(self, made: Step, request: GenerationRequest) -> Result:
        asked = self._step(request)
        read = getattr(self.provider, "read_output", None)
        if read is None or getattr(read, "__func__", None) is BaseProvider.read_output:
            # To look at addresses takes less than handing them to a thread.
            return result_of(made, asked, self.provider)
        # Outputs in hand may be read from a disk. Not one of the provider's own calls, which may be
        # refused when too many hang: this one is paid for.
        return await asyncio.to_thread(result_of, made, asked, self.provider)

    def _step(self, request: GenerationRequest, urls: Mapping[str, str] | None = None) -> Step:
        if urls is None:
            urls = _public_urls(request)
        return step_of(request, self.provider, urls=urls)

    def _pause(self, job_id: str) -> float:
        now = time.monotonic()
        since = self._polling_since.setdefault(job_id, now)
        if len(self._polling_since) > _KEPT_OBJECTS:
            self._polling_since.popitem(last=False)
        first: float = getattr(self.provider, "poll_interval", 1.0)
        return poll_interval(now - since, first_seconds=first)

    def _to_text(self, prediction_id: Any) -> str:
        """Return a job id as the ledger keeps it."""
        if isinstance(prediction_id, str) and not prediction_id.startswith((_JSON_ID, _OBJECT_ID)):
            return prediction_id
        try:
            text = json.dumps(prediction_id)
            if json.loads(text) == prediction_id:
                return _JSON_ID + text
        except (TypeError, ValueError, RecursionError):
            # An object of the vendor's SDK.
            pass
        name = f"{_OBJECT_ID}{uuid.uuid4()}"
        self._objects[name] = prediction_id
        if len(self._objects) > _KEPT_OBJECTS:
            self._objects.popitem(last=False)
        return name

    def _to_id(self, job_id: str) -> Any:
        if job_id.startswith(_JSON_ID):
            return json.loads(job_id.removeprefix(_JSON_ID))
        if not job_id.startswith(_OBJECT_ID):
            return job_id
        if job_id not in self._objects:
            # Not an InvalidRequestError, which would say that the job is over.
            raise ProviderError(
                f"{self.name}: the job was submitted by another process, and its id is an object "
                "only that one had; look it up at the vendor, and return ids as text from submit",
                provider=self.name,
            )
        return self._objects[job_id]


def _check_capabilities(
    request: GenerationRequest, declared: ProviderCapabilities, provider: str
) -> None:
    modalities = declared.supported_modalities
    if modalities is not None and request.modality not in modalities:
        raise InvalidRequestError(
            f"{provider} makes {', '.join(modalities) or 'nothing'}, not {request.modality}; "
            "change the step's modality or its provider",
            param="modality",
            provider=provider,
            model=request.model,
            sent=False,
        )
    if request.inputs and not declared.accepts_chain_input:
        raise InvalidRequestError(
            f"{provider} takes no inputs (accepts_chain_input is False); leave out input_from, "
            "external_inputs and chain for its steps",
            param="inputs",
            provider=provider,
            model=request.model,
            sent=False,
        )


def _config(request: GenerationRequest) -> RunnableConfig:
    return {"timeout": request.timeout}


def _public_urls(request: GenerationRequest) -> dict[str, str]:
    found = ((item.asset.asset_id, item.public_url()) for item in request.inputs)
    return {asset_id: url for asset_id, url in found if url is not None}


class _Staged:
    """A temporary folder, removed by `remove` or with the last reference to it.

    A call that its caller has left goes on reading; one that never ran reads nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._finalizer = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder; as a bound method it also keeps it there until then."""
        self._finalizer()


async def _readable_inputs(request: GenerationRequest) -> tuple[dict[str, str], _Staged | None]:
    """Return where the provider can read each input, and what keeps the files there."""
    urls = _public_urls(request)
    hidden = [item for item in request.inputs if item.asset.asset_id not in urls]
    if not hidden:
        return urls, None
    staged = _Staged(Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="genblaze-inputs-")))
    for index, item in enumerate(hidden):
        path = staged.folder / f"{index}{extension_for(item.asset.media_type)}"
        await _write(item, path)
        urls[item.asset.asset_id] = path.as_uri()
    return urls, staged


async def _write(item: InputMedia, path: Path) -> None:
    file = await asyncio.to_thread(path.open, "wb")
    try:
        async for chunk in item.stream():
            await asyncio.to_thread(file.write, chunk)
    finally:
        file.close()


def _share(percent: object) -> float | None:
    """Return a progress as 0 to 1; vendors say 0.5 or 50."""
    if not isinstance(percent, int | float) or isinstance(percent, bool) or not percent >= 0:
        return None
    return min(percent if percent <= 1 else percent / 100, 1.0)


def _address(url: object) -> str | None:
    """Return what a browser can show; whoever watches opens it."""
    if not isinstance(url, str) or len(url) > _LONGEST_URL:
        return None
    return url if url.lower().startswith(("https://", "http://")) else None


def _text(message: object) -> str | None:
    return redact(message, max_chars=200) if isinstance(message, str) else None
