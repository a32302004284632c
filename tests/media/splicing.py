"""Embeds and undoes in memory, straight through the container modules."""

import io
from functools import cache

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.media.containers import Format, container_of, originals
from genblaze_dagster.media.edit import Edit, chunks, pieces, undoes
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.source import Source


def source_of(data: bytes) -> Source:
    return Source(io.BytesIO(data))


@cache
def payload_of(prompt: str = "\u2713 <b>&amp; \U0001f3a8") -> bytes:
    """Return the text of a manifest that verifies."""
    step = Step(provider="acme", model="m", prompt=prompt)
    return Manifest.from_run(Run(name="caf\u00e9", steps=[step])).to_canonical_json().encode()


def edited(data: bytes, edit: Edit) -> bytes:
    return b"".join(chunks(source_of(data), pieces(len(data), edit)))


def embedded(form: Format, data: bytes, payload: bytes) -> bytes:
    """Return a file with a payload, after checking that the first original is the way back."""
    source = source_of(data)
    edit = form.plan_embed(source, payload)
    assert form.plan_embed(source, payload) == edit
    result = edited(data, edit)
    assert form.read_payload(source_of(result)) == payload
    first = originals_of(result)[0]
    assert first.certain
    assert undoes(source, edit, first.undo)
    assert edited(result, first.undo) == data
    return result


def originals_of(data: bytes) -> list[Original]:
    source = source_of(data)
    container = container_of(source)
    assert container is not None
    return list(originals(container, source))


def candidates(data: bytes) -> list[bytes]:
    """Return all that a file may have been before its first manifest, most likely first."""
    return [edited(data, original.undo) for original in originals_of(data)]
