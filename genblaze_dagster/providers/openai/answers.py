"""What a successful answer of the image endpoints holds."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from genblaze_dagster.errors import OutputError
from genblaze_dagster.net.client import HttpAnswer
from genblaze_dagster.providers.openai.parameters import is_edit
from genblaze_dagster.providers.openai.pricing import price_of_images, price_of_usage
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Result

URL_LIFETIME = timedelta(minutes=60)

_FORMATS = ("png", "jpeg", "webp")
_KEPT_FACTS = ("created", "usage", "size", "quality", "background", "output_format")


def result_of(
    answer: HttpAnswer, request: GenerationRequest, fields: Mapping[str, Any], now: datetime
) -> Result:
    """Read the images, their cost and the facts worth keeping out of a 200.

    Raises:
        OutputError: the answer is not JSON, or holds no readable image.
    """
    request_id = answer.headers.get("x-request-id")
    try:
        body = answer.json()
    except ValueError as exc:
        raise _bad_output(request, request_id, "the answer is not JSON") from exc
    items = body.get("data") if isinstance(body, dict) else None
    if not isinstance(items, list) or not items:
        raise _bad_output(request, request_id, "the answer holds no image")
    image_format = body.get("output_format") or fields.get("output_format")
    media_type = f"image/{image_format}" if image_format in _FORMATS else None
    try:
        outputs = tuple(_output(item, media_type, now) for item in items)
    except (binascii.Error, ValueError, AttributeError) as exc:
        raise _bad_output(request, request_id, "an image is not readable") from exc
    return Result(
        outputs=outputs,
        cost_usd=_cost(request, fields, body, len(items)),
        provider_payload=_payload(body, items, request_id),
    )


def _output(item: Mapping[str, Any], media_type: str | None, now: datetime) -> Output:
    encoded, url = item.get("b64_json"), item.get("url")
    if isinstance(encoded, str) and encoded:
        return Output(data=b64decode(encoded, validate=True), media_type=media_type)
    if isinstance(url, str) and url:
        # A signed URL: it needs no key, and must not see it.
        return Output(url=url, media_type=media_type, expires_at=now + URL_LIFETIME)
    raise ValueError("neither b64_json nor url")


def _cost(
    request: GenerationRequest, fields: Mapping[str, Any], body: Mapping[str, Any], count: int
) -> float | None:
    usage = body.get("usage")
    cost = price_of_usage(request.model, usage if isinstance(usage, dict) else None)
    # The table does not know what the input images of a GPT image edit cost.
    if cost is not None or (is_edit(request) and not request.model.startswith("dall-e")):
        return cost
    known = {name: body.get(name) or fields.get(name) for name in ("quality", "size")}
    return price_of_images(request.model, known, count)


def _payload(body: Mapping[str, Any], items: list[Any], request_id: str | None) -> dict[str, Any]:
    payload = {name: body[name] for name in _KEPT_FACTS if body.get(name) is not None}
    if request_id:
        payload["request_id"] = request_id
    revised = [item["revised_prompt"] for item in items if item.get("revised_prompt")]
    if revised:
        payload["revised_prompt"] = revised[0] if len(revised) == 1 else revised
    return payload


def _bad_output(request: GenerationRequest, request_id: str | None, fact: str) -> OutputError:
    reference = f" (request {request_id})" if request_id else ""
    return OutputError(
        f"openai {request.model}: {fact}{reference}; it may have been billed",
        provider="openai",
        model=request.model,
        http_status=200,
        request_id=request_id,
    )
