"""Between a `Step`, as guide-style providers see a generation, and request and result."""

import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel
from uuid_utils import uuid4

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import (
    InvalidRequestError,
    OutputError,
    ProviderError,
    UnsafeUrlError,
)
from genblaze_dagster.net.local_path import check_local_path
from genblaze_dagster.net.redact import redact
from genblaze_dagster.net.ssrf import check_text
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Result

if TYPE_CHECKING:
    from genblaze_dagster.providers.base import BaseProvider

UPSTREAM_ID = "upstream_id"
"""Where genblaze keeps the job id: in the hashed metadata, so that equal runs hash differently."""

_DEEPEST_PAYLOAD = 16
_LONGEST_TEXT = 2000
_NOWHERE = "about:blank"
_SHAPELESS = "application/octet-stream"
_FACTS = ("audio", "duration", "height", "metadata", "tracks", "video", "width")
_log = logging.getLogger(__name__)


def step_of(
    request: GenerationRequest, provider: "BaseProvider", *, urls: Mapping[str, str] | None = None
) -> Step:
    """Return a request as the step a guide-style provider works on.

    `urls` says by asset id where the provider can read an input; the address that is recorded for
    it may be anybody's, and is not passed on. The step's id is the idempotency
    key, which every attempt of one generation shares. Parameters go through `normalize_params`.

    Raises:
        InvalidRequestError: `normalize_params` refuses them.
    """
    try:
        params = provider.normalize_params(dict(request.params), request.modality)
    except ProviderError:
        raise
    except Exception as exc:
        raise InvalidRequestError(
            f"{provider.name}: normalize_params cannot read the parameters: {redact(repr(exc))}",
            provider=provider.name,
            model=request.model,
            sent=False,
        ) from exc
    readable = urls or {}
    return Step(
        step_id=request.idempotency_key or str(uuid4()),
        provider=provider.name,
        model=request.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        params=params,
        modality=request.modality,
        step_type=request.step_type,
        inputs=[
            item.asset.model_copy(update={"url": readable.get(item.asset.asset_id, _NOWHERE)})
            for item in request.inputs
        ],
    )


def check_inputs(step: Step, provider: "BaseProvider") -> None:
    """Refuse inputs that a provider, or its vendor, must not be sent to fetch.

    Raises:
        InvalidRequestError: an input is neither on a public https address nor in an allowed file.
    """
    for item in step.inputs:
        try:
            if item.url.lower().startswith("file:"):
                check_local_path(item.url, _roots(provider))
            else:
                check_text(item.url)
        except UnsafeUrlError as exc:
            raise InvalidRequestError(
                f"{provider.name}: an input is refused: {exc}", provider=provider.name, sent=False
            ) from exc


def result_of(made: Step, asked: Step, provider: "BaseProvider") -> Result:
    """Return a finished step as the result of its request.

    Metadata that the provider added goes to the payload: the manifest's own is hashed and belongs to
    the caller.

    Raises:
        OutputError: there is no output, or one that cannot be read.
    """
    if not made.assets:
        raise OutputError(f"{provider.name}: the job is over, but the step has no assets")
    payload = dict(made.provider_payload)
    added = {
        key: value
        for key, value in made.metadata.items()
        if key != UPSTREAM_ID and asked.metadata.get(key) != value
    }
    if added:
        payload.setdefault("metadata", added)
    return Result(
        outputs=tuple(_output(asset, made, provider) for asset in made.assets),
        cost_usd=cost_of(made, provider),
        model_version=made.model_version,
        provider_payload=cast(dict[str, Any], _presentable(payload)),
    )


def cost_of(made: Step, provider: "BaseProvider") -> float | None:
    """Return what a step cost in USD: what the provider says, else the registry; None unknown."""
    if made.cost_usd is not None:
        return float(made.cost_usd)
    price = getattr(provider, "price", None)
    if price is None:
        return None
    try:
        cost = price(made)
    except Exception as exc:
        # The media is there and paid for; only its price is not known.
        _log.warning("%s: no price for %s: %s", provider.name, made.model, redact(repr(exc)))
        return None
    return None if cost is None else float(cost)


def _output(asset: Asset, made: Step, provider: "BaseProvider") -> Output:
    media_type = None if asset.media_type == _SHAPELESS else asset.media_type
    if media_type is None and made.modality == Modality.TEXT:
        # Text has no signature to sniff.
        media_type = "text/plain"
    facts = _facts(asset)
    in_hand = _in_hand(asset, made, provider)
    if isinstance(in_hand, bytes):
        return Output(data=in_hand, media_type=media_type, facts=facts)
    if isinstance(in_hand, Path):
        return Output(path=in_hand, media_type=media_type, facts=facts)
    url: str = asset.url
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return Output(url=url, media_type=media_type, facts=facts)
    if scheme == "file":
        return Output(path=_local_file(url, provider), media_type=media_type, facts=facts)
    text = asset.metadata.get("text")
    if isinstance(text, str) and media_type == "text/plain":
        return Output(data=text.encode(), media_type=media_type, facts=facts)
    raise OutputError(
        f"{provider.name}: an output has a {scheme or 'missing'} URL; give https, file, or return "
        "its bytes from read_output()"
    )


def _in_hand(asset: Asset, made: Step, provider: "BaseProvider") -> bytes | Path | None:
    read = getattr(provider, "read_output", None)
    if read is None:
        return None
    try:
        return read(asset, made)
    except Exception as exc:
        raise OutputError(
            f"{provider.name}: read_output failed: {redact(repr(exc), max_chars=200)}"
        ) from exc


def _local_file(url: str, provider: "BaseProvider") -> Path:
    try:
        path = check_local_path(url, _roots(provider))
    except UnsafeUrlError as exc:
        raise OutputError(
            f"{provider.name}: an output file may not be read ({exc}); write it to the temporary "
            "folder, or name the folder in the provider's output_dir"
        ) from exc
    if not path.is_file():
        raise OutputError(f"{provider.name}: the output file {path} does not exist")
    return path


def _roots(provider: "BaseProvider") -> list[Path]:
    folder = getattr(provider, "output_dir", None)
    return [Path(tempfile.gettempdir()), *([Path(folder)] if folder else [])]


def _facts(asset: Asset) -> dict[str, Any]:
    """Return what the provider knows of the media, as plain data: it may be of another package."""
    facts: dict[str, Any] = {}
    for name in _FACTS:
        value = getattr(asset, name, None)
        if value is None or value == {}:
            continue
        if isinstance(value, list):
            facts[name] = [_plain(item) for item in cast(list[object], value)]
        else:
            facts[name] = _plain(value)
    return facts


def _plain(value: object) -> Any:
    return value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value


def _presentable(value: object, depth: int = 0) -> object:
    """Return what of a vendor's answer a manifest may hold: JSON without keys, grants and media."""
    if depth > _DEEPEST_PAYLOAD:
        return None
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value)
        return {str(key): _presentable(item, depth + 1) for key, item in items.items()}
    if isinstance(value, list | tuple):
        return [_presentable(item, depth + 1) for item in cast(list[object], value)]
    if isinstance(value, str):
        return redact(value, max_chars=_LONGEST_TEXT)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, int) else f"<{type(value).__name__}>"
