"""Which local files a pipeline may read as inputs."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from genblaze_dagster.errors import UnsafeUrlError

_SYSTEM_TREES = tuple(
    Path(text)
    for text in (
        "/proc",
        "/dev",
        "/sys",
        "/etc",
        "/private/etc",
        "/private/var/run",
        "/run/credentials",
        "/run/secrets",
        "/var/run/secrets",
    )
)
# Compared with whole path components, so that a folder named `etcetera` is fine.
_CREDENTIAL_NAMES = frozenset(
    {
        ".ssh",
        ".aws",
        ".azure",
        ".b2_account_info",
        ".boto",
        ".config",
        ".docker",
        ".env",
        ".git-credentials",
        ".gnupg",
        ".kube",
        ".netrc",
        ".npmrc",
        ".password-store",
        ".pgpass",
        ".pypirc",
        ".s3cfg",
    }
)


def check_local_path(path: str | Path, allowed_roots: Sequence[Path]) -> Path:
    """Return the real path of an input file when it may be read.

    `path` is an absolute path or a `file://` URL. Links are resolved first; the result must lie
    below one of `allowed_roots`, outside the system's own trees and outside folders and files
    that hold credentials (`~/.ssh`, `~/.aws`, `.netrc`, `.env`, ...).

    Raises:
        UnsafeUrlError: the path is refused; names the path and the rule.
    """
    given = _from_url(path) if isinstance(path, str) and path.startswith("file:") else Path(path)
    if not given.is_absolute() or "\0" in str(given):
        raise UnsafeUrlError(f"{given}: not an absolute path")
    try:
        real = given.resolve()
        is_special = real.exists() and not real.is_file()
    except (OSError, RuntimeError) as exc:
        raise UnsafeUrlError(f"{given}: cannot be followed to a file") from exc
    if not any(real.is_relative_to(root.resolve()) for root in allowed_roots):
        raise UnsafeUrlError(f"{given}: outside the folders inputs may be read from")
    if any(real.is_relative_to(tree) for tree in _SYSTEM_TREES):
        raise UnsafeUrlError(f"{given}: inside a system folder")
    # `given` too: a link named ~/.ssh that leads elsewhere is still a credential folder.
    named = {part.lower() for part in (*real.parts, *given.parts)}
    if named & _CREDENTIAL_NAMES:
        raise UnsafeUrlError(f"{given}: a place where credentials are kept")
    if is_special:
        raise UnsafeUrlError(f"{given}: not a regular file")
    return real


def _from_url(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UnsafeUrlError(f"file URL: the host {parts.netloc!r} is not this machine")
    if parts.query or parts.fragment:
        raise UnsafeUrlError(f"file://{parts.path}: a file URL has no query or fragment")
    return Path(unquote(parts.path))
