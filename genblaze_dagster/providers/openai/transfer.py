"""How an input image travels to OpenAI: as a file, or as a URL that OpenAI fetches."""

from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.providers.param_schemas import EnumSchema
from genblaze_dagster.providers.protocol import InputMedia

IMAGE_TRANSFER = "image_transfer"
"""Our own parameter: `upload` (default) sends input images as files, `url` as URLs."""

UPLOADS = EnumSchema(frozenset({"upload"}))
UPLOADS_AND_URLS = EnumSchema(frozenset({"upload", "url"}))


def fetched_url(provider: str, item: InputMedia) -> str:
    """Return a short-lived URL of an input.

    Raises:
        InvalidRequestError: the store has none.
    """
    url = item.public_url()
    if url is None:
        raise InvalidRequestError(
            f"{provider}: {IMAGE_TRANSFER}='url', but the store has no public URL for input "
            f"{item.asset.asset_id}; leave the parameter out to upload the image",
            provider=provider,
            param=IMAGE_TRANSFER,
            sent=False,
        )
    return url
