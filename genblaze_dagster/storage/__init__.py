"""Where media and manifests are kept. Names are imported on first use."""

from typing import TYPE_CHECKING

from genblaze_dagster.core.lazy import lazy_exports

if TYPE_CHECKING:
    from genblaze_dagster.storage.backend import S3StorageBackend as S3StorageBackend
    from genblaze_dagster.storage.keys import KeyStrategy as KeyStrategy
    from genblaze_dagster.storage.keys import Placement as Placement
    from genblaze_dagster.storage.manifests import read_manifest as read_manifest
    from genblaze_dagster.storage.manifests import write_manifest as write_manifest
    from genblaze_dagster.storage.media import Media as Media
    from genblaze_dagster.storage.media import StoredFile as StoredFile
    from genblaze_dagster.storage.sink import ObjectStorageSink as ObjectStorageSink
    from genblaze_dagster.storage.store import MediaStore as MediaStore
    from genblaze_dagster.storage.store import ObjectInfo as ObjectInfo
    from genblaze_dagster.storage.store import PutMode as PutMode
    from genblaze_dagster.storage.store import StoredMedia as StoredMedia
    from genblaze_dagster.storage.store import StoreOptions as StoreOptions
    from genblaze_dagster.storage.urls import PresignedURL as PresignedURL

_EXPORTS = {
    "backend": ("S3StorageBackend",),
    "keys": ("KeyStrategy", "Placement"),
    "manifests": ("read_manifest", "write_manifest"),
    "media": ("Media", "StoredFile"),
    "sink": ("ObjectStorageSink",),
    "store": ("MediaStore", "ObjectInfo", "PutMode", "StoreOptions", "StoredMedia"),
    "urls": ("PresignedURL",),
}

__all__, __getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
