from pathlib import Path

import pytest

from genblaze_dagster.errors import UnsafeUrlError
from genblaze_dagster.net.local_path import check_local_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "a b.png").write_bytes(b"x")
    (tmp_path / "outside.png").write_bytes(b"x")
    return folder


def test_files_below_an_allowed_root_pass(root: Path) -> None:
    """A path or a file URL below a root gives the real path, also before the file exists."""
    wanted = (root / "a b.png").resolve()
    assert check_local_path(root / "a b.png", [root]) == wanted
    assert check_local_path(str(root / "a b.png"), [root]) == wanted
    assert check_local_path(f"file://{root}/a%20b.png", [root]) == wanted
    assert check_local_path(f"file://localhost{root}/a%20b.png", [root]) == wanted
    assert check_local_path(root / "new" / "c.png", [root]) == root.resolve() / "new" / "c.png"


def test_whole_components_are_compared(tmp_path: Path) -> None:
    """`inputs-2` is not below `inputs`, and a folder named `etcetera` or `developer` is fine."""
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs-2").mkdir()
    with pytest.raises(UnsafeUrlError, match="outside"):
        check_local_path(tmp_path / "inputs-2" / "a.png", [tmp_path / "inputs"])
    for name in ("/etcetera/x.png", "/developer/x.png", "/system/x.png", "/process/x.png"):
        assert check_local_path(name, [Path("/")]) == Path(name)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/sys/kernel/x",
        "/run/secrets/key",
        "/var/run/secrets/key",
        "/tmp/../etc/passwd",  # noqa: S108
        "file:///etc/passwd",
        "file:///%65tc/passwd",
        "/home/me/.ssh/id_rsa",
        "/home/me/.SSH/id_rsa",
        "/home/me/.aws/credentials",
        "/home/me/.config/gcloud/credentials.db",
        "/home/me/.netrc",
        "/home/me/project/.env",
        "relative/a.png",
        "~/a.png",
        "file://other.host/a.png",
        "file:///a.png?x=1",
        "/a\0b.png",
        "/usr",
    ],
)
def test_system_and_credential_places_are_refused(path: str) -> None:
    """Even with `/` as the root, system trees and places of credentials are refused."""
    with pytest.raises(UnsafeUrlError):
        check_local_path(path, [Path("/")])


def test_links_out_of_the_root_are_followed_and_refused(root: Path, tmp_path: Path) -> None:
    """A link is judged by where it leads; a loop of links is refused."""
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "loop").symlink_to(root / "loop")
    (root / ".ssh").symlink_to(root)
    for name in ("link.png", "loop", "../outside.png", ".ssh/a b.png"):
        with pytest.raises(UnsafeUrlError):
            check_local_path(root / name, [root])


def test_without_roots_nothing_may_be_read(root: Path) -> None:
    """No allowed root means no local files."""
    with pytest.raises(UnsafeUrlError):
        check_local_path(root / "a b.png", [])
