"""How large a file may get with its manifest in it."""

from genblaze_dagster.errors import EmbeddingError

IN_MEMORY_BYTES = 500 << 20
"""genblaze holds PNG, JPEG, WebP and WAV files in memory to read them, up to this size."""


def check_readable(size: int) -> None:
    """Make sure that genblaze reads a picture or WAV file of `size` bytes.

    Raises:
        EmbeddingError: it is above `IN_MEMORY_BYTES`.
    """
    if size > IN_MEMORY_BYTES:
        raise EmbeddingError(
            f"file would have {size} bytes with its manifest, and genblaze reads files of this "
            f"kind up to {IN_MEMORY_BYTES}; keep the manifest beside it"
        )
