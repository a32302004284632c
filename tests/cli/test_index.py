"""`index`: what verifies reaches the tables, from files, folders and stores; the rest is told."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.redaction import redacted_run
from genblaze_dagster.index.parquet_sink import ParquetSink
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.keys import KeyStrategy
from genblaze_dagster.storage.manifests import write_manifest
from tests.index.making import generation, media

TABLES = ("runs", "steps", "assets")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where the tables go."""
    return tmp_path / "tables"


def rows(output: Path, name: str = "runs") -> list[dict[str, Any]]:
    found = ParquetSink(output).dataset(name).to_table().to_pylist()
    return sorted(found, key=lambda row: (row["run_id"], row.get("step_id", "")))


def ids(output: Path) -> list[str]:
    return [row["run_id"] for row in rows(output)]


def save(manifest: Manifest, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(manifest.to_canonical_json(), encoding="utf-8")
    return path


def save_many(folder: Path, count: int) -> list[str]:
    """Save manifests of one run each, a hundred to a folder; return their run ids."""
    made = [generation([media(str(number))], prompt=f"number {number}") for number in range(count)]
    for number, manifest in enumerate(made):
        save(manifest, folder / str(number // 100) / f"{number}.json")
    return sorted(manifest.run.run_id for manifest in made)


class TestFiles:
    """Single files."""

    def test_a_manifest_is_indexed_once(self, tmp_path, output, invoke) -> None:
        """The second call finds nothing to do."""
        manifest = generation([media("a")])
        path = save(manifest, tmp_path / "m.json")
        first = invoke("index", path, "-o", output, "--json")
        assert first.status == 0
        assert first.document == {
            "output": str(output),
            "indexed": 1,
            "unchanged": 0,
            "skipped": [],
        }
        assert ids(output) == [manifest.run.run_id]
        again = invoke("index", path, "-o", output)
        assert again.status == 0
        assert again.stdout == f"0 indexed, 1 unchanged, 0 skipped  {output}\n"

    def test_a_new_cost_of_the_same_run_is_an_update(self, tmp_path, output, invoke) -> None:
        """What the hash does not cover reaches the tables when it changes."""
        manifest = generation([media("a")], cost_usd=None)
        invoke("index", save(manifest, tmp_path / "m.json"), "-o", output)
        manifest.run.steps[0].cost_usd = 0.5
        ended = invoke("index", save(manifest, tmp_path / "m.json"), "-o", output, "--json")
        assert ended.document["indexed"] == 1
        assert [row["cost_usd"] for row in rows(output, "steps")] == [0.5]

    def test_the_default_output_is_genblazes(self, tmp_path, launch) -> None:
        """Without -o the tables are in ./genblaze_index."""
        save(generation([media("a")]), tmp_path / "m.json")
        assert launch("index", "m.json").status == 0
        assert len(ids(tmp_path / "genblaze_index")) == 1

    def test_it_writes_what_genblaze_writes(self, vectors, tmp_path, output, invoke) -> None:
        """Same files and rows as genblaze's own command, for every manifest both take."""
        theirs = tmp_path / "theirs"
        for name in ("003_video.json", "014_multi_step_chain.json", "006_ingest.json"):
            path = vectors / "genblaze" / "manifests" / name
            program = Path(sys.executable).with_name("genblaze")
            command = [program, "index", path, "-o", theirs]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            assert invoke("index", path, "-o", output).status == 0
        ours = sorted(p.relative_to(output) for p in output.rglob("*") if p.is_file())
        assert ours == sorted(p.relative_to(theirs) for p in theirs.rglob("*") if p.is_file())
        for path in ours:
            if path.suffix == ".parquet":
                found, wanted = (pq.ParquetFile(base / path).read() for base in (output, theirs))
                assert found.to_pylist() == wanted.to_pylist()

    def test_a_file_without_a_manifest_is_undecided(self, tmp_path, output, invoke) -> None:
        """Named itself, a file that has no manifest is told, with the status for it."""
        path = tmp_path / "plain.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 30)
        ended = invoke("index", path, "-o", output, "--json")
        assert ended.status == 3
        assert [skipped["type"] for skipped in ended.document["skipped"]] == ["EmbeddingError"]
        assert not output.exists()

    def test_a_run_id_that_is_a_path_stays_below_the_output(self, tmp_path, invoke) -> None:
        """The run id is not hashed, so a verified manifest may hold any."""
        output = tmp_path / "deep" / "tables"
        manifest = Manifest.from_run(Run(run_id="../../../escaped"))
        assert manifest.verify_hash()
        assert invoke("index", save(manifest, tmp_path / "m.json"), "-o", output).status == 0
        assert ids(output) == ["../../../escaped"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "m.json"]


class TestFolders:
    """Everything below a directory."""

    def test_embedded_sidecar_and_standalone_count_once(self, vectors, output, invoke) -> None:
        """Every medium of the vectors is indexed through its manifest, wherever that is."""
        folder = vectors / "genblaze" / "media"
        documents = [json.loads(p.read_text()) for p in (folder / "manifest").glob("*.json")]
        wanted = {document["run"]["run_id"] for document in documents}
        ended = invoke("index", folder, "-o", output, "--json")
        assert set(ids(output)) >= wanted
        assert ended.document["indexed"] == len(ids(output))
        kinds = {skipped["type"] for skipped in ended.document["skipped"]}
        # A pointer; and m4a twice, whose two manifests claim the same run.
        assert kinds == {"PointerSidecarError", "IntegrityError"}

    def test_bad_manifests_are_told_and_the_rest_is_indexed(self, tmp_path, output, invoke) -> None:
        """Tampered, truncated and future ones are skipped by name; status 1 outweighs 3."""
        good = generation([media("a")], prompt="a fox")
        text = save(good, tmp_path / "in" / "good.json").read_text()
        (tmp_path / "in" / "tampered.json").write_text(text.replace("a fox", "a wolf"))
        (tmp_path / "in" / "truncated.json").write_text(text[:200])
        future = text.replace('"schema_version":"1.5"', '"schema_version":"7.0"')
        (tmp_path / "in" / "future.json").write_text(future)
        ended = invoke("index", tmp_path / "in", "-o", output, "--json")
        assert ended.status == 1
        assert ended.stderr == ""
        told = {Path(s["target"]).name: s["type"] for s in ended.document["skipped"]}
        assert told == {
            "tampered.json": "IntegrityError",
            "truncated.json": "SchemaError",
            "future.json": "UnsupportedSchemaVersionError",
        }
        assert ids(output) == [good.run.run_id]
        shown = invoke("index", tmp_path / "in", "-o", output)
        assert shown.stdout.startswith("0 indexed, 1 unchanged, 3 skipped")
        assert shown.stderr.count("error: ") == 3
        assert "wolf" not in shown.stderr

    def test_a_broken_sidecar_is_told_once(self, with_sidecar, output, invoke) -> None:
        """It counts as the one reason why its medium has no manifest."""
        beach = with_sidecar()
        sidecar = beach.with_name(f"{beach.name}.genblaze.json")
        sidecar.write_text(sidecar.read_text()[:100])
        ended = invoke("index", beach.parent, "-o", output, "--json")
        assert ended.status == 1
        assert [s["target"] for s in ended.document["skipped"]] == [str(beach)]

    def test_what_holds_no_manifest_is_passed_over(self, tmp_path, output, invoke) -> None:
        """Other JSON, plain media, text, empty, odd and hidden files are no reason to fail."""
        folder = tmp_path / "in"
        good = generation([media("a")])
        save(good, folder / "run.json")
        (folder / "package.json").write_text('{"name": "x", "version": "1"}')
        (folder / "list.json").write_text("[1, 2]")
        (folder / "plain.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 30)
        (folder / "notes.txt").write_text("{ not JSON")
        (folder / "empty").touch()
        (folder / "loop").symlink_to(folder)
        os.mkfifo(folder / "pipe")
        ended = invoke("index", folder, "-o", output, "--json")
        assert (ended.status, ended.document["skipped"]) == (0, [])
        assert ids(output) == [good.run.run_id]

    def test_a_local_store_is_a_folder(self, shelf, tmp_path, output, invoke) -> None:
        """Its manifests are indexed; its references, index and media are passed over."""
        stored = [shelf.add(f"p{number}") for number in range(3)]
        shelf.index()
        for target in (tmp_path / "shelf", shelf.store.url):
            ended = invoke("index", target, "-o", output, "--json")
            assert (ended.status, ended.document["skipped"]) == (0, [])
            assert ids(output) == sorted(one.ref.run_id for one in stored)

    def test_the_output_may_lie_in_the_folder(self, tmp_path, invoke) -> None:
        """Its own tables are no input of the command."""
        save(generation([media("a")]), tmp_path / "m.json")
        for _ in range(2):
            ended = invoke("index", tmp_path, "-o", tmp_path / "genblaze_index", "--json")
            assert (ended.status, ended.document["skipped"]) == (0, [])

    def test_the_whole_manifest_goes_before_a_redacted_one(self, tmp_path, output, invoke) -> None:
        """In whatever order they are found: the run counts once, with its prompt."""
        whole = generation([media("a")], prompt="a fox in the snow")
        hidden = EmbedPolicy(include_params=False, prompt_visibility="private")
        run = redacted_run(whole.run, hidden, canonical_hash=whole.canonical_hash)
        assert run is not None
        short = save(Manifest.from_run(run), tmp_path / "short.json")
        full = save(whole, tmp_path / "full.json")
        for targets in ((short, full), (full, short)):
            ended = invoke("index", *targets, "-o", output, "--json")
            assert (ended.status, ended.document["skipped"]) == (0, [])
            assert [row["prompt"] for row in rows(output, "steps")] == ["a fox in the snow"]
            shutil.rmtree(output)

    def test_two_contents_of_one_run_are_told(self, tmp_path, output, invoke) -> None:
        """The first is indexed, and the message names both places."""
        first, second = generation([media("a")], run_id="r"), generation([media("b")], run_id="r")
        targets = (save(first, tmp_path / "1.json"), save(second, tmp_path / "2.json"))
        ended = invoke("index", *targets, "-o", output, "--json")
        assert ended.status == 1
        (skipped,) = ended.document["skipped"]
        assert skipped["target"] == str(targets[1])
        assert str(targets[0]) in skipped["message"]
        assert [row["canonical_hash"] for row in rows(output)] == [first.canonical_hash]

    @pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
    def test_thousands_of_manifests_in_one_call(self, tmp_path, output, invoke, count) -> None:
        """A folder of folders, all of it, and a second call changes nothing."""
        wanted = save_many(tmp_path / "in", count)
        ended = invoke("index", tmp_path / "in", "-o", output, "--json")
        assert (ended.status, ended.document["indexed"]) == (0, count)
        assert ids(output) == wanted
        again = invoke("index", tmp_path / "in", "-o", output, "--json")
        assert (again.document["indexed"], again.document["unchanged"]) == (0, count)


class TestTargets:
    """Several targets, and what is none."""

    def test_a_missing_target_does_not_stop_the_others(self, tmp_path, output, invoke) -> None:
        """Status 4 and the name of it; what is there is indexed."""
        path = save(generation([media("a")]), tmp_path / "m.json")
        ended = invoke("index", tmp_path / "gone.json", path, "-o", output, "--json")
        assert ended.status == 4
        assert [s["type"] for s in ended.document["skipped"]] == ["NotFoundError"]
        assert len(ids(output)) == 1

    def test_tables_that_cannot_be_written_end_the_command(self, tmp_path, invoke) -> None:
        """Nothing could be indexed after that: one error, status 4."""
        (tmp_path / "file").write_text("x")
        path = save(generation([media("a")]), tmp_path / "m.json")
        ended = invoke("index", path, "-o", tmp_path / "file" / "tables", "--json")
        assert ended.status == 4
        assert ended.document["error"]["type"] == "SinkError"

    @pytest.mark.parametrize("target", ["https://example.com/m.json", "file://host/m.json"])
    def test_urls_that_are_not_read_are_a_usage_error(self, output, invoke, target) -> None:
        """Nothing is fetched from the web."""
        ended = invoke("index", target, "-o", output)
        assert ended.status == 2
        assert not output.exists()


class TestS3:
    """Targets on a real S3 server."""

    @pytest.mark.parametrize("strategy", list(KeyStrategy))
    def test_stores_prefixes_and_objects(
        self, s3_server, s3_bucket, on_s3, output, invoke, strategy
    ) -> None:
        """The store, the folder of its manifests, one manifest, and the media it made."""
        shelf = on_s3(s3_bucket, strategy=strategy)
        stored = [shelf.add("a"), shelf.add("b")]
        shelf.overwrite("assets/big.bin", b"0" * 100)
        base = f"s3://{s3_bucket}/media"
        folder = stored[0].ref.manifest_key.split("/")[0]
        both = sorted(one.ref.run_id for one in stored)
        for target, wanted in (
            (base, both),
            (f"{base}/{folder}", both),
            (f"s3://{s3_bucket}/", both),
            (f"{base}/{stored[0].ref.manifest_key}", both[:1]),
            (f"{base}/{stored[1].key}", both[1:]),
        ):
            ended = invoke("index", target, "-o", output, env=s3_server.environment())
            assert (ended.status, ended.stderr) == (0, "")
            assert ids(output) == wanted
            shutil.rmtree(output)

    def test_damage_in_a_store_is_told_by_url(
        self, s3_server, s3_bucket, on_s3, output, invoke
    ) -> None:
        """A tampered and an oversized manifest are skipped, the others indexed."""
        shelf = on_s3(s3_bucket)
        good, bad = shelf.add("good"), shelf.add("bad", prompt="a fox")
        text = bad.manifest.to_canonical_json().replace("a fox", "a wolf")
        shelf.overwrite(bad.ref.manifest_key, text.encode())
        shelf.overwrite("manifests/large.json", b" " * ((16 << 20) + 1))
        base = f"s3://{s3_bucket}/media"
        ended = invoke("index", base, "-o", output, "--json", env=s3_server.environment())
        assert ended.status == 1
        told = {skipped["target"]: skipped["type"] for skipped in ended.document["skipped"]}
        assert told == {
            f"{base}/{bad.ref.manifest_key}": "IntegrityError",
            f"{base}/manifests/large.json": "EmbeddingError",
        }
        assert ids(output) == [good.ref.run_id]

    def test_loose_objects_are_looked_into(
        self, s3_server, s3_bucket, on_s3, with_sidecar, vectors, output, invoke
    ) -> None:
        """A prefix that is no store: sidecars, embedded manifests and manifest files."""
        shelf = on_s3(s3_bucket)
        beach = with_sidecar()
        sidecar = beach.with_name(f"{beach.name}.genblaze.json")
        embedded = vectors / "genblaze" / "media" / "embedded" / "plain.png"
        document = save(generation([media("a")]), beach.parent / "run.json")
        for path in (beach, sidecar, embedded, document):
            shelf.overwrite(f"loose/{path.name}", path.read_bytes())
        shelf.overwrite("loose/other.json", b'{"a": 1}')
        target = f"s3://{s3_bucket}/media/loose"
        ended = invoke("index", target, "-o", output, "--json", env=s3_server.environment())
        assert (ended.status, ended.document["skipped"]) == (0, [])
        assert len(ids(output)) == 3

    @pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
    def test_a_prefix_of_many_manifests(
        self, s3_server, s3_bucket, on_s3, output, invoke, count
    ) -> None:
        """One call indexes all of them; the second finds them unchanged."""
        shelf = on_s3(s3_bucket)
        made = [generation([media(str(number))]) for number in range(count)]

        async def store_all() -> None:
            for manifest in made:
                await write_manifest(shelf.store, manifest)

        run_sync(store_all())
        target = f"s3://{s3_bucket}/media"
        for indexed in (count, 0):
            ended = invoke("index", target, "-o", output, "--json", env=s3_server.environment())
            assert ended.status == 0, ended.stderr
            assert ended.document["indexed"] == indexed
            assert ended.document["unchanged"] == count - indexed
        assert ids(output) == sorted(manifest.run.run_id for manifest in made)
