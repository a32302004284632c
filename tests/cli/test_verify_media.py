import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

WithSidecar = Callable[..., Path]


def test_a_file_whose_bytes_are_the_output_is_verified(with_sidecar: WithSidecar, launch) -> None:
    """The sidecar's manifest holds and the file hashes to its output."""
    path = with_sidecar()
    ended = launch("verify", path)
    assert ended.status == 0
    assert ended.stderr == ""
    first, *_, last = ended.stdout.splitlines()
    assert first == f"verified-unsigned  {path}"
    assert "Manifest and bytes agree" in last


def test_a_file_with_other_bytes_fails(with_sidecar: WithSidecar, launch) -> None:
    """A perfect manifest beside other bytes is a failure, not an OK."""
    ended = launch("verify", "--json", with_sidecar(b"retouched"))
    assert ended.status == 1
    assert ended.checks["canonical_hash"] == "pass"
    assert ended.checks["bytes_match"] == "fail"
    assert ended.document["verdict"] == "failed"


def test_hash_only_says_nothing_about_bytes(with_sidecar: WithSidecar, invoke) -> None:
    """With --hash-only other bytes go unnoticed, and the output says that nobody looked."""
    path = with_sidecar(b"retouched")
    ended = invoke("verify", "--hash-only", path)
    assert ended.status == 0
    assert "No media bytes were looked at" in ended.stdout
    assert invoke("verify", "--hash-only", "--json", path).checks == {
        "schema_known": "pass",
        "canonical_hash": "pass",
        "bytes_match": "skip",
    }


def _embedded(vectors: Path) -> list[dict]:
    index = json.loads((vectors / "genblaze" / "media" / "index.json").read_text())
    return [entry for entry in index if entry["method"] == "inline" and entry.get("embedded")]


# What genblaze puts in without changing anything else, and what it leaves to be guessed.
UNDECIDED = {
    "alpha.webp",
    "anim.webp",
    "audio.freeform.m4a",
    "baseline.jpg",
    "id3v23.mp3",
    "list_info.wav",
    "lossy.webp",
    "progressive.jpg",
}


def test_what_genblaze_embedded_is_verified_or_undecided(vectors: Path, invoke) -> None:
    """Every vector is compared with its output; where genblaze re-encoded, nobody can, and why."""
    entries = _embedded(vectors)
    assert len(entries) > 15
    media = vectors / "genblaze" / "media"
    ended = invoke("verify", "--json", *(media / entry["embedded"] for entry in entries))
    assert ended.status == 3
    for report in ended.document["targets"]:
        undecided = Path(report["target"]).name in UNDECIDED
        assert report["bytes"] == ("cannot be decided" if undecided else "bytes verified"), report
        assert report["verdict"] == ("inconclusive" if undecided else "verified-unsigned")
        assert ("with certainty" in report["why"]) == undecided


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("plain.png", 0, "pass    bytes_match: bytes verified: "),
        ("faststart.mp4", 0, "pass    bytes_match: bytes verified: "),
        ("baseline.jpg", 3, "unknown bytes_match: cannot be decided: "),
    ],
)
def test_the_answer_about_the_bytes_is_in_words(
    name: str, status: int, words: str, vectors: Path, launch
) -> None:
    """One line says whether the bytes are the ones, and why."""
    ended = launch("verify", vectors / "genblaze" / "media" / "embedded" / name)
    assert ended.status == status
    assert words in ended.stdout


def test_exchanged_pixels_under_a_manifest_fail(vectors: Path, tmp_path: Path, launch) -> None:
    """genblaze says OK to a file whose samples were changed; this does not."""
    data = bytearray((vectors / "genblaze" / "media" / "embedded" / "faststart.mp4").read_bytes())
    data[data.index(b"mdat") + 64] ^= 0xFF
    path = tmp_path / "exchanged.mp4"
    path.write_bytes(data)
    ended = launch("verify", path)
    assert ended.status == 1
    assert "fail    bytes_match: bytes differ: " in ended.stdout


def test_a_manifest_pasted_into_another_image_fails(vectors: Path, tmp_path: Path, invoke) -> None:
    """The chunk with the manifest of one picture in another one, made with genblaze's own files."""
    media = vectors / "genblaze" / "media"
    donor, other = ((media / "embedded" / n).read_bytes() for n in ("plain.png", "alpha.png"))

    def chunk(data: bytes) -> tuple[int, int]:
        start = data.index(b"iTXtgenblaze:manifest") - 4
        return start, start + 12 + int.from_bytes(data[start : start + 4])

    (start, end), (cut, resume) = chunk(donor), chunk(other)
    path = tmp_path / "pasted.png"
    path.write_bytes(other[:cut] + donor[start:end] + other[resume:])
    ended = invoke("verify", "--json", path)
    assert ended.status == 1
    assert ended.report["bytes"] == "bytes differ"
    assert ended.checks["canonical_hash"] == "pass"


def test_an_original_with_the_manifest_beside_it_is_verified(
    vectors: Path, tmp_path: Path, invoke
) -> None:
    """The untouched originals of the vectors agree with their manifests, byte for byte."""
    media = vectors / "genblaze" / "media"
    entries = _embedded(vectors)
    for entry in entries:
        name = Path(entry["original"]).name
        shutil.copy(media / entry["original"], tmp_path / name)
        shutil.copy(media / entry["manifest"], tmp_path / f"{name}.genblaze.json")
    ended = invoke("verify", "--json", *{tmp_path / Path(e["original"]).name for e in entries})
    assert ended.status == 0, ended.stdout


