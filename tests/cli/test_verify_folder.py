import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Shelf


@pytest.fixture
def album(vectors: Path, tmp_path: Path) -> Path:
    """A folder of files that genblaze made: embedded, with a sidecar, and one it re-encoded."""
    media = vectors / "genblaze" / "media"
    folder = tmp_path / "album"
    (folder / "sound").mkdir(parents=True)
    for name in ("plain.png", "faststart.mp4", "baseline.jpg"):
        shutil.copy(media / "embedded" / name, folder / name)
    shutil.copy(media / "embedded" / "plain.wav", folder / "sound" / "plain.wav")
    shutil.copy(media / "original" / "picture.gif", folder / "picture.gif")
    sidecar = "picture.gif.genblaze.json"
    shutil.copy(media / "embedded" / sidecar, folder / sidecar)
    (folder / "readme.txt").write_text("not media")
    return folder


def test_a_folder_is_one_line_for_each_problem_and_a_summary(album: Path, launch) -> None:
    """Every file is looked at in one call; what is fine is counted, what is not has a line."""
    ended = launch("verify", album)
    assert ended.status == 3
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert lines[0] == f"inconclusive  {album}"
    (problem,) = (line for line in lines if line.startswith("    "))
    assert problem.startswith(f"    undecided: {album / 'baseline.jpg'}: bytes_match: ")
    assert "  4 verified, 0 differ, 1 undecided, 0 without manifest, 0 errors, 1 skipped" in lines


def test_a_tampered_file_in_a_folder_fails_it(album: Path, invoke) -> None:
    """One bad file among good ones: status 1, and its name."""
    (album / "baseline.jpg").unlink()
    assert invoke("verify", album).status == 0
    data = bytearray((album / "plain.png").read_bytes())
    data[-30] ^= 1
    (album / "plain.png").write_bytes(data)
    ended = invoke("verify", "--json", album)
    assert ended.status == 1
    assert ended.report["kind"] == "folder"
    assert ended.report["bytes"] == "bytes differ"
    assert ended.report["counts"] == {
        "verified": 3,
        "differ": 1,
        "undecided": 0,
        "without_manifest": 0,
        "errors": 0,
        "skipped": 1,
    }
    (finding,) = ended.report["findings"]
    assert finding["subject"].endswith("album/plain.png")
    assert ended.checks["bytes_match"] == "fail"


def test_a_damaged_file_does_not_end_the_run(album: Path, vectors: Path, invoke) -> None:
    """A broken manifest is status 1 and a line, and every other file is still counted."""
    shutil.copy(vectors / "genblaze" / "manifests" / "002_image.json", album / "m.json")
    data = (album / "plain.png").read_bytes()
    (album / "plain.png").write_bytes(data.replace(b'"run":', b'"run";'))
    ended = invoke("verify", album)
    assert ended.status == 1
    assert f"manifest damaged: {album / 'plain.png'}: manifest is not JSON" in ended.stdout
    assert "4 verified, 0 differ, 1 undecided, 0 without manifest, 1 errors" in ended.stdout


def test_a_directory_without_media_is_not_called_verified(tmp_path: Path, invoke) -> None:
    """Nothing looked at means undecided, not verified."""
    (tmp_path / "holiday.txt").write_text("no media")
    result = invoke("verify", tmp_path)
    assert result.status == 3
    assert "inconclusive" in result.stdout
    assert "nothing was verified" in result.stdout


def test_names_in_a_folder_cannot_steer_the_terminal(tmp_path: Path, invoke) -> None:
    """Escape sequences in the names of found files are shown, not sent."""
    (tmp_path / "a\x1b[2J.png").write_bytes(b"x")
    ended = invoke("verify", tmp_path)
    assert "\x1b" not in ended.stdout
    assert "\\x1b[2J.png" in ended.stdout


def test_a_prefix_is_verified_like_a_folder(
    album: Path, s3_server, s3_bucket: str, on_s3, invoke
) -> None:
    """s3://bucket/prefix without references: every object below it, in one call."""
    shelf: Shelf = on_s3(s3_bucket)
    for path in album.rglob("*.*"):
        shelf.overwrite(f"album/{path.relative_to(album).as_posix()}", path.read_bytes())
    url = f"s3://{s3_bucket}/media/album"
    ended = invoke("verify", url, env=s3_server.environment())
    assert ended.status == 3, ended.stderr
    assert f"undecided: {url}/baseline.jpg: " in ended.stdout
    assert "4 verified, 0 differ, 1 undecided, 0 without manifest, 0 errors" in ended.stdout
    assert "/genblaze-" not in ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--hash-only", "--fetch"), ("--allowed-root", "."), ("--fetch", "--allowed-root", "./gone")],
    ids=["hash-only-and-fetch", "root-without-fetch", "no-such-root"],
)
def test_options_that_contradict_each_other_are_usage_errors(
    arguments: tuple[str, ...], album: Path, invoke
) -> None:
    """Nothing is looked at before the question makes sense."""
    ended = invoke("verify", *arguments, album)
    assert (ended.status, ended.stdout) == (2, "")


def test_fetch_reads_files_below_allowed_roots(with_sidecar, tmp_path: Path, launch) -> None:
    """file:// URLs of a manifest are read where the user says, and compared."""
    path = with_sidecar()
    sidecar = path.with_name("beach.png.genblaze.json")
    module = Path(json.__file__)
    document = json.loads(sidecar.read_text())
    document["run"]["steps"][0]["assets"][0]["url"] = module.as_uri()
    sidecar.write_text(json.dumps(document))
    refused = launch("verify", "--fetch", path)
    assert refused.status == 3
    assert "not fetched, the address is refused: output " in refused.stdout
    ended = launch("verify", "--fetch", "--allowed-root", module.parent, "--json", path)
    assert ended.status == 1
    assert ended.checks["bytes_match"] == "pass"
    assert ended.checks["fetched_bytes_match"] == "fail"


def test_fetch_never_prints_a_query(with_sidecar, invoke) -> None:
    """Presigned URLs of a manifest stay out of both forms of output."""
    path = with_sidecar()
    sidecar = path.with_name("beach.png.genblaze.json")
    signed = "https://127.0.0.1/beach.png?X-Amz-Signature=canary"
    text = sidecar.read_text().replace("https://cdn.example.com/beach.png", signed)
    sidecar.write_text(text)
    for options in ((), ("--json",)):
        ended = invoke("verify", "--fetch", *options, path)
        assert ended.status == 3
        assert "canary" not in ended.stdout + ended.stderr
        assert "https://127.0.0.1/beach.png" in ended.stdout
