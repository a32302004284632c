"""AssemblyAI: transcripts of speech, with word timings and speakers; a job that is polled.

API reference: https://www.assemblyai.com/docs/api-reference. Requests equal those of the vendor's
Python client 1.8.2.
Submit: `POST /v2/transcript`, with a URL or after `POST /v2/upload`. Poll: `GET /v2/transcript/{id}`
every 3 s. Subtitles: `GET /v2/transcript/{id}/srt` and `/vtt`. Cost unit: hours of audio; list
prices as of October 2026 in `assemblyai_pricing`, your contract may differ: give your own.
Quirks: the key stands bare in the header; there is no 402, an empty account is a 400 whose text
names the balance; a failed job is an HTTP 200 with words and no code; silence gives an empty text.
Deleting wipes a finished transcript and stops nothing. Calls back
(https://www.assemblyai.com/docs/deployment/webhooks-for-pre-recorded-audio) hold an id and a state,
and come up to ten times, but not again after a 4xx. They are not signed, but bring a header of ours.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import AudioMetadata, WordTiming
from genblaze_dagster.errors import (
    AuthError,
    InvalidRequestError,
    OutputError,
    QuotaError,
)
from genblaze_dagster.providers.assemblyai_pricing import PRICE
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    EnumSchema,
    IntSchema,
    ParamSchema,
)
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.callbacks import Callback, Delivery
from genblaze_dagster.providers.vendor.called_back import CalledBackProvider
from genblaze_dagster.providers.vendor.errors import (
    ErrorKind,
    ErrorRules,
    Refusal,
    kind_of_text,
    nothing_submitted,
)
from genblaze_dagster.providers.vendor.provider import DEFAULT_MODEL
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

POLL_SECONDS = 3.0
CALLBACK_HEADER = "x-genblaze-callback"
"""Header of AssemblyAI's calls with the submission's key and token."""

_STATES = {
    "queued": JobState.QUEUED,
    "processing": JobState.RUNNING,
    "completed": JobState.SUCCEEDED,
}
_BALANCE: Mapping[ErrorKind, tuple[str, ...]] = {QuotaError: ("balance", "funds")}
# A failed job has words only. What the input is to blame for is said in these.
_FAILURES: Mapping[ErrorKind, tuple[str, ...]] = {
    InvalidRequestError: (
        "does not appear to contain audio",
        "download",
        "no spoken audio",
        "too short",
        "transcoding failed",
        "unsupported",
    )
}
_SUBTITLES = {"srt": "application/x-subrip", "vtt": "text/vtt"}
_OURS = ("output_format", "chars_per_caption")
_SCHEMAS: Mapping[str, ParamSchema] = {
    "speaker_labels": BoolSchema(),
    "speakers_expected": IntSchema(min=1),
    "punctuate": BoolSchema(),
    "format_text": BoolSchema(),
    "multichannel": BoolSchema(),
    "language_detection": BoolSchema(),
    "audio_start_from": IntSchema(min=0),
    "audio_end_at": IntSchema(min=0),
    "output_format": EnumSchema(frozenset({"text", *_SUBTITLES})),
    "chars_per_caption": IntSchema(min=1),
}
_SPEC = ModelSpec(
    model_id="universal-2",
    modality=Modality.TEXT,
    pricing=PRICE,
    param_aliases={
        "language": "language_code",
        "diarize": "speaker_labels",
        "speakers": "speakers_expected",
    },
    param_schemas=_SCHEMAS,
)

FAMILIES = (
    ModelFamily(
        name="universal",
        pattern=re.compile(rf"universal|{DEFAULT_MODEL}$"),
        description="transcription",
        example_slugs=("universal-2", "universal-3-pro"),
        spec_template=_SPEC,
    ),
)


def _read_error(status: int, body: Any) -> Refusal:
    error = body.get("error") if isinstance(body, dict) else None
    text = error if isinstance(error, str) else None
    return Refusal(text, kind=kind_of_text(text, _BALANCE) if status == 400 else None)


class AssemblyAIProvider(CalledBackProvider):
    """AssemblyAI's transcription.

    The input is one piece of audio or video; it goes as a URL where the store has one, else it is
    uploaded. The model is `universal-2` and the like, several joined by commas in the order of
    preference, or `default`. Parameters: `language`, `diarize` and `speakers`, `output_format`
    (text, srt, vtt; subtitles come beside the text), and what else the API takes. The output is the
    text; words and their times (seconds) stand in its audio metadata, speakers in the record. With
    the parameter `webhook_url` AssemblyAI calls that address, and not `callbacks`.
    """

    name = "assemblyai"
    vendor = Vendor(
        name="assemblyai",
        key_variables=("ASSEMBLYAI_API_KEY",),
        base_url="https://api.assemblyai.com",
        key_headers=lambda key: {"authorization": key},
        rules=ErrorRules(
            read=_read_error,
            remedies={AuthError: "check ASSEMBLYAI_API_KEY", QuotaError: "top up the account"},
        ),
    )
    traits = Traits(
        makes=("transcription", "word timings", "subtitles"),
        modalities=(Modality.TEXT,),
        inputs=(InputForm.URL, InputForm.UPLOAD),
        webhooks=True,
    )
    families = FAMILIES
    others = replace(_SPEC, model_id="*", modality=None, pricing=None)
    proves_callbacks = False

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse a request without exactly one recording."""
        if len(request.inputs) != 1 or not inputs.of_kind(request, "audio", "video"):
            raise self.refusal(
                "inputs", "transcribes one audio or video input; give exactly one", request
            )
        for name in ("prompt", "seed", "negative_prompt", "n"):
            # The page knows a `prompt` of some models; it is a parameter there, not the step's text.
            if name in payload and name not in request.params:
                raise self.refusal(name, f"takes no {name}; leave it out", request)
        if "chars_per_caption" in payload and payload.get("output_format") not in _SUBTITLES:
            raise self.refusal(
                "chars_per_caption",
                f"is for subtitles; give output_format too, {' or '.join(_SUBTITLES)}",
                request,
            )

    async def submit(self, request: GenerationRequest) -> Submission:
        """Start a transcript.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous: nothing is sent again.
        """
        body = {name: value for name, value in self.payload(request).items() if name not in _OURS}
        with nothing_submitted():
            body["audio_url"] = await self._audio_url(request)
        if request.model != DEFAULT_MODEL:
            body["speech_models"] = [model.strip() for model in request.model.split(",")]
        if not any(name.startswith("webhook_") for name in body):
            body |= self._webhook(request)
        created = await self.api.document("POST", "/v2/transcript", request_of=request, json=body)
        return self.job_started(request, created)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Ask for the transcript once."""
        transcript = await self._transcript(job_id, request)
        if transcript.get("status") == "error":
            text = str(transcript.get("error") or "")
            kind = kind_of_text(text, _FAILURES)
            return self.failed(request, Refusal(text, kind=kind, transient=kind is None))
        state = _STATES.get(str(transcript.get("status")), JobState.RUNNING)
        if state is JobState.SUCCEEDED:
            self.remember(job_id, transcript)
        return JobStatus(state, poll_after=POLL_SECONDS)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Return the transcript, and its subtitles where they were asked for."""
        transcript = self.remembered(job_id) or await self._transcript(job_id, request)
        text = transcript.get("text")
        if not isinstance(text, str):
            raise self.no_output(request, "the transcript holds no text")
        words = words_of(transcript.get("words"))
        facts: dict[str, Any] = {"audio": AudioMetadata(word_timings=words)} if words else {}
        # Silence is no failure; a file of no bytes could not be told from a lost one.
        outputs = [Output(data=(text or "\n").encode(), media_type="text/plain", facts=facts)]
        wanted = str(request.params.get("output_format") or "text")
        if wanted in _SUBTITLES:
            data = await self.subtitles(
                job_id, wanted, chars_per_caption=request.params.get("chars_per_caption")
            )
            outputs.append(Output(data=data, media_type=_SUBTITLES[wanted]))
        payload = _payload(transcript)
        return Result(
            outputs=tuple(outputs),
            cost_usd=self.cost(request, outputs, payload),
            provider_payload=payload,
        )

    async def callback_of(self, delivery: Delivery, *, now: datetime) -> Callback:
        """Return what a call tells, and which submission the header we asked for says it is about.

        The header is checked where the secret is known that made it, the address by the receiver.
        """
        key, _, token = delivery.header(CALLBACK_HEADER).rpartition(".")
        if (endpoint := self.callbacks) is not None:
            endpoint.verify(self.name, key, token)
        told = delivery.document()
        native = str(told.get("status"))
        state = JobState.FAILED if native == "error" else _STATES.get(native)
        return delivery.callback(told.get("transcript_id"), state, submission_key=key)

    async def subtitles(
        self, job_id: str, form: str, *, chars_per_caption: int | None = None
    ) -> bytes:
        """Return a finished transcript as `srt` or `vtt`."""
        params = {} if chars_per_caption is None else {"chars_per_caption": chars_per_caption}
        answer = await self.api.call("GET", f"/v2/transcript/{job_id}/{form}", params=params)
        return answer.content

    async def delete_transcript(self, job_id: str) -> None:
        """Wipe the data of a finished transcript at AssemblyAI; stops nothing."""
        await self.api.call("DELETE", f"/v2/transcript/{job_id}")

    async def upload(self, item: InputMedia) -> str:
        """Upload a recording and return its URL, which only this account can transcribe.

        Raises:
            OutputError: the answer holds none.
        """
        uploaded = await self.api.document(
            "POST",
            "/v2/upload",
            content=await inputs.read(self.name, item),
            headers={"content-type": "application/octet-stream"},
            seconds=600.0,
        )
        url = uploaded.get("upload_url")
        if not isinstance(url, str):
            raise OutputError(f"{self.name}: the upload gave no URL; try again", provider=self.name)
        return url

    def _webhook(self, request: GenerationRequest) -> dict[str, str]:
        endpoint, address = self.callbacks, self.callback_address(request)
        if endpoint is None or address is None:
            return {}
        key = request.idempotency_key
        return {
            "webhook_url": address,
            "webhook_auth_header_name": CALLBACK_HEADER,
            "webhook_auth_header_value": f"{key}.{endpoint.token(self.name, key)}",
        }

    async def _audio_url(self, request: GenerationRequest) -> str:
        (item,) = request.inputs
        return item.public_url() or await self.upload(item)

    async def _transcript(self, job_id: str, request: GenerationRequest) -> dict[str, Any]:
        return await self.api.document("GET", f"/v2/transcript/{job_id}", request_of=request)


def words_of(words: object) -> list[WordTiming]:
    """Return the words of a transcript in seconds, without those that tell no time."""
    return [
        WordTiming(
            word=word["text"],
            start=word["start"] / 1000,
            end=word["end"] / 1000,
            confidence=word.get("confidence"),
        )
        for word in _objects(words)
        if isinstance(word.get("text"), str)
        and all(isinstance(word.get(name), int | float) for name in ("start", "end"))
    ]


def _objects(value: object) -> list[dict[str, Any]]:
    items = cast(list[object], value) if isinstance(value, list) else []
    return [cast(dict[str, Any], item) for item in items if isinstance(item, dict)]


def _payload(transcript: Mapping[str, Any]) -> dict[str, Any]:
    named = ("language_code", "confidence", "audio_duration")
    payload = {name: transcript[name] for name in named if transcript.get(name) is not None}
    segments = [
        {name: part.get(name) for name in ("speaker", "channel", "start", "end", "text")}
        for part in _objects(transcript.get("utterances"))
    ]
    if segments:
        payload["utterances"] = segments
    return payload
