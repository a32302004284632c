"""Object keys, to the character those of genblaze.

Every function is pure. Pieces are split on `/` and empty ones dropped; nothing is escaped. One rule
applies where prefix and layout meet: a prefix that ends in the layout's first segment does not
repeat it (`runs` + `runs/...` is `runs/...`).
"""

import mimetypes
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

IMMUTABLE = "public, max-age=31536000, immutable"
PRIVATE = "private, max-age=3600"

# Python's own table: the host's mime.types would make keys differ between machines.
_EXTENSIONS = mimetypes.MimeTypes()


class KeyStrategy(StrEnum):
    """How assets are named: under their run, or by the hash of their bytes."""

    HIERARCHICAL = "hierarchical"
    CONTENT_ADDRESSABLE = "content_addressable"

    @property
    def cache_control(self) -> str:
        """Cache-Control of assets and manifests: only a content address never changes."""
        return IMMUTABLE if self is KeyStrategy.CONTENT_ADDRESSABLE else PRIVATE


@dataclass(frozen=True, slots=True)
class Placement:
    """Whose media it is, for the hierarchical layout.

    `run_id` None is media stored on its own, outside any run; `created_at` is the run's and must
    then be None too.
    """

    run_id: str | None
    asset_id: str
    tenant_id: str | None = None
    created_at: datetime | None = None


def join_key(prefix: str, *parts: str) -> str:
    """Join prefix and parts; a segment repeated at the seam between them is written once."""
    before = _segments(prefix)
    after = [segment for part in parts for segment in _segments(part)]
    if before and after and before[-1] == after[0]:
        after = after[1:]
    return "/".join([*before, *after])


def asset_key(
    prefix: str, strategy: KeyStrategy, *, placement: Placement, sha256: str, extension: str
) -> str:
    """Return the key of an asset; `extension` starts with a dot or is empty."""
    if strategy is KeyStrategy.CONTENT_ADDRESSABLE:
        name = f"{sha256}{extension.lower()}"
        return join_key(prefix, "assets", sha256[:2], sha256[2:4], name)
    name = f"{placement.asset_id}{extension}"
    if placement.run_id is None or placement.created_at is None:
        return join_key(prefix, "runs", placement.tenant_id or "", "assets", name)
    folder = _run_folder(prefix, placement.run_id, placement.tenant_id, placement.created_at)
    return f"{folder}/assets/{name}"


def manifest_key(
    prefix: str,
    strategy: KeyStrategy,
    *,
    run_id: str,
    tenant_id: str | None = None,
    created_at: datetime,
) -> str:
    """Return the key of a run's manifest; the date is that of `created_at` in its own zone."""
    if strategy is KeyStrategy.CONTENT_ADDRESSABLE:
        return join_key(prefix, "manifests", f"{run_id}.json")
    return f"{_run_folder(prefix, run_id, tenant_id, created_at)}/manifest.json"


def staging_key(prefix: str, name: str) -> str:
    """Return the key large media is written to until its hash is known."""
    return join_key(prefix, "assets", ".tmp", name)


def index_key(prefix: str, asset_id: str, tenant_id: str | None = None) -> str:
    """Return the key of the entry that leads from an asset id to its manifest."""
    tenant = quote(tenant_id, safe="") if tenant_id else ""
    return join_key(prefix, "_index", tenant, f"{asset_id}.json")


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one store: the functions above, relative to its prefix.

    Only the whole key is genblaze's to the character. A prefix ending in `runs` or `assets` merges
    with the layout, so the relative part is cut from the whole key and never built alone.
    """

    prefix: str
    strategy: KeyStrategy

    def asset_key(self, placement: Placement, *, sha256: str, extension: str) -> str:
        """Return the key an asset is stored under."""
        return self._below(
            asset_key(
                self.prefix,
                self.strategy,
                placement=placement,
                sha256=sha256,
                extension=extension,
            )
        )

    def manifest_key(
        self, run_id: str, *, created_at: datetime, tenant_id: str | None = None
    ) -> str:
        """Return the key the manifest of a run is stored under."""
        return self._below(
            manifest_key(
                self.prefix,
                self.strategy,
                run_id=run_id,
                tenant_id=tenant_id,
                created_at=created_at,
            )
        )

    def manifest_folder(self) -> str:
        """Return the folder all manifests are below; empty when that is the whole store."""
        name = "manifests" if self.strategy is KeyStrategy.CONTENT_ADDRESSABLE else "runs"
        return self._below(join_key(self.prefix, name))

    def is_manifest_key(self, key: str) -> bool:
        """Whether a key below `manifest_folder` is that of a manifest."""
        if self.strategy is KeyStrategy.HIERARCHICAL:
            return key.endswith("/manifest.json")
        folder = self.manifest_folder()
        name = key.removeprefix(f"{folder}/") if folder else key
        return name.endswith(".json") and "/" not in name

    def staging_key(self, name: str) -> str:
        """Return the key of a large upload whose hash is not known yet."""
        return self._below(staging_key(self.prefix, name))

    def index_key(self, asset_id: str, tenant_id: str | None = None) -> str:
        """Return the key of the entry that leads from an asset id to its manifest."""
        return self._below(index_key(self.prefix, asset_id, tenant_id))

    def _below(self, object_key: str) -> str:
        prefix = join_key("", self.prefix)
        return object_key[len(prefix) + 1 :] if prefix else object_key


def url_extension(url: str, content_type: str | None) -> str:
    """Return the extension genblaze gives to media fetched from `url`.

    The last suffix of the URL's path, else the one Python's table has for the bare content type,
    else nothing. A content type with parameters has none.
    """
    suffix = PurePosixPath(urlsplit(url).path).suffix
    if suffix or not content_type:
        return suffix
    return _EXTENSIONS.guess_extension(content_type) or ""


def _run_folder(prefix: str, run_id: str, tenant_id: str | None, created_at: datetime) -> str:
    return join_key(prefix, "runs", tenant_id or "", created_at.strftime("%Y-%m-%d"), run_id)


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]
