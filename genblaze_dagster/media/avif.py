"""AVIF and HEIC: the size of the picture."""

from typing import Any

from genblaze_dagster.media.boxes import children, find, walk
from genblaze_dagster.media.source import Source


def read_facts(source: Source) -> dict[str, Any]:
    """Return width and height in pixels of the largest picture in the file.

    The others are thumbnails, tiles and masks.
    """
    meta = next((box for box in walk(source, 0, source.size) if box.type == b"meta"), None)
    properties = find(source, meta, b"iprp", b"ipco") if meta else None
    if properties is None:
        return {}
    sizes = [
        (source.number(box.body + 4, 4), source.number(box.body + 8, 4))
        for box in children(source, properties)
        if box.type == b"ispe"
    ]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return {"width": width, "height": height}
