"""GIF: the size of the picture."""

from typing import Any

from genblaze_dagster.media.source import Source


def read_facts(source: Source) -> dict[str, Any]:
    """Return width and height in pixels."""
    return {"width": source.number(6, 2, "little"), "height": source.number(8, 2, "little")}
