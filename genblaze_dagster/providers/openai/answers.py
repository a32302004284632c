"""What a successful answer of the image endpoints holds."""

from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from genblaze_dagster.errors import OutputError
from genblaze_dagster.net.client import HttpAnswer
from genblaze_dagster.providers.protocol import GenerationRequest, Output

URL_LIFETIME = timedelta(minutes=60)

_FORMATS = ("png", "jpeg", "webp")
_KEPT_FACTS = ("created", "usage", "size", "quality", "background", "output_format")


def read_images(
    provider: str,
    request: GenerationRequest,
    answer: HttpAnswer,
    asked_format: object,
    now: datetime,
) -> tuple[tuple[Output, ...], dict[str, Any]]:
    """Return the images of a 200 and the facts worth keeping.

    Raises:
        OutputError: the answer is not JSON, or holds no readable image.
    """
    request_id = answer.headers.get("x-request-id")

    def bad(fact: str) -> OutputError:
        reference = f" (request {request_id})" if request_id else ""
        return OutputError(
            f"{provider} {request.model}: {fact}{reference}; it may have been billed",
            provider=provider,
            model=request.model,
            http_status=200,
            request_id=request_id,
        )

    try:
        body = answer.json()
    except ValueError as exc:
        raise bad("the answer is not JSON") from exc
    items = body.get("data") if isinstance(body, dict) else None
    if not isinstance(items, list) or not items:
        raise bad("the answer holds no image")
    image_format = body.get("output_format") or asked_format
    media_type = f"image/{image_format}" if image_format in _FORMATS else None
    found = [_output(item, media_type, now) for item in items]
    outputs = tuple(output for output in found if output is not None)
    if not outputs:
        raise bad("the images are not readable")
    payload = _payload(body, items, request_id)
    if missing := len(found) - len(outputs):
        payload["missing"] = missing
    return outputs, payload


def _output(item: object, media_type: str | None, now: datetime) -> Output | None:
    """Return an image, None when it cannot be read: it must not cost the others, which are paid."""
    fields = cast(dict[str, Any], item) if isinstance(item, dict) else {}
    encoded, url = fields.get("b64_json"), fields.get("url")
    if isinstance(encoded, str) and encoded:
        try:
            return Output(data=b64decode(encoded, validate=True), media_type=media_type)
        except ValueError:
            return None
    if isinstance(url, str) and url:
        # A signed URL: it needs no key, and must not see it.
        return Output(url=url, media_type=media_type, expires_at=now + URL_LIFETIME)
    return None


def _payload(body: Mapping[str, Any], items: list[Any], request_id: str | None) -> dict[str, Any]:
    payload = {name: body[name] for name in _KEPT_FACTS if body.get(name) is not None}
    if request_id:
        payload["request_id"] = request_id
    told = [cast(dict[str, Any], item) for item in items if isinstance(item, dict)]
    revised = [item["revised_prompt"] for item in told if item.get("revised_prompt")]
    if revised:
        payload["revised_prompt"] = revised[0] if len(revised) == 1 else revised
    return payload