def test_a_file_without_any_manifest_is_undecided(vectors: Path, launch) -> None:
    """No manifest: status 3, an error, and nothing on stdout."""
    ended = launch("verify", vectors / "genblaze" / "media" / "original" / "plain.png")
    assert ended.status == 3
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: cannot be decided: ")
    assert "plain.png: holds no manifest" in ended.stderr


def test_a_pointer_sidecar_is_undecided(vectors: Path, invoke) -> None:
    """A pointer names a manifest and is none; nobody fetches it."""
    pointer = vectors / "genblaze" / "media" / "embedded" / "pointer.png.genblaze.json"
    ended = invoke("verify", "--json", pointer)
    assert ended.status == 3
    assert ended.document["error"]["type"] == "PointerSidecarError"


def test_a_stored_file_finds_its_run_in_the_store_around_it(shelf, tmp_path: Path, invoke) -> None:
    """A content-addressed file on disk needs neither sidecar nor --store."""
    stored = shelf.add("p")
    ended = invoke("verify", "--json", tmp_path / "shelf" / stored.key)
    assert ended.status == 0, ended.stdout
    assert ended.report["manifest"]["run_id"] == stored.ref.run_id
    assert stored.ref.manifest_key in ended.report["manifest"]["source"]


def test_a_changed_stored_file_fails_against_the_run_its_name_leads_to(
    shelf, tmp_path: Path, invoke
) -> None:
    """The address says which run put the file there, even when its bytes have changed."""
    stored = shelf.add("p")
    shelf.overwrite(stored.key, stored.data + b"!")
    ended = invoke("verify", "--json", tmp_path / "shelf" / stored.key)
    assert ended.status == 1
    assert ended.report["manifest"]["run_id"] == stored.ref.run_id
    assert ended.checks["bytes_match"] == "fail"


def test_store_finds_the_run_that_made_a_loose_file(shelf, tmp_path: Path, invoke) -> None:
    """--store looks the file's own hash up, whatever the file is called."""
    stored = shelf.add("p")
    loose = tmp_path / "from-a-mail.png"
    loose.write_bytes(stored.data)
    ended = invoke("verify", "--json", "--store", shelf.store.url, loose)
    assert ended.status == 0, ended.stdout
    assert ended.report["manifest"]["run_id"] == stored.ref.run_id
    loose.write_bytes(stored.data + b"!")
    ended = invoke("verify", "--store", shelf.store.url, loose)
    assert ended.status == 3
    assert "no run in" in ended.stderr


def test_the_index_knows_runs_no_reference_leads_to_any_more(shelf, tmp_path: Path, invoke) -> None:
    """A partition that was generated again is still found by the bytes of its first run."""
    first = shelf.add("p", prompt="a lighthouse")
    shelf.index()
    shelf.delete("refs/still/p.json")
    loose = tmp_path / "old.png"
    loose.write_bytes(first.data)
    ended = invoke("verify", "--json", "--store", shelf.store.url, loose)
    assert ended.status == 0, ended.stdout
    assert ended.report["manifest"]["run_id"] == first.ref.run_id


def test_a_damaged_index_is_reported_and_not_worked_around(shelf, tmp_path: Path, invoke) -> None:
    """ "No run made these bytes" may not be said when the index could not be asked."""
    stored = shelf.add("p")
    shelf.index()
    for path in (tmp_path / "shelf" / "index").rglob("*.parquet"):
        path.write_bytes(b"PAR1 damaged")
    loose = tmp_path / "loose.png"
    loose.write_bytes(stored.data)
    ended = invoke("verify", "--json", "--store", shelf.store.url, loose)
    assert ended.status == 5
    assert ended.document["verdict"] == "error"
    assert ended.document["error"]["type"] == "IndexQueryError"


def test_store_decides_about_a_file_that_carries_a_foreign_manifest(
    shelf, with_sidecar: WithSidecar, invoke
) -> None:
    """Bytes the store knows are verified against the run that made them, not the sidecar."""
    stored = shelf.add("p")
    path = with_sidecar(stored.data)
    assert invoke("verify", path).status == 1
    assert invoke("verify", "--store", shelf.store.url, path).status == 0


def test_several_targets_are_all_looked_at(
    with_sidecar: WithSidecar, tmp_path: Path, invoke
) -> None:
    """One unreadable target hides no other, and a failure outweighs everything."""
    bad = with_sidecar(b"retouched")
    none = tmp_path / "none.bin"
    none.write_bytes(b"no manifest here")
    ended = invoke("verify", "--json", tmp_path / "gone.png", none, bad)
    assert ended.status == 1
    verdicts = [report["verdict"] for report in ended.document["targets"]]
    assert verdicts == ["error", "inconclusive", "failed"]
    assert ended.document["error"]["type"] == "NotFoundError"
    assert invoke("verify", tmp_path / "gone.png", none).status == 4


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\x89PNG\r\n\x1a\n"])
def test_broken_media_is_undecided(content: bytes, tmp_path: Path, invoke) -> None:
    """An empty file, zeros and a cut-off header hold no manifest, and nothing breaks."""
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    ended = invoke("verify", path)
    assert ended.status == 3
    assert ended.stdout == ""


def test_a_file_name_cannot_steer_the_terminal(tmp_path: Path, invoke) -> None:
    """Escape sequences in names are shown, not sent."""
    path = tmp_path / "a\x1b[2Jb.png"
    path.write_bytes(b"x")
    ended = invoke("verify", path)
    assert "\x1b" not in ended.stderr + ended.stdout
    assert "\\x1b[2Jb.png" in ended.stderr
