"""The job protocol of NVIDIA's hosted models, the same for pictures, video and sound.

`POST` to the model: 200 is the result; 202 with the header `NVCF-REQID` a job, asked for with
`GET https://api.nvcf.nvidia.com/v2/nvcf/pexec/status/{id}` and the same key until it is not 202; 302
is a large result at a signed address of another host, which must not see the key. A 4xx or 5xx of
the status call is the job's end, unless nothing says that it comes from the job.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from genblaze_dagster.errors import (
    ConfigError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    ProviderUnavailableError,
)
from genblaze_dagster.net.client import HttpAnswer
from genblaze_dagster.providers.nvidia.assets import Attachments
from genblaze_dagster.providers.nvidia.results import (
    FILTERED,
    Files,
    UnreadableError,
    read_files,
)
from genblaze_dagster.providers.nvidia.vendor import NVIDIA, OVER, REQUEST_ID, STATUS, STATUS_URL
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.retry import is_ambiguous
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.errors import Refusal, job_error
from genblaze_dagster.providers.vendor.provider import VendorProvider

LONGEST_HOLD_SECONDS = 300

# It becomes part of an address.
_MODEL = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)
_GONE = (ContentPolicyError, InvalidRequestError, ModelError, OutputError)
_PENDING = "pending-evaluation"


class NvidiaProvider(VendorProvider):
    """What NVIDIA's providers share.

    Args as of `VendorProvider`, and:
        hold_seconds: how long the gateway keeps a submit open before it gives a job to poll, 1 to
            300; a few seconds when left out.
    """

    vendor = NVIDIA
    poll_seconds: ClassVar[float]

    def __init__(
        self, api_key: str | None = None, *, hold_seconds: int | None = None, **options: Any
    ) -> None:
        super().__init__(api_key, **options)
        if hold_seconds is not None and not 1 <= hold_seconds <= LONGEST_HOLD_SECONDS:
            raise ConfigError(
                f"{self.name}: hold_seconds is {hold_seconds}; give 1 to {LONGEST_HOLD_SECONDS}"
            )
        self._hold_seconds = hold_seconds

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse what cannot be a model's name, and inputs the model does not take."""
        if _MODEL.fullmatch(request.model) is None:
            raise self.unknown_model(
                request, "the model is no name such as owner/model; see build.nvidia.com"
            )
        self.check_media(request, payload)

    def check_media(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs by what the model's family says it takes: `inputs` and `needs_input`."""
        extras = self.models.get(request.model).extras
        kinds: tuple[str, ...] = extras.get("inputs", ("image", "video", "audio"))
        if request.inputs and not kinds:
            raise self.refusal(
                "inputs", f"{request.model} takes no inputs; leave them out", request
            )
        inputs.check_inputs(self.name, request.inputs, at_most=1)
        for item in request.inputs:
            kind = item.asset.media_type.partition("/")[0]
            if kind not in kinds:
                raise self.refusal(
                    "inputs",
                    f"an input of type {item.asset.media_type}; {request.model} takes "
                    f"{' or '.join(kinds)}",
                    request,
                )
            if self.field_of(request, kind) in payload:
                raise self.refusal(kind, f"{kind} stands beside an input; give one", request)
        field = extras.get("needs_input")
        if field is not None and not request.inputs and field not in payload:
            raise self.refusal("inputs", f"{request.model} works on an {field}; give one", request)

    def field_of(self, request: GenerationRequest, kind: str) -> str:
        """Return the field of the body that holds an input of a kind."""
        return kind

    def path(self, request: GenerationRequest) -> str:
        """Return the path of a model."""
        return f"/genai/{self.model_of(request)}"

    async def body(self, request: GenerationRequest, attached: Attachments) -> dict[str, Any]:
        """Return the body of a submit."""
        fields = self.payload(request)
        for item in request.inputs:
            kind = item.asset.media_type.partition("/")[0]
            fields[self.field_of(request, kind)] = await attached.value(item)
        return fields

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start a job, or make the result when the gateway answers with it.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous: NVIDIA cannot be asked.
        """
        attached = Attachments(self.api)
        try:
            answer = await self._asked(request, attached)
        except ProviderError as exc:
            if not is_ambiguous(exc):
                await attached.discard()
            raise
        if _is_result(answer):
            await attached.discard()
        return self.submission(request, answer)

    async def _asked(self, request: GenerationRequest, attached: Attachments) -> HttpAnswer:
        body = await self.body(request, attached)
        headers = dict(attached.headers)
        if self._hold_seconds is not None:
            headers["nvcf-poll-seconds"] = str(self._hold_seconds)
        return await self.api.call(
            "POST",
            self.path(request),
            request_of=request,
            json=body,
            headers=headers,
            seconds=request.timeout,
        )

    def submission(self, request: GenerationRequest, answer: HttpAnswer) -> Submission:
        """Return what the answer to a submit means.

        Raises:
            ProviderError: it holds neither a result nor the id of a job.
        """
        job_id = answer.headers.get(REQUEST_ID)
        if _is_result(answer):
            return Submission(result=self._result(request, answer, job_id))
        if not job_id:
            raise ProviderUnavailableError(
                f"{self.name} {request.model}: the answer names no job (HTTP {answer.status})",
                provider=self.name,
                model=request.model,
                http_status=answer.status,
                sent=None,
            )
        if answer.status != 202:
            self.remember(job_id, self._finished(request, answer, job_id))
        return Submission(job_id=job_id)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the job once; the HTTP status is its state."""
        record = self.remembered(job_id)
        if record is None:
            try:
                answer = await self._status(job_id, request)
                if answer.status == 202:
                    return self._pending(answer)
                record = self._finished(request, answer, job_id)
            except ProviderError as exc:
                if exc.vendor_code not in OVER and not isinstance(exc, _GONE):
                    raise
                return JobStatus(JobState.FAILED, message=exc.vendor_code, error=exc)
        self.remember(job_id, record)
        return JobStatus(JobState.SUCCEEDED)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the outputs of a succeeded job."""
        record = self.remembered(job_id)
        if record is None:
            answer = await self._status(job_id, request)
            record = self._finished(request, answer, job_id)
        if "result" in record:
            return record["result"]
        return self._result(request, await self._large(record["location"], request), job_id)

    def _pending(self, answer: HttpAnswer) -> JobStatus:
        is_queued = answer.headers.get(STATUS) == _PENDING
        return JobStatus(
            JobState.QUEUED if is_queued else JobState.RUNNING,
            progress=_progress(answer.headers.get("nvcf-percent-complete")),
            poll_after=self.poll_seconds,
        )

    def _finished(
        self, request: GenerationRequest, answer: HttpAnswer, job_id: str
    ) -> Mapping[str, Any]:
        """Return the last word about a job: its result, or where it lies."""
        if _is_result(answer):
            return {"result": self._result(request, answer, job_id)}
        location = answer.headers.get("location")
        if answer.status == 202 or not location:
            raise self.no_output(request, f"the job holds no result (HTTP {answer.status})")
        return {"location": location}

    async def _status(self, job_id: str, request: GenerationRequest) -> HttpAnswer:
        return await self.api.call(
            "GET", STATUS_URL + job_id, request_of=request, seconds=request.timeout
        )

    async def _large(self, location: str, request: GenerationRequest) -> HttpAnswer:
        """Download a result from where it lies, without the key."""
        try:
            return await self.api.call("GET", location, with_key=False, seconds=request.timeout)
        except ProviderError as exc:
            if exc.http_status is None:
                raise
            # The signature has run out, or the store has a hiccup: asking again gives a new one.
            raise ProviderUnavailableError(
                f"{self.name} {request.model}: the result cannot be downloaded "
                f"(HTTP {exc.http_status})",
                provider=self.name,
                model=request.model,
                http_status=exc.http_status,
            ) from exc

    def _result(
        self, request: GenerationRequest, answer: HttpAnswer, request_id: str | None
    ) -> Result:
        try:
            files = read_files(answer)
        except UnreadableError as exc:
            raise self.no_output(request, str(exc)) from exc
        if not files.data:
            raise job_error(self.name, _why_none(files.reasons), request)
        outputs = tuple(Output(data=data) for data in files.data)
        payload = _facts(files, request_id)
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, payload),
            provider_payload=payload,
        )


def _is_result(answer: HttpAnswer) -> bool:
    return answer.status < 300 and answer.status != 202


def _why_none(reasons: list[str]) -> Refusal:
    if FILTERED in reasons:
        return Refusal("the output was filtered", code=FILTERED, kind=ContentPolicyError)
    return Refusal("the model made nothing", code=reasons[0], kind=ModelError, transient=True)


def _facts(files: Files, request_id: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if request_id:
        facts["request_id"] = request_id
    if files.seeds:
        facts["seed"] = files.seeds[0] if len(files.seeds) == 1 else files.seeds
    if files.reasons:
        facts["missing"] = files.reasons
    if files.revised_prompt:
        facts["revised_prompt"] = files.revised_prompt
    return facts


def _progress(percent: str | None) -> float | None:
    try:
        done = float(percent or "") / 100
    except ValueError:
        return None
    return done if 0 <= done <= 1 else None
