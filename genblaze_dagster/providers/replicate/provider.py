"""Replicate: any model there is, each call a prediction that is polled.

API reference: https://replicate.com/docs/reference/http. Requests equal those of the vendor's Python
clients 1.0.7 and 2.0.0b4.
Submit: `POST /models/{owner}/{name}/predictions` for `owner/name`, `POST /predictions` with a
version for `owner/name:version` and for bare versions. Poll: `GET /predictions/{id}`. Cancel:
`POST /predictions/{id}/cancel`. Cost unit: seconds of hardware, or pictures, seconds, tokens; the
answer tells at most the seconds. List prices of a few official models as of 2026 in `pricing`; your
contract may differ: give your own.
Quirks: community models without a version answer 404 unless `unified=True`; with `wait` a finished
prediction comes back as `processing` with its output filled in; `canceled` has one l, and `aborted`
is in no client's list; outputs are deleted after one hour. A prediction that got no answer may run:
nothing is sent again, and only Replicate's call back about it tells its id. Such calls have a
Standard Webhooks signature (https://replicate.com/docs/topics/webhooks/verify-webhook) with the
secret of the account: `GET /webhooks/default/secret`. Unverified: what a failure's words mean, but
for NSFW and the E codes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import AuthError, ConfigError, ModelError, OutputError, QuotaError
from genblaze_dagster.net.webhooks import signing_key
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobState,
    JobStatus,
    Result,
    Submission,
)
from genblaze_dagster.providers.replicate.predictions import (
    CANCELLED,
    STATES,
    failure_of,
    outputs_of,
    read_error,
    told_of,
)
from genblaze_dagster.providers.replicate.pricing import FAMILIES
from genblaze_dagster.providers.validation import ValidationResult, ValidationSource
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.callbacks import Callback, Delivery, webhook_key
from genblaze_dagster.providers.vendor.called_back import CalledBackProvider
from genblaze_dagster.providers.vendor.errors import ErrorRules, Refusal, nothing_submitted
from genblaze_dagster.providers.vendor.fetched_keys import FetchedKeys
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

OUTPUT_LIFETIME = timedelta(hours=1)
SECRET_VARIABLE = "REPLICATE_WEBHOOK_SIGNING_SECRET"  # noqa: S105 - the name of a secret

_VERSION = re.compile(r"[0-9a-f]{64}")
_REFERENCE = re.compile(r"[\w.-]+/[\w.-]+(:[0-9a-f]{64})?")
_MAX_DATA_BYTES = 256_000
_KINDS = ("image", "video", "audio")
_ENDED = {"failed": JobState.FAILED, **dict.fromkeys(CANCELLED, JobState.CANCELLED)}


class ReplicateProvider(CalledBackProvider):
    """Replicate's models.

    The model is `owner/name`, `owner/name:version` or a version. Parameters are the model's own
    inputs and go as they are; the prompt is `prompt`, the seed `seed`. An input file goes into the
    field that its metadata's `field` names, else into `image`, `video` or `audio`; several of one
    field go as a list. Small files without a URL go as data URIs, others are uploaded.

    Args as of `CalledBackProvider`, and:
        wait: keep the submit open until the prediction is done, at most so many seconds (1 to 60;
            True leaves them to Replicate). The job's id is then known only after that time.
        cancel_after: seconds after which Replicate gives a prediction up, whoever has forgotten it.
        unified: send every model as a version to `POST /predictions`, as newer clients do; community
            models then need no version.
        webhook: Replicate posts the finished prediction there, and not to `callbacks`.
        webhook_secret: signs Replicate's calls; default: REPLICATE_WEBHOOK_SIGNING_SECRET, else
            Replicate is asked for it.
    """

    name = "replicate"
    vendor = Vendor(
        name="replicate",
        key_variables=("REPLICATE_API_TOKEN",),
        base_url="https://api.replicate.com/v1",
        base_url_variable="REPLICATE_BASE_URL",
        rules=ErrorRules(
            read=read_error,
            remedies={
                AuthError: "check REPLICATE_API_TOKEN",
                QuotaError: "buy credit",
                ModelError: "check owner/name; a community model needs its version or unified=True",
            },
        ),
    )
    traits = Traits(
        makes=("image", "video", "audio", "text"),
        modalities=(Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.TEXT),
        inputs=(InputForm.URL, InputForm.DATA, InputForm.UPLOAD),
        cancels=True,
        webhooks=True,
        output_lifetime_hours=1,
    )
    families = FAMILIES

    def __init__(
        self,
        api_key: str | None = None,
        *,
        wait: int | bool | None = None,
        cancel_after: int | None = None,
        unified: bool = False,
        webhook: str | None = None,
        webhook_secret: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(api_key, **options)
        if webhook is not None and not webhook.startswith("https://"):
            raise ConfigError("replicate: webhook must be an https address")
        if wait is not None and not isinstance(wait, bool) and not 1 <= wait <= 60:
            raise ConfigError(f"replicate: wait is {wait}; give 1 to 60 seconds, or True")
        self._wait = wait
        self._cancel_after = cancel_after
        self._unified = unified
        self._webhook = webhook
        self._webhook_secret = webhook_secret
        self._secrets = FetchedKeys(self._fetch_secret)

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse what is no reference to a model, and an input beside a parameter of its field."""
        if not (_REFERENCE.fullmatch(request.model) or _VERSION.fullmatch(request.model)):
            raise self.unknown_model(
                request,
                "the model is no owner/name, owner/name:version or version of 64 hex digits",
            )
        for field in map(self._field_of, request.inputs):
            if field in payload:
                raise self.refusal(
                    field, f"{field} is given both as a parameter and as an input", request
                )

    def outputs_of(self, payload: Mapping[str, Any]) -> int:
        """Return how many outputs a payload asks for; one where it does not say."""
        wanted = payload.get("num_outputs")
        return wanted if isinstance(wanted, int) else 1

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start a prediction.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous: Replicate cannot be asked.
        """
        path, body = self._addressed(request.model)
        with nothing_submitted():
            body["input"] = {**self.payload(request), **await self._media(request)}
        if address := self._webhook or self.callback_address(request):
            body |= {"webhook": address, "webhook_events_filter": ["completed"]}
        prediction = await self.api.document(
            "POST",
            path,
            request_of=request,
            json=body,
            headers=self._preferences(),
            seconds=120.0,
        )
        started = self.job_started(request, prediction)
        if prediction.get("output") and prediction.get("status") == "succeeded":
            self.remember(str(started.job_id), prediction)
        return started

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the prediction once."""
        prediction = await self._prediction(job_id, request)
        native = str(prediction.get("status"))
        if native in CANCELLED:
            refusal = Refusal("the prediction was cancelled at Replicate", code=native)
            return self.failed(request, refusal, state=JobState.CANCELLED)
        if native == "failed":
            return self.failed(request, failure_of(prediction))
        # A state nobody knows yet is waited out; the step's own timeout ends it.
        state = STATES.get(native, JobState.RUNNING)
        if state is JobState.SUCCEEDED:
            self.remember(job_id, prediction)
        return JobStatus(state)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the outputs of a succeeded prediction."""
        prediction = self.remembered(job_id) or await self._prediction(job_id, request)
        found = outputs_of(
            prediction.get("output"),
            as_text=request.modality is Modality.TEXT,
            token=self.api.key,
        )
        if not found:
            expired = prediction.get("data_removed")
            raise self.no_output(
                request,
                "the output expired; Replicate keeps it one hour"
                if expired
                else "the prediction holds no file",
            )
        expires = self.clock() + OUTPUT_LIFETIME
        outputs = tuple(
            replace(output, expires_at=expires) if output.url else output for output in found
        )
        version = prediction.get("version")
        is_text = found[0].media_type == "text/plain"
        payload = _facts(prediction, {} if is_text else told_of(prediction.get("output")))
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, payload),
            model_version=version if isinstance(version, str) and version != "hidden" else None,
            provider_payload=payload,
        )

    async def cancel(self, job_id: str) -> bool:
        """Stop a prediction."""
        prediction = await self.api.document("POST", f"/predictions/{job_id}/cancel")
        return prediction.get("status") in CANCELLED

    async def callback_of(self, delivery: Delivery, *, now: datetime) -> Callback:
        """Check Replicate's signature of a call and return what it tells."""
        delivery.check_time(delivery.header("webhook-timestamp"), now)
        key = webhook_key(self._webhook_secret, SECRET_VARIABLE)
        is_signed = delivery.is_signed
        if not (is_signed(key) if key else await self._secrets.have(delivery, is_signed, now=now)):
            raise delivery.forged()
        prediction = delivery.document()
        native = str(prediction.get("status"))
        return delivery.callback(
            prediction.get("id"),
            _ENDED.get(native) or STATES.get(native),
            delivery_id=delivery.delivery_id("webhook-id"),
        )

    async def _fetch_secret(self) -> Sequence[bytes]:
        answer = await self.api.document("GET", "/webhooks/default/secret")
        return (signing_key(str(answer.get("key") or ""), named="Replicate's webhook secret"),)

    async def retrieve_model(self, model: str) -> Mapping[str, Any]:
        """Return what Replicate says of `owner/name`: its latest version, and with it its inputs."""
        return await self.api.document("GET", f"/models/{model.partition(':')[0]}")

    async def list_page(self, url: str = "/models") -> Mapping[str, Any]:
        """Return a page of all models, thousands of them; `next` of the answer is the next one."""
        return await self.api.document("GET", url)

    async def validate_model(self, model_id: str, *, refresh: bool = False) -> ValidationResult:
        """Ask for the model itself: the list is far too long to be read."""
        if _VERSION.fullmatch(model_id):
            return ValidationResult.unknown_permissive(detail="a version cannot be looked up")
        try:
            await self.retrieve_model(model_id)
        except ModelError:
            return ValidationResult.not_found(ValidationSource.DISCOVERY)
        return ValidationResult.ok_authoritative(ValidationSource.DISCOVERY)

    async def upload(self, item: InputMedia) -> str:
        """Upload an input and return its URL, which lives 24 hours.

        Raises:
            OutputError: the answer holds none.
        """
        part = await inputs.file_part(self.name, "content", item)
        stored = await self.api.document("POST", "/files", files=[part], seconds=600.0)
        urls = stored.get("urls")
        url = cast(dict[str, Any], urls).get("get") if isinstance(urls, dict) else None
        if not isinstance(url, str):
            raise OutputError(f"{self.name}: the upload gave no URL; try again", provider=self.name)
        return url

    async def _prediction(self, job_id: str, request: GenerationRequest) -> dict[str, Any]:
        return await self.api.document("GET", f"/predictions/{job_id}", request_of=request)

    def _addressed(self, model: str) -> tuple[str, dict[str, Any]]:
        if self._unified or _VERSION.fullmatch(model):
            return "/predictions", {"version": model}
        name, _, version = model.partition(":")
        if version:
            return "/predictions", {"version": version}
        return f"/models/{name}/predictions", {}

    def _preferences(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self._wait:
            headers["prefer"] = "wait" if self._wait is True else f"wait={self._wait}"
        if self._cancel_after is not None:
            headers["cancel-after"] = f"{self._cancel_after}s"
        return headers

    async def _media(self, request: GenerationRequest) -> dict[str, Any]:
        found: dict[str, list[str]] = {}
        for item in request.inputs:
            found.setdefault(self._field_of(item), []).append(await self._uri(item))
        return {name: urls[0] if len(urls) == 1 else urls for name, urls in found.items()}

    def _field_of(self, item: InputMedia) -> str:
        kind = item.asset.media_type.partition("/")[0]
        named = item.asset.metadata.get("field")
        if isinstance(named, str):
            return named
        if kind not in _KINDS:
            raise self.refusal(
                "inputs",
                f"an input of type {item.asset.media_type} has no usual field; name it in its "
                "metadata's field",
            )
        return kind

    async def _uri(self, item: InputMedia) -> str:
        url = item.public_url()
        if url is not None:
            return url
        size = item.asset.size_bytes
        if size is not None and size <= _MAX_DATA_BYTES:
            return await inputs.data_uri(self.name, item, max_bytes=_MAX_DATA_BYTES)
        return await self.upload(item)


def _facts(prediction: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    metrics = prediction.get("metrics")
    facts: dict[str, Any] = {"metrics": metrics} if isinstance(metrics, dict) else {}
    return {**facts, "output": dict(told)} if told else facts
