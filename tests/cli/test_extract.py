import json
from pathlib import Path

import pytest


def _inline(vectors: Path) -> list[dict]:
    index = json.loads((vectors / "genblaze" / "media" / "index.json").read_text())
    return [entry for entry in index if entry.get("genblaze_handler_reads")]


def test_every_embedded_manifest_comes_out_byte_for_byte(
    vectors: Path, tmp_path: Path, invoke
) -> None:
    """What genblaze put into a file is what `-o` writes, with nothing on stdout."""
    media = vectors / "genblaze" / "media"
    entries = _inline(vectors)
    assert len(entries) > 15
    for entry in entries:
        output = tmp_path / "out.json"
        ended = invoke("extract", media / entry["embedded"], "-o", output)
        assert (ended.status, ended.stdout) == (0, ""), entry
        assert output.read_bytes() == (media / entry["manifest"]).read_bytes(), entry


def test_stdout_holds_the_canonical_manifest(vectors: Path, invoke, launch) -> None:
    """Printed, it is the canonical text and a newline, with and without --json."""
    path = vectors / "genblaze" / "manifests" / "042_reordered_pretty.json"
    case = json.loads((vectors / "genblaze" / "index.json").read_text())["manifests"]
    expected = next(c for c in case if c["file"].endswith(path.name))["expect"]
    ended = launch("extract", path)
    assert ended.status == 0
    assert ended.document["canonical_hash"] == expected["computed_canonical_hash"]
    assert ended.stdout.count("\n") == 1
    assert invoke("extract", "--json", path).stdout == ended.stdout


def test_the_summary_names_what_matters(vectors: Path, invoke) -> None:
    """Lines for people, an object for programs, the same facts."""
    path = vectors / "genblaze" / "manifests" / "022_tampered_prompt.json"
    lines = invoke("extract", "--format", "summary", path).stdout.splitlines()
    facts = invoke("extract", "--format", "summary", "--json", path).document
    assert facts["hash_ok"] is False
    assert "hash ok: no" in lines
    assert f"canonical hash: {facts['canonical_hash']}" in lines
    assert [line.split(":")[0].replace(" ", "_") for line in lines] == list(facts)


def test_json_with_an_output_file_says_where_it_went(vectors: Path, tmp_path: Path, invoke) -> None:
    """One document on stdout, the manifest in the file."""
    output = tmp_path / "out.json"
    path = vectors / "genblaze" / "manifests" / "002_image.json"
    document = invoke("extract", "--json", path, "-o", output).document
    written = json.loads(output.read_bytes())
    assert document == {"path": str(output), "canonical_hash": written["canonical_hash"]}


def test_the_manifest_of_stored_media_is_found(shelf, tmp_path: Path, invoke) -> None:
    """Media in a store has its manifest there."""
    stored = shelf.add("p")
    ended = invoke("extract", tmp_path / "shelf" / stored.key)
    assert ended.document["run"]["run_id"] == stored.ref.run_id


def test_the_manifest_of_an_object_in_a_bucket_is_found(
    s3_server, s3_bucket: str, on_s3, invoke
) -> None:
    """An s3:// URL works like a path."""
    stored = on_s3(s3_bucket).add("p")
    url = f"s3://{s3_bucket}/media/{stored.key}"
    ended = invoke("extract", url, env=s3_server.environment())
    assert ended.status == 0, ended.stderr
    assert ended.document["run"]["run_id"] == stored.ref.run_id


def test_messages_name_the_object_and_not_a_temporary_file(
    s3_server, s3_bucket: str, on_s3, invoke
) -> None:
    """The error about an object names its URL."""
    shelf = on_s3(s3_bucket)
    shelf.overwrite("loose/a.png", b"no manifest")
    url = f"s3://{s3_bucket}/media/loose/a.png"
    ended = invoke("extract", url, env=s3_server.environment())
    assert ended.status == 3
    assert f"error: {url}: " in ended.stderr
    assert "/genblaze-" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "status"),
    [("plain.png", 3), ("gone.png", 4), ("folder", 2)],
)
def test_without_a_manifest_nothing_is_printed_or_written(
    name: str, status: int, vectors: Path, tmp_path: Path, invoke
) -> None:
    """No manifest, no file, a folder: the status says which, and no output file appears."""
    (tmp_path / "folder").mkdir()
    original = vectors / "genblaze" / "media" / "original" / name
    path = original if original.exists() else tmp_path / name
    output = tmp_path / "out.json"
    ended = invoke("extract", path, "-o", output)
    assert (ended.status, ended.stdout) == (status, "")
    assert not output.exists()


def test_an_output_folder_that_is_not_there_is_an_error(
    vectors: Path, tmp_path: Path, invoke
) -> None:
    """The message names the file that could not be written."""
    path = vectors / "genblaze" / "manifests" / "002_image.json"
    ended = invoke("extract", path, "-o", tmp_path / "no" / "such" / "out.json")
    assert ended.status == 4
    assert "No such file or directory" in ended.stderr
