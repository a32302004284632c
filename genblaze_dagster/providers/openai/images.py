"""OpenAI images: generations and edits, one synchronous call each.

API reference: https://platform.openai.com/docs/api-reference/images. Requests equal those of the
vendor's Python client 3.52.0.
Submit: `POST /images/generations` (JSON), `POST /images/edits` (multipart, or JSON with URLs).
There is no job to poll and no idempotency key. Cost unit: tokens (GPT image), image (dall-e).
Quirks: GPT image models answer base64 only and refuse `response_format`; dall-e URLs live 60
minutes and must be fetched without the key; a 200 can hold no image.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from genblaze_dagster.errors import AuthError, InvalidRequestError
from genblaze_dagster.net.client import HttpAnswer, HttpClient, Timeouts, request
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.providers.openai.answers import result_of
from genblaze_dagster.providers.openai.edits import edit_body
from genblaze_dagster.providers.openai.errors import error_of
from genblaze_dagster.providers.openai.families import family_of
from genblaze_dagster.providers.openai.parameters import check_request, is_edit, native_fields
from genblaze_dagster.providers.openai.pricing import price_of_images
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobStatus,
    Result,
    Submission,
)

DEFAULT_BASE_URL = "https://api.openai.com/v1"


def _now() -> datetime:
    return datetime.now(UTC)


class DalleProvider:
    """OpenAI's image models: GPT image and dall-e, to generate and to edit.

    Parameters are OpenAI's own (`size`, `quality`, `n`, ...) or the standard `aspect_ratio` and
    `resolution`. With inputs the call is an edit; an input whose metadata has `role: mask` is the
    mask; `image_transfer="url"` lets OpenAI fetch the inputs instead of uploading them.

    Args:
        api_key: default: the variable OPENAI_API_KEY, read when needed.
        base_url: default: OPENAI_BASE_URL, else https://api.openai.com/v1.
        organization: default: OPENAI_ORG_ID.
        project: default: OPENAI_PROJECT_ID.
        client: an HTTP client for tests; by default the one the whole process shares.
        clock: tells the time from which `expires_at` counts.
    """

    name = "openai"
    version = "1"
    deduplicates = False

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        client: HttpClient | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._given_key = api_key
        self._given_base_url = base_url
        self._organization = organization
        self._project = project
        self._client = client
        self._clock = clock

    def __repr__(self) -> str:
        return f"DalleProvider(base_url={strip_url(self._base_url())!r})"

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do, before anything is paid.

        Raises:
            AuthError: no key; names the variable.
            InvalidRequestError: names the parameter, the value and the allowed values.
            ModelError: the model makes no images.
        """
        self._api_key()
        self._checked_base_url()
        family = family_of(request.model)
        check_request(request, family, native_fields(request, family))

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        """Return the table price in USD; None when size or quality are left to the model."""
        try:
            fields = native_fields(request, family_of(request.model))
        except InvalidRequestError:
            return None
        count = fields.get("n", 1)
        if is_edit(request) and not request.model.startswith("dall-e"):
            return None
        return price_of_images(request.model, fields, count) if isinstance(count, int) else None

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the images. Values are judged by the vendor; `validate` judges them before.

        Raises:
            ProviderError: of the kind the vendor's answer calls for; `sent` is False when nothing
                was sent, True when the vendor answered, None when the answer was lost.
        """
        key = self._api_key()
        family = family_of(request.model)
        fields = native_fields(request, family)
        if is_edit(request):
            path, body = "/images/edits", await edit_body(request, family, fields)
        else:
            path, body = "/images/generations", {"json": fields}
        answer = await self._post(path, key, body, request.timeout)
        if answer.status != 200:
            raise error_of(answer, model=request.model, api_key=key, prompt=request.prompt)
        # Megabytes of base64 would hold up the event loop.
        result = await asyncio.to_thread(result_of, answer, request, fields, self._clock())
        return Submission(result=result)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Refuse: the call that submits returns the images."""
        raise _no_jobs()

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Refuse: the call that submits returns the images."""
        raise _no_jobs()

    async def cancel(self, job_id: str) -> bool:
        """Return False: there are no jobs to stop."""
        return False

    async def aclose(self) -> None:
        """Do nothing: the HTTP client belongs to the process or to the caller."""

    async def _post(
        self, path: str, key: str, body: Mapping[str, Any], seconds: float
    ) -> HttpAnswer:
        headers = {"authorization": f"Bearer {key}", "accept": "application/json"}
        for name, value in (
            ("openai-organization", self._organization or os.environ.get("OPENAI_ORG_ID")),
            ("openai-project", self._project or os.environ.get("OPENAI_PROJECT_ID")),
        ):
            if value:
                headers[name] = value
        return await request(
            "POST",
            self._checked_base_url() + path,
            provider=self.name,
            client=self._client,
            headers=headers,
            # The answer comes when the image is done, which takes up to minutes.
            timeouts=Timeouts(read=seconds, pool=seconds),
            **body,
        )

    def _api_key(self) -> str:
        key = (self._given_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not key:
            raise AuthError(
                "openai: no API key; set OPENAI_API_KEY, or try without a key with the provider "
                "'local'",
                provider=self.name,
                sent=False,
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise AuthError(
                "openai: the API key holds blanks, line breaks or non-ASCII characters; copy it "
                "again into OPENAI_API_KEY",
                provider=self.name,
                sent=False,
            )
        return key

    def _base_url(self) -> str:
        return (
            self._given_base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        ).rstrip("/")

    def _checked_base_url(self) -> str:
        url = self._base_url()
        if not url.startswith(("https://", "http://")) or "?" in url or "@" in url:
            raise InvalidRequestError(
                f"openai: base URL {strip_url(url)} must be http(s)://host/path without user, "
                "password or query; check OPENAI_BASE_URL",
                provider=self.name,
                param="base_url",
                sent=False,
            )
        return url


def _no_jobs() -> InvalidRequestError:
    return InvalidRequestError(
        "openai: image calls have no job to poll; the submit returns the images",
        provider="openai",
        sent=False,
    )
