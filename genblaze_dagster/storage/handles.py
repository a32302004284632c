"""obstore's store objects, made from a location and its options. Nothing is contacted here."""

import atexit
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore.store import LocalStore, MemoryStore, S3Store

from genblaze_dagster.errors import StorageError
from genblaze_dagster.storage.location import Location, S3Access, Scheme
from genblaze_dagster.storage.options import StoreOptions

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

USER_AGENT = "genblaze-dagster"

_memories: dict[str, MemoryStore] = {}
_memories_lock = threading.Lock()

# obstore hands results over on threads of its own. A process that ends in the very moment one of
# them lets go of a Python object aborts (SIGABRT), so the interpreter waits for them a moment.
atexit.register(time.sleep, 0.02)


def connect(
    location: Location, access: S3Access | None, options: StoreOptions, *, write: bool
) -> "ObjectStore":
    """Return the obstore handle of a store; a directory is created when it is to be written.

    Raises:
        obstore.exceptions.BaseError: the directory is missing or cannot be created.
    """
    if location.scheme is Scheme.MEMORY:
        with _memories_lock:
            return _memories.setdefault(location.root, MemoryStore())
    if location.scheme is Scheme.FILE:
        return LocalStore(location.root, mkdir=write)
    if access is None:
        raise StorageError(f"{location.url}: no access settings for an S3 store")
    return connect_s3(location.root, access, options)


def connect_s3(
    bucket: str, access: S3Access, options: StoreOptions, *, for_parts: bool = False
) -> S3Store:
    """Return the obstore handle of a bucket; `for_parts` is the one large uploads go through."""
    sign_parts = options.sign_parts
    if sign_parts is None:
        sign_parts = access.is_exposed
    config: S3Config = {
        "region": access.region,
        "virtual_hosted_style_request": False,
        "conditional_put": "etag",
        "unsigned_payload": for_parts and not sign_parts,
        # DeleteObjects needs a checksum header that not every service knows.
        "disable_bulk_delete": True,
        "skip_signature": access.credentials is None,
    }
    if access.endpoint is not None:
        # The one name that AWS_ENDPOINT_URL_S3 in the environment cannot override.
        config["aws_endpoint_url_s3"] = access.endpoint
    if options.checksums if options.checksums is not None else access.is_aws:
        config["checksum_algorithm"] = "CRC64NVME" if for_parts else "SHA256"
    client: ClientConfig = {
        "user_agent": USER_AGENT,
        "connect_timeout": timedelta(seconds=options.connect_timeout),
        "read_timeout": timedelta(seconds=options.read_timeout),
        # obstore's limit for a whole request; a large object over a slow line needs long.
        "timeout": timedelta(hours=6),
        "allow_http": access.endpoint is not None and access.endpoint.startswith("http://"),
        "allow_invalid_certificates": not access.verify_tls,
    }
    retry: RetryConfig = {
        "max_retries": options.max_retries,
        "backoff": {
            "init_backoff": timedelta(seconds=options.backoff),
            "max_backoff": timedelta(seconds=10),
            "base": 2,
        },
    }
    return S3Store(
        bucket,
        config=config,
        client_options=client,
        retry_config=retry,
        credential_provider=access.credentials,
    )
