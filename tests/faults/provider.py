"""The provider of the vendor simulator: written as those of real vendors are."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.net.client import HttpAnswer, Timeouts, request
from genblaze_dagster.net.retry_after import parse_retry_after
from genblaze_dagster.providers.protocol import (
    FoundJobs,
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.vendor.callbacks import Callback
from tests.faults.vendor import MEDIA_HOST

NAME = "simulated"
ONE_CALL_MODEL = "one-call"
JOB_MODEL = "job"

_STATES = {state.value: state for state in JobState}
_BY_STATUS: Mapping[int, type[ProviderError]] = {
    401: AuthError,
    403: AuthError,
    404: ModelError,
    408: ProviderTimeoutError,
    410: ModelError,
    429: RateLimitError,
    504: ProviderTimeoutError,
}


class SimulatedVendor:
    """Images by job (`model="job"`) or in one call (`model="one-call"`).

    Args:
        url: where the account is, `http://127.0.0.1:port/account`.
        api_key: sent with every request.
        price: what a generation is said to cost, USD; None says nothing.
        deduplicates: whether the vendor bills a repeated submit once.
        answer_timeout: how long one answer may take, seconds.
        callbacks: where the vendor calls back; it signs nothing.
    """

    name = NAME
    version = "1"
    proves_callbacks = False

    def __init__(
        self,
        url: str,
        *,
        api_key: str,
        price: float | None,
        deduplicates: bool = False,
        answer_timeout: float = 5.0,
        callbacks: CallbackEndpoint | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._account_path = self._url.rpartition("/")[2]
        self._api_key = api_key
        self._price = price
        self.deduplicates = deduplicates
        self._answer_timeout = answer_timeout
        self._callbacks = callbacks

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what is no image."""
        if request.modality is not Modality.IMAGE:
            raise InvalidRequestError(f"{NAME} makes images only", param="modality", sent=False)

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        """Return the price."""
        return self._price

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start the job, or make the image in one call."""
        one_call = request.model == ONE_CALL_MODEL
        wanted = {"model": request.model, "prompt": request.prompt, "seed": request.seed}
        if self._callbacks is not None:
            wanted["callback"] = self._callbacks.address(NAME, request.idempotency_key)
        answer = await self._call(
            "POST", "images" if one_call else "jobs", json=wanted, key=request.idempotency_key
        )
        body = _body(answer)
        if not isinstance(body.get("id"), str):
            # The request was taken; whether the job was, nobody can say.
            raise OutputError(f"{NAME}: the answer to a submit names no job", sent=None)
        if not one_call:
            return Submission(job_id=body["id"])
        data = base64.b64decode(body["b64_json"])
        output = Output(data=data, media_type="image/png")
        return Submission(result=Result((output,), cost_usd=body.get("cost_usd")))

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the job's state once."""
        body = _body(await self._call("GET", f"jobs/{job_id}"))
        state = _STATES.get(str(body.get("status")), JobState.RUNNING)
        error = None
        if state is JobState.FAILED:
            error = ModelError(f"{NAME} {request.model}: {body['error']['message']}")
        return JobStatus(state, poll_after=0.03, error=error)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the signed URL of the media."""
        body = _body(await self._call("GET", f"jobs/{job_id}/output"))
        output = Output(
            url=f"https://{MEDIA_HOST}{body['path']}",
            media_type="image/png",
            expires_at=datetime.fromtimestamp(body["expires"], UTC),
        )
        return Result((output,), cost_usd=body.get("cost_usd"), model_version="1")

    async def read_callback(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: datetime,
        query: Mapping[str, str] | None = None,
    ) -> Callback:
        """Return the job that the vendor names."""
        job_id = json.loads(body)["id"]
        return Callback(NAME, f"call-{job_id}", job_id, None)

    async def cancel(self, job_id: str) -> bool:
        """Ask the vendor to stop; it says no when the job is over."""
        try:
            await self._call("POST", f"jobs/{job_id}/cancel")
        except (ProviderUnavailableError, InvalidRequestError):
            return False
        return True

    async def aclose(self) -> None:
        """Do nothing: the client belongs to the process."""

    async def _call(
        self, method: str, path: str, *, json: object = None, key: str | None = None
    ) -> HttpAnswer:
        headers = {"authorization": f"Bearer {self._api_key}"}
        if key is not None:
            headers["idempotency-key"] = key
        answer = await request(
            method,
            f"{self._url}/{path}",
            provider=NAME,
            headers=headers,
            json=json,
            timeouts=Timeouts(connect=5.0, read=self._answer_timeout, write=5.0, pool=30.0),
        )
        if answer.status >= 300:
            raise _error(answer, is_submit=key is not None)
        return answer


class ListingVendor(SimulatedVendor):
    """The same with a list of jobs, in which a lost one is found by prompt and time."""

    async def find_jobs(self, request: GenerationRequest, *, since: datetime) -> FoundJobs:
        """Return the jobs of this prompt; the list is complete."""
        asked = urlencode({"since": since.timestamp()})
        listed = _body(await self._call("GET", f"jobs?{asked}"))["jobs"]
        found = tuple(job["id"] for job in listed if job["prompt"] == request.prompt)
        return FoundJobs(found, is_complete=True)


def _body(answer: HttpAnswer) -> dict[str, Any]:
    """Read a 200; one that holds an error is a refusal all the same."""
    try:
        body = answer.json()
    except ValueError as exc:
        raise OutputError(f"{NAME}: the answer is not JSON", http_status=200, sent=None) from exc
    if not isinstance(body, dict):
        raise OutputError(f"{NAME}: the answer is no object", http_status=200, sent=None)
    if "status" not in body and isinstance(body.get("error"), dict):
        raise ModelError(f"{NAME}: {body['error'].get('message')}", http_status=200)
    return body


def _error(answer: HttpAnswer, *, is_submit: bool) -> ProviderError:
    kind = _BY_STATUS.get(answer.status)
    if answer.status == 404 and not is_submit:
        # Lists and states of this vendor lag behind its jobs.
        kind = ProviderUnavailableError
    if kind is None:
        kind = ProviderUnavailableError if answer.status >= 500 else InvalidRequestError
    return kind(
        f"{NAME}: HTTP {answer.status}",
        provider=NAME,
        http_status=answer.status,
        retry_after=parse_retry_after(answer.headers),
        # After a 5xx a submit may have been taken.
        sent=None if answer.status >= 500 else True,
    )
