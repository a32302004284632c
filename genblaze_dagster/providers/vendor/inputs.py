"""Inputs of a step in the form a vendor takes: a URL it fetches, a data URI, base64, or a file."""

from base64 import b64encode
from collections.abc import Collection, Iterable, Sequence
from posixpath import basename
from urllib.parse import unquote, urlsplit

from genblaze_dagster.errors import GenblazeError, InvalidRequestError, ProviderUnavailableError
from genblaze_dagster.media.sniff import extension_for
from genblaze_dagster.net.client import FilePart
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia

_MEBIBYTE = 1024 * 1024


def of_kind(request: GenerationRequest, *kinds: str) -> tuple[InputMedia, ...]:
    """Return the inputs of a kind: `image`, `video`, `audio` or `text`, in their order."""
    return tuple(
        item for item in request.inputs if item.asset.media_type.partition("/")[0] in kinds
    )


def role_of(item: InputMedia) -> str | None:
    """Return what an input is for, as its metadata says: `mask`, `last_frame`, `reference`, ..."""
    role = item.asset.metadata.get("role")
    return role if isinstance(role, str) else None


def with_role(items: Iterable[InputMedia], role: str | None) -> tuple[InputMedia, ...]:
    """Return the inputs that have a role; with None those that have none."""
    return tuple(item for item in items if role_of(item) == role)


def check_inputs(
    vendor: str,
    items: Sequence[InputMedia],
    *,
    at_most: int,
    what: str = "inputs",
    types: Collection[str] | None = None,
    max_bytes: int | None = None,
) -> None:
    """Refuse inputs a model does not take, before anything is sent.

    Raises:
        InvalidRequestError: too many, of another type, or too large.
    """
    if len(items) > at_most:
        raise _refused(vendor, what, f"{len(items)} {what}; at most {at_most} are taken")
    for item in items:
        media_type, size = item.asset.media_type, item.asset.size_bytes
        if types is not None and media_type not in types:
            allowed = ", ".join(sorted(types))
            raise _refused(vendor, what, f"an input of type {media_type}; allowed: {allowed}")
        if max_bytes is not None and size is not None and size > max_bytes:
            raise _refused(vendor, what, f"an input of {size} bytes; at most {max_bytes} are taken")


def public_url(vendor: str, item: InputMedia) -> str:
    """Return a short-lived URL that the vendor can fetch.

    Raises:
        InvalidRequestError: the store has none, because it is a folder or in memory.
    """
    url = item.public_url()
    if url is None:
        raise _refused(
            vendor,
            "inputs",
            f"input {item.asset.asset_id} has no URL that {vendor} can fetch; keep media in an S3 "
            "store, or give an input with a public https address",
        )
    return url


async def url_or_data(vendor: str, item: InputMedia, *, max_data_bytes: int = 5 * _MEBIBYTE) -> str:
    """Return a URL the vendor can fetch where the store has one, else a data URI.

    Raises:
        InvalidRequestError: there is no URL, and it is too large for a data URI.
        ProviderUnavailableError: it cannot be read from the store; nothing was sent.
    """
    return item.public_url() or await data_uri(vendor, item, max_bytes=max_data_bytes)


async def data_uri(vendor: str, item: InputMedia, *, max_bytes: int) -> str:
    """Return the bytes as a `data:` URI of at most `max_bytes` bytes of media.

    Raises:
        InvalidRequestError: it is too large.
        ProviderUnavailableError: it cannot be read from the store; nothing was sent.
    """
    return f"data:{item.asset.media_type};base64,{await base64(vendor, item, max_bytes=max_bytes)}"


async def base64(vendor: str, item: InputMedia, *, max_bytes: int) -> str:
    """Return the bytes in base64.

    Raises:
        InvalidRequestError: it is too large.
        ProviderUnavailableError: it cannot be read from the store; nothing was sent.
    """
    check_inputs(vendor, (item,), at_most=1, max_bytes=max_bytes)
    return b64encode(await read(vendor, item)).decode()


async def file_part(vendor: str, name: str, item: InputMedia) -> FilePart:
    """Return the input as a file of a multipart form.

    Raises:
        ProviderUnavailableError: it cannot be read from the store; nothing was sent.
    """
    return name, (file_name(item), await read(vendor, item), item.asset.media_type)


async def read(vendor: str, item: InputMedia) -> bytes:
    """Return the bytes of an input.

    Raises:
        ProviderUnavailableError: it cannot be read from the store; nothing was sent.
    """
    try:
        return await item.read()
    except GenblazeError as exc:
        raise ProviderUnavailableError(
            f"{vendor}: input {item.asset.asset_id} cannot be read from the store: {exc}",
            provider=vendor,
            transient=exc.transient,
            sent=False,
        ) from exc


def file_name(item: InputMedia) -> str:
    """Return a file name for an upload, with the extension of its type."""
    name = basename(unquote(urlsplit(item.asset.url).path))
    kind = item.asset.media_type.partition("/")[0]
    return name if "." in name else f"{kind}{extension_for(item.asset.media_type)}"


def _refused(vendor: str, param: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{vendor}: {message}", provider=vendor, param=param, sent=False)
