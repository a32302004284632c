"""Where `ParquetSink` keeps a run: the folders of its partition, and the name of its files.

Folder names are genblaze's to the character wherever the file system can hold them. Nothing in a
manifest is trusted: neither a tenant nor a provider nor a run id leads out of its folder.
"""

import hashlib
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import quote

from genblaze_dagster.core.models import Run
from genblaze_dagster.index.parquet_rows import NO_TENANT

INDEX_FOLDER: Final = "_run_index"

_MAX_NAME: Final = 255
"""Longest name of a file or folder, in bytes, that common file systems take."""

_MAX_STEM: Final = _MAX_NAME - len(".partition")
_UNKNOWN: Final = "unknown"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_PARTITION = re.compile(
    r"dt=[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"/tenant_id=[A-Za-z0-9_.@-]+/modality=[A-Za-z0-9_.@-]+/provider=[A-Za-z0-9_.@-]+"
)
# Windows opens a device instead of a file of these names, whatever the extension.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)


def run_partition(run: Run) -> str:
    """Return the folders of a run: its date, tenant, modalities and providers."""
    return "/".join(
        (
            f"dt={run.created_at.date().isoformat()}",
            _folder("tenant_id", run.tenant_id or NO_TENANT),
            _folder("modality", _joined({step.modality.value for step in run.steps})),
            _folder("provider", _joined({step.provider for step in run.steps if step.provider})),
        )
    )


def is_partition(text: str) -> bool:
    """Whether `text` is what `run_partition` could have returned, and so stays in its folder."""
    return _PARTITION.fullmatch(text) is not None


def run_file_stem(run_id: str) -> str:
    """Return the name of a run's files without extension: different ids have different names.

    An id of letters, digits, `-`, `_` and `.` is its own name. Anything else is percent-escaped,
    and so is a first character that would hide the file from readers or name a device. An id too
    long for a file name is cut and followed by its SHA-256; the rows hold it whole.
    """
    stem = quote(run_id, safe="", errors="surrogatepass").replace("~", "%7E")
    if stem.startswith((".", "_")) or _DEVICE.match(stem):
        stem = f"%{ord(stem[0]):02X}{stem[1:]}"
    return stem if 0 < len(stem) <= _MAX_STEM else _cut(stem, run_id, _MAX_STEM)


def _joined(values: Collection[str]) -> str:
    return "_".join(sorted(values)) or _UNKNOWN


def _folder(key: str, value: str) -> str:
    name = _UNSAFE.sub("_", value)
    room = _MAX_NAME - len(key) - 1
    return f"{key}={name if len(name) <= room else _cut(name, value, room)}"


def _cut(name: str, whole: str, length: int) -> str:
    # `@` is part of no name that was not cut.
    digest = hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()
    return f"{name[: length - len(digest) - 1]}@{digest}"
