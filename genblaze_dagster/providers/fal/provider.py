"""fal: any model it hosts, each call a job in its queue.

API reference: https://docs.fal.ai. Requests equal those of the vendor's Python client,
`fal-client` 1.0.3; the members of the models are those of the types of `@fal-ai/client` 1.10.1.
Submit: `POST https://queue.fal.run/{model}`. Status: `GET .../requests/{id}/status`, every second.
Result: `GET .../requests/{id}`. Cancel: `PUT .../requests/{id}/cancel`. Cost unit: images,
megapixels, seconds, videos, characters or compute seconds; no answer tells the cost. List prices of
a few models as of November 2026 in `pricing`, `unit_price` asks for the rate of any; your contract
may differ: give your own.
Quirks: status, result and cancel drop all but owner and alias of the model, so the job id here is
the path that fal answered with; a failed run is COMPLETED like a good one, and its error is the
status of the result; a flagged picture comes with HTTP 200 and may be blanked. There is no
idempotency and no list of jobs: a submit that got no answer may run, and only fal's call back about
it tells its id; see `fal.callbacks`.
Unverified: how long outputs live without `output_lifetime`, the words of a locked account, what
`list_models` and `unit_price` answer (from the documentation only), and whether the queue still
hands out a result with `store_io=False`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, cast
from urllib.parse import urlencode

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    ContentPolicyError,
    InvalidRequestError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from genblaze_dagster.media.sniff import extension_for
from genblaze_dagster.net.client import HttpAnswer
from genblaze_dagster.providers.fal import audio, images, meshes, videos
from genblaze_dagster.providers.fal.callbacks import APP, FalCallbacks
from genblaze_dagster.providers.fal.endpoints import NEEDS, OURS
from genblaze_dagster.providers.fal.jobs import (
    NOTHING_TO_STOP,
    STATES,
    app_of,
    is_of_the_run,
    is_path,
    job_id_of,
    message_of,
    path_of,
)
from genblaze_dagster.providers.fal.media import members_of, written
from genblaze_dagster.providers.fal.options import check_options, submit_headers
from genblaze_dagster.providers.fal.results import facts_of, is_flagged, numbers_of, outputs_of
from genblaze_dagster.providers.fal.uploads import Storage
from genblaze_dagster.providers.fal.vendor import (
    BACKUP_URL,
    CANCELLED,
    FAL,
    JOBS,
    PLATFORM_URL,
    SYNC_URL,
    FalApi,
)
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobState,
    JobStatus,
    Result,
    Submission,
)
from genblaze_dagster.providers.validation import DiscoverySupport
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import json_object
from genblaze_dagster.providers.vendor.callbacks import Callback, Delivery
from genblaze_dagster.providers.vendor.called_back import CalledBackProvider
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

POLL_SECONDS = 1.0

_MODEL = re.compile(r"\w[\w.-]*(/\w[\w.-]*)+")
_MOST_PAGES = 1000


class FalProvider(CalledBackProvider):
    """fal's models: images, upscaling, background removal, video, speech, music, transcripts, 3D.

    The model is fal's id, such as `fal-ai/flux/schnell`. Models of a family are checked member by
    member; any other gets the parameters as they are. An input goes into the member that
    its metadata's `field` names, else into the usual one of its kind (`image_url`, `audio_url`,
    `video_url`; `role: last_frame` where a model has one); a member whose name ends in s gets a
    list. It goes as a URL where the store has one, as a data URI when it is small, else it is
    uploaded, where **anyone who knows the URL can read it** unless the account says otherwise. Steps
    that make 3D models have the modality `image`.

    Args as of `CalledBackProvider`, and:
        sync: call the model directly and wait, past the queue: a lost answer is lost for good.
        priority: of the queue.
        start_timeout: seconds after which fal gives up a job that has not started.
        runner_hint: jobs with the same hint go to the same runner where that can be.
        webhook_url: fal posts the result there, and not to `callbacks`.
        output_lifetime: seconds that outputs are kept; unless given, the account decides.
        store_io: False: fal keeps neither the input nor the output of the job.
        vendor_retries: False: fal does not try a failed run again by itself.
        fail_flagged: fail a step when fal's checker flagged one of its pictures. They are recorded
            as flagged anyway.
        logs: show the last line of the model's log while a job runs.
        backup_domain: when `queue.fal.run` cannot be reached, go to `queue.falrun.com`, fal's other
            domain, with the key.
    """

    name = "fal"
    vendor = FAL
    traits = Traits(
        makes=(
            "image",
            "image edit",
            "upscaling",
            "background removal",
            "video",
            "speech",
            "music",
            "transcription",
            "word timings",
            "3D",
        ),
        modalities=(Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.TEXT),
        inputs=(InputForm.URL, InputForm.DATA, InputForm.UPLOAD),
        cancels=True,
        webhooks=True,
    )
    families = (*images.FAMILIES, *meshes.FAMILIES, *videos.FAMILIES, *audio.FAMILIES)
    discovery_support = DiscoverySupport.PARTIAL

    def __init__(
        self,
        api_key: str | None = None,
        *,
        sync: bool = False,
        priority: Literal["normal", "low"] | None = None,
        start_timeout: float | None = None,
        runner_hint: str | None = None,
        webhook_url: str | None = None,
        output_lifetime: int | None = None,
        store_io: bool = True,
        vendor_retries: bool = True,
        fail_flagged: bool = False,
        logs: bool = False,
        backup_domain: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(api_key, **options)
        own = {"base_url": options.get("base_url"), "client": options.get("client")}
        self.api = FalApi(FAL, api_key=api_key, **own)
        self._jobs = FalApi(JOBS, api_key=api_key, **own)
        self._storage = Storage(self._jobs, self.clock)
        self._calls = FalCallbacks(own["client"])
        check_options(priority, start_timeout, webhook_url, output_lifetime, sync)
        self._sync = sync
        self._webhook_url = webhook_url
        self._lifetime = None if output_lifetime is None else timedelta(seconds=output_lifetime)
        self._fail_flagged = fail_flagged
        self._logs = logs
        self._backup_domain = backup_domain
        self._submit_headers = submit_headers(
            priority=priority,
            start_timeout=start_timeout,
            runner_hint=runner_hint,
            output_lifetime=output_lifetime,
            store_io=store_io,
            vendor_retries=vendor_retries,
        )

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse what is no model of fal's, another modality, and inputs the model cannot take."""
        if _MODEL.fullmatch(request.model) is None:
            raise self.unknown_model(
                request, "the model is no id such as fal-ai/flux/schnell, owner and alias"
            )
        spec = self.models.get(request.model)
        if spec.modality not in (None, request.modality):
            raise self.refusal(
                "modality",
                f"{request.model} makes {spec.modality.value}, not {request.modality.value}",
                request,
            )
        members = {*payload, *members_of(request, spec, payload)}
        needs = spec.extras.get(NEEDS, ())
        if needs and not members.intersection(needs):
            raise self.refusal(
                needs[0], f"{request.model} needs {' or '.join(needs)}, or such an input", request
            )

    def outputs_of(self, payload: Mapping[str, Any]) -> int:
        """Return how many pictures a payload asks for; one output where it does not say."""
        wanted = payload.get("num_images")
        return wanted if isinstance(wanted, int) else 1

    async def submit(self, request: GenerationRequest) -> Submission:
        """Put a job into the queue, or make the whole call with `sync`.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous: fal cannot be asked.
        """
        body = await self._body(request)
        model = self.model_of(request)
        if self._sync:
            return Submission(result=await self._made(request, model, body))
        address = self._webhook_url or self.callback_address(request)
        answer = await self._queue(
            self.api,
            "POST",
            f"/{model}",
            request_of=request,
            json=body,
            params=None if address is None else {"fal_webhook": address},
            headers=self._submit_headers,
        )
        return self.job_started(
            request, {"id": job_id_of(json_object(answer, self.name, request), model)}
        )

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the job once; of one that is over, also for its result, which may be an error."""
        path = self._path(job_id, request)
        answer = await self._queue(
            self._jobs,
            "GET",
            f"/{path}/status",
            request_of=request,
            params={"logs": "true" if self._logs else "false"},
        )
        status = json_object(answer, self.name, request)
        # A state nobody knows yet is waited out; the step's own timeout ends it.
        state = STATES.get(str(status.get("status")), JobState.RUNNING)
        if state is not JobState.SUCCEEDED:
            message = message_of(status, request)
            return JobStatus(state, message=message, poll_after=POLL_SECONDS)
        try:
            result = await self._result_of(path, request)
        except ProviderError as exc:
            if not is_of_the_run(exc):
                raise
            ended = JobState.CANCELLED if exc.vendor_code == CANCELLED else JobState.FAILED
            return JobStatus(ended, message=exc.vendor_code, error=exc)
        self.remember(job_id, {"result": result, "metrics": status.get("metrics")})
        return JobStatus(state)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the outputs of a finished job.

        Raises:
            ContentPolicyError: a picture was flagged, with `fail_flagged`.
            OutputError: the result holds no file.
        """
        path = self._path(job_id, request)
        kept = self.remembered(job_id) or {"result": await self._result_of(path, request)}
        return self._read(
            request, kept["result"], path.rpartition("/")[2], metrics=kept.get("metrics")
        )

    async def cancel(self, job_id: str) -> bool:
        """Ask fal to stop a job; False when it is over, or when only its bare id is known."""
        if not is_path(job_id):
            return False
        try:
            answer = await self._queue(self._jobs, "PUT", f"/{job_id}/cancel")
        except InvalidRequestError as exc:
            if exc.vendor_code in NOTHING_TO_STOP:
                return False
            raise
        return json_object(answer, self.name).get("status") == "CANCELLATION_REQUESTED"

    def callback_address(self, request: GenerationRequest) -> str | None:
        """Return where fal calls about a request; with it what a call leaves out of the job id."""
        address = super().callback_address(request)
        return address and f"{address}&{urlencode({APP: app_of(self.model_of(request))})}"

    async def callback_of(self, delivery: Delivery, *, now: datetime) -> Callback:
        """Check fal's signature of a call and return what it tells."""
        return await self._calls.read(delivery, now)

    async def upload(self, item: InputMedia) -> str:
        """Upload an input and return its URL, which is public."""
        data = await inputs.read(self.name, item)
        name = inputs.file_name(item)
        if not (name.isascii() and name.isprintable()):
            name = "input" + extension_for(item.asset.media_type)
        return await self._storage.put(data, media_type=item.asset.media_type, name=name)

    async def list_models(self) -> Iterable[str]:
        """Return the ids of all models fal lists; private ones and workflows are not among them."""
        found: list[str] = []
        query: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = await self._jobs.document("GET", f"{PLATFORM_URL}/models", params=query or None)
            models = cast(list[Mapping[str, Any]], page.get("models") or [])
            found += [str(model["endpoint_id"]) for model in models if "endpoint_id" in model]
            cursor = page.get("next_cursor")
            if not page.get("has_more") or not isinstance(cursor, str):
                break
            query["cursor"] = cursor
        return found

    async def unit_price(self, model: str) -> Mapping[str, Any] | None:
        """Return what fal says a model costs: `unit_price`, `unit`, `currency`; None when it does not."""
        answer = await self._jobs.document(
            "GET", f"{PLATFORM_URL}/models/pricing", params={"endpoint_id": model}
        )
        prices = cast(list[Mapping[str, Any]], answer.get("prices") or [])
        return next((price for price in prices if price.get("endpoint_id") == model), None)

    async def _queue(self, api: FalApi, method: str, path: str, **options: Any) -> HttpAnswer:
        try:
            return await api.call(method, path, **options)
        except (ProviderUnavailableError, ProviderTimeoutError) as exc:
            # Only what certainly did not arrive may be sent again.
            if exc.sent is not False or not self._backup_domain:
                raise
        return await api.call(method, BACKUP_URL + path, **options)

    async def _made(self, request: GenerationRequest, model: str, body: object) -> Result:
        answer = await self.api.call(
            "POST",
            f"{SYNC_URL}/{model}",
            request_of=request,
            json=body,
            headers=self._submit_headers,
            seconds=request.timeout,
        )
        result = json_object(answer, self.name, request)
        return self._read(request, result, answer.headers.get("x-fal-request-id"))

    async def _result_of(self, path: str, request: GenerationRequest) -> dict[str, Any]:
        answer = await self._queue(self._jobs, "GET", f"/{path}", request_of=request)
        return json_object(answer, self.name, request)

    def _read(
        self,
        request: GenerationRequest,
        result: Mapping[str, Any],
        request_id: str | None,
        *,
        metrics: object = None,
    ) -> Result:
        native = self.payload(request)
        if self._fail_flagged and is_flagged(result):
            raise ContentPolicyError(
                f"fal {request.model}: fal's checker flagged an output, which may be blanked; "
                "change the prompt, or leave fail_flagged out",
                provider=self.name,
                model=request.model,
                request_id=request_id,
            )
        ours = self.models.get(request.model).extras.get(OURS, ())
        form = native.get("output_format") if "output_format" in ours else None
        by_word = native.get("chunk_level") == "word"
        outputs = outputs_of(result, request.modality, form=form, by_word=by_word)
        if not outputs:
            wanted = f" in the format {form}" if form is not None else ""
            raise self.no_output(request, f"the result holds no file{wanted}")
        if self._lifetime is not None:
            expires = self.clock() + self._lifetime
            outputs = tuple(
                replace(output, expires_at=expires) if output.url else output for output in outputs
            )
        facts = facts_of(result, by_word=by_word)
        if request_id is not None:
            facts["request_id"] = request_id
        if seconds := numbers_of(metrics):
            facts["metrics"] = seconds
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, facts),
            provider_payload=facts,
        )

    async def _body(self, request: GenerationRequest) -> dict[str, Any]:
        spec, native = self.models.get(request.model), self.payload(request)
        ours = spec.extras.get(OURS, ())
        body = {name: value for name, value in native.items() if name not in ours}
        return body | await written(members_of(request, spec, native), self.upload)

    def _path(self, job_id: str, request: GenerationRequest) -> str:
        path = path_of(job_id, self.model_of(request))
        if path is None:
            raise self.refusal("job_id", "the job id is no owner/alias/requests/id", request)
        return path
