"""ParquetSink: genblaze's layout and rows, nothing lost, nothing leaked, nothing outside."""

import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from genblaze_dagster.core.enums import Modality, PromptVisibility, RunStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.errors import ConfigError, ManifestError, SinkError
from genblaze_dagster.index.parquet_sink import ParquetSink
from tests.index.making import generation, media
from tests.index.sinking import (
    PLAIN_ID,
    changed,
    expected,
    files,
    rows,
    table,
    vector_manifests,
)


class TestLayout:
    """What genblaze writes, we write."""

    def test_every_vector_has_genblazes_files_and_rows(self, vectors, tmp_path) -> None:
        """Paths, index entries, column names and rows equal what genblaze wrote for these runs."""
        with ParquetSink(tmp_path) as sink:
            for manifest in vector_manifests(vectors):
                sink.write_run(manifest.run, manifest)
        wanted = expected(vectors)["files"]
        assert files(tmp_path) == sorted(file["path"] for file in wanted)
        for file in wanted:
            path = tmp_path / file["path"]
            if "text" in file:
                assert path.read_text() == file["text"]
            else:
                found = pq.ParquetFile(path).read()
                assert found.schema.names == [name for name, _ in file["schema"]]
                assert found.to_pylist() == file["rows"]
                assert pq.ParquetFile(path).num_row_groups == 1

    def test_the_date_is_that_of_the_runs_own_zone(self, tmp_path) -> None:
        """Half past eleven in the evening, west of Greenwich, is still that day."""
        west = datetime.fromisoformat("2025-06-01T23:30:00-05:00")
        ParquetSink(tmp_path).write(Manifest.from_run(Run(run_id=PLAIN_ID, created_at=west)))
        path = "runs/dt=2025-06-01/tenant_id=default/modality=unknown/provider=unknown"
        (row,) = rows(tmp_path / path / f"{PLAIN_ID}.parquet")
        assert row["created_at"] == "2025-06-01T23:30:00-05:00"
        assert not (tmp_path / "steps").exists()

    def test_names_are_joined_sorted_and_then_sanitised(self, tmp_path) -> None:
        """Providers are distinct, sorted as written; what is not plain becomes an underscore."""
        steps = [Step(provider=name, model="m") for name in ("a-b", "a/b", "é", "a/b", "")]
        run = Run(run_id=PLAIN_ID, tenant_id="", created_at=datetime(2025, 6, 1, tzinfo=UTC))
        run.steps = [*steps, Step(provider="a/b", model="m", modality=Modality.TEXT)]
        ParquetSink(tmp_path).write(Manifest.from_run(run))
        entry = (tmp_path / "_run_index" / f"{PLAIN_ID}.partition").read_text()
        tail = "tenant_id=default/modality=image_text/provider=a-b_a_b__"
        assert entry == f"dt=2025-06-01/{tail}"

    @pytest.mark.parametrize("tenant", ["t" * 300, "日" * 300])
    def test_names_too_long_for_a_folder_are_cut_and_told_apart(self, tmp_path, tenant) -> None:
        """Two tenants that begin alike have two folders, and the column has the whole name."""
        sink = ParquetSink(tmp_path)
        for end in ("1", "2"):
            run = Run(run_id=PLAIN_ID[:-1] + end, tenant_id=tenant + end)
            sink.write(Manifest.from_run(run))
        folders = [path.name for path in (tmp_path / "runs").glob("dt=*/*")]
        assert len(folders) == 2
        assert all(len(name) <= 255 for name in folders)
        assert {row["tenant_id"] for row in table(tmp_path, "runs")} == {tenant + "1", tenant + "2"}


class TestPolicy:
    """What must not be shown is in no byte of any file."""

    def test_the_redacting_policy_gives_genblazes_row(self, vectors, tmp_path) -> None:
        """Prompt, params and seed are replaced as genblaze replaces them."""
        hidden = EmbedPolicy(
            prompt_visibility=PromptVisibility.PRIVATE, include_params=False, include_seed=False
        )
        ParquetSink(tmp_path, policy=hidden).write_many(vector_manifests(vectors))
        (wanted,) = expected(vectors)["steps_row_with_redacting_policy"]
        assert wanted in table(tmp_path, "steps")
        assert {row["prompt"] for row in table(tmp_path, "steps")} == {""}

    @pytest.mark.parametrize("own", list(PromptVisibility))
    @pytest.mark.parametrize("policy", list(PromptVisibility))
    def test_only_public_prompts_are_written(self, tmp_path, own, policy) -> None:
        """A step's own visibility and the policy must both be public; errors quote nothing."""
        secret = "the queen of hidden harbours"
        manifest = generation(
            [], prompt=secret, prompt_visibility=own, error=f"refused: {secret}", seed=5
        )
        manifest.encryption_scheme = "x"
        ParquetSink(tmp_path, policy=EmbedPolicy(prompt_visibility=policy)).write(manifest)
        (row,) = table(tmp_path, "steps")
        public = own == policy == PromptVisibility.PUBLIC
        assert row["prompt"] == (secret if public else "")
        if not public and PromptVisibility.ENCRYPTED not in (own, policy):
            found = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
            assert not any(secret.encode() in data for data in found)

    def test_a_stricter_policy_takes_prompts_out_again(self, tmp_path) -> None:
        """Writing the same run under another policy replaces its files."""
        manifest = generation([media("a")], prompt="a secret garden party")
        assert ParquetSink(tmp_path).write(manifest)
        assert ParquetSink(
            tmp_path, policy=EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE)
        ).write(manifest)
        assert table(tmp_path, "steps")[0]["prompt"] == ""

    def test_urls_lose_their_signatures(self, tmp_path) -> None:
        """A presigned URL is kept without what signs it, and one that holds the media not at all."""
        asset = media("a").model_copy(
            update={"url": "https://u:p@cdn.example/x.png?X-Amz-Signature=canary"}
        )
        inline = media("b").model_copy(update={"url": "data:image/png;base64,Y2FuYXJ5"})
        ParquetSink(tmp_path).write(generation([asset, inline]))
        urls = {row["url"] for row in table(tmp_path, "assets")}
        assert urls == {"https://cdn.example/x.png", None}


class TestNames:
    """Run ids come from manifests, which may come from anyone."""

    HOSTILE = (
        "../../x",
        "/etc/passwd",
        "a/b",
        "..",
        ".hidden",
        "_ignored",
        "..\\..\\x",
        "nul\0byte",
        "line\nbreak",
        "CON",
        "nul.txt",
        "COM1",
        "c:x",
        "a~b",
        "a%2Fb",
        "",
        "x" * 5000,
        "日" * 200,
        "*?<>|\"'",
        "ends with a space ",
    )

    def test_every_run_id_is_kept_below_the_base(self, tmp_path) -> None:
        """No id leads out of the folder, collides with another, hides or is lost."""
        base = tmp_path / "deep" / "base"
        made = [Manifest.from_run(Run(run_id=run_id)) for run_id in self.HOSTILE]
        assert ParquetSink(base).write_many(made) == set(self.HOSTILE)
        assert files(tmp_path) == [f"deep/base/{name}" for name in files(base)]
        assert {Path(name).parts[0] for name in files(base)} == {"runs", "_run_index"}
        assert sorted(row["run_id"] for row in table(base, "runs")) == sorted(self.HOSTILE)
        assert pq.read_table(base / "runs").num_rows == len(self.HOSTILE)
        assert not ParquetSink(base).write_many(made)
        for name in files(base):
            stem = Path(name).stem
            assert len(Path(name).name) <= 255
            assert stem.split(".")[0].lower() not in ("con", "nul", "com1")
            assert not set(stem) & set('\\/:*?"<>|\0\n ')

    @pytest.mark.parametrize("run_id", [PLAIN_ID, "run-7_final.2", "A1"])
    def test_plain_run_ids_are_their_own_names(self, tmp_path, run_id) -> None:
        """What needs no escape is named as genblaze names it."""
        ParquetSink(tmp_path).write(Manifest.from_run(Run(run_id=run_id)))
        assert (tmp_path / "_run_index" / f"{run_id}.partition").is_file()

    @pytest.mark.parametrize(
        "text",
        [
            "../../outside",
            "dt=2025-06-01/tenant_id=../modality=image/../../../../outside",
            "/outside",
            "dt=2025-06-01/tenant_id=t/modality=m/provider=p/../../../../../../outside",
            "dt=2025-06-01/tenant_id=t/modality=m/provider=p\n",
            "x" * 100_000,
            "\0",
            "",
        ],
        ids=["up", "dots", "absolute", "longer", "newline", "huge", "nul", "empty"],
    )
    def test_an_index_entry_is_not_trusted(self, tmp_path, text) -> None:
        """A forged entry deletes nothing outside the tables; the run is written and healed."""
        base = tmp_path / "base"
        manifest = generation([media("a")], run_id=PLAIN_ID)
        ParquetSink(base).write(manifest)
        victim = tmp_path / "outside" / f"{PLAIN_ID}.parquet"
        victim.parent.mkdir()
        victim.write_text("keep")
        entry = base / "_run_index" / f"{PLAIN_ID}.partition"
        good = entry.read_text()
        entry.write_text(text)
        ParquetSink(base).write(manifest)
        assert entry.read_text() == good
        assert victim.read_text() == "keep"
        assert len(table(base, "steps")) == 1


class TestAgain:
    """Writing a run again."""

    def test_the_same_run_is_not_written_twice(self, tmp_path) -> None:
        """No file is touched when nothing changed."""
        manifest = generation([media("a")])
        sink = ParquetSink(tmp_path)
        assert sink.write(manifest) is True
        before = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
        assert sink.write(manifest) is False
        assert {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)} == before

    def test_changes_outside_the_hash_reach_the_tables(self, tmp_path) -> None:
        """Status, cost and error change without the canonical hash, and are updated."""
        manifest = generation([media("a")], cost_usd=None, error=None)
        sink = ParquetSink(tmp_path)
        sink.write(manifest)
        step = manifest.run.steps[0].model_copy(update={"cost_usd": 1.5, "error": "late"})
        later = changed(manifest, status=RunStatus.FAILED, steps=[step])
        assert later.verify_hash()
        assert sink.write(later) is True
        assert [row["status"] for row in table(tmp_path, "runs")] == ["failed"]
        assert [(r["cost_usd"], r["error"]) for r in table(tmp_path, "steps")] == [(1.5, "late")]

    def test_outputs_that_are_gone_leave_the_tables(self, tmp_path) -> None:
        """A run that has no assets any more has no assets file any more."""
        manifest = generation([media("a")])
        sink = ParquetSink(tmp_path)
        sink.write(manifest)
        step = manifest.run.steps[0].model_copy(update={"assets": []})
        sink.write(Manifest.from_run(manifest.run.model_copy(update={"steps": [step]})))
        assert table(tmp_path, "assets") == []
        assert [row["asset_count"] for row in table(tmp_path, "steps")] == [0]

    def test_a_run_that_moves_leaves_nothing_behind(self, tmp_path) -> None:
        """Another tenant means other folders; the run is in one partition only."""
        manifest = generation([media("a")])
        sink = ParquetSink(tmp_path)
        sink.write(manifest)
        assert sink.write(changed(manifest, tenant_id="new")) is True
        assert len(files(tmp_path)) == 4
        assert [row["tenant_id"] for row in table(tmp_path, "runs")] == ["new"]

    @pytest.mark.parametrize("then", ["first", "second", "third"])
    @pytest.mark.parametrize("killed_after", ["intent", "steps", "assets", "runs", "removal"])
    def test_an_interrupted_move_is_settled_by_the_next_write(
        self, tmp_path, killed_after, then
    ) -> None:
        """Killed at any step of a move, the run is readable; written again, it is there once."""
        manifest = generation([media("a")])
        tenants = {name: changed(manifest, tenant_id=name) for name in ("first", "second", "third")}
        base, ahead = tmp_path / "base", tmp_path / "ahead"
        sink = ParquetSink(base)
        sink.write(tenants["first"])
        old = [name for name in files(base) if not name.startswith("_run_index")]
        ParquetSink(ahead).write(tenants["second"])
        entry = Path("_run_index") / f"{manifest.run.run_id}.partition"
        shutil.copy(ahead / entry, (base / entry).with_suffix(".moving"))
        order = ["steps", "assets", "runs"]
        for table_name in order[: order.index(killed_after) + 1 if killed_after in order else 3]:
            if killed_after != "intent":
                shutil.copytree(ahead / table_name, base / table_name, dirs_exist_ok=True)
        if killed_after == "removal":
            for name in old:
                (base / name).unlink()
        assert {row["tenant_id"] for row in table(base, "runs")} <= {"first", "second"}
        assert table(base, "runs")
        sink.write(tenants[then])
        assert [row["tenant_id"] for row in table(base, "runs")] == [then]
        assert len(files(base)) == 4
        assert sink.write(tenants[then]) is False

    def test_an_interrupted_first_write_leaves_nothing_for_another_place(self, tmp_path) -> None:
        """Its half-written files are found again although no entry names them yet."""
        manifest = generation([media("a")])
        sink = ParquetSink(tmp_path)
        sink.write(manifest)
        (entry,) = (tmp_path / "_run_index").iterdir()
        entry.rename(entry.with_suffix(".moving"))
        (runs,) = (tmp_path / "runs").rglob("*.parquet")
        runs.unlink()
        sink.write(changed(manifest, tenant_id="new"))
        assert len(files(tmp_path)) == 4
        assert len(table(tmp_path, "steps")) == 1

    @pytest.mark.parametrize("damage", ["steps gone", "runs gone", "runs noise", "runs empty"])
    def test_damaged_files_are_written_again(self, tmp_path, damage) -> None:
        """What is missing or unreadable counts as not written."""
        manifest = generation([media("a")])
        sink = ParquetSink(tmp_path)
        sink.write(manifest)
        which, what = damage.split()
        (path,) = (tmp_path / which).rglob("*.parquet")
        if what == "gone":
            path.unlink()
        else:
            path.write_bytes(b"PAR1 noise PAR1" if what == "noise" else b"")
        assert sink.write(manifest) is True
        assert len(table(tmp_path, which)) == 1

    def test_many_runs_in_one_call(self, tmp_path) -> None:
        """An iterator of any length; of one run the last manifest stays, and the rest is counted."""
        first = generation([media("a")], run_id=PLAIN_ID)
        versions = [changed(first, name=f"v{number}") for number in range(20)]
        others = [generation([media(str(number))]) for number in range(100)]
        mixed = iter([*others[:50], *versions, *others[50:]])
        assert len(ParquetSink(tmp_path).write_many(mixed)) == 101
        found = table(tmp_path, "runs")
        assert len(found) == 101
        assert [row["name"] for row in found if row["run_id"] == PLAIN_ID] == ["v19"]
        assert not [name for name in files(tmp_path) if name.endswith(".part")]

    def test_one_manifest_that_cannot_be_written_does_not_stop_the_rest(self, tmp_path) -> None:
        """With `on_error` it is reported and skipped; without it is raised, and quotes no value."""
        good, bad = generation([media("a")]), generation([media("b")])
        bad.run.steps[0].retries = "secret value"  # pyright: ignore[reportAttributeAccessIssue]
        told: list[str] = []
        sink = ParquetSink(tmp_path)
        written = sink.write_many([bad, good], on_error=lambda m, _: told.append(m.run.run_id))
        assert (written, told) == ({good.run.run_id}, [bad.run.run_id])
        with pytest.raises(ManifestError) as raised:
            sink.write(bad)
        assert "secret" not in str(raised.value)
        assert bad.run.run_id in str(raised.value)

    def test_numbers_too_large_for_their_column_are_null(self, tmp_path) -> None:
        """A seed above 63 bits is not lost with its row, where genblaze writes nothing at all."""
        ParquetSink(tmp_path).write(generation([], seed=2**70))
        assert [row["seed"] for row in table(tmp_path, "steps")] == [None]


class TestFailures:
    """A directory that cannot be used."""

    def test_a_base_that_is_a_file_is_named(self, tmp_path) -> None:
        """The error says which run, where and why."""
        base = tmp_path / "file"
        base.write_text("x")
        with pytest.raises(SinkError, match=r"run '7a0+-.*file \(Not a directory\)"):
            ParquetSink(base).write(Manifest.from_run(Run(run_id=PLAIN_ID)))

    def test_urls_are_refused(self) -> None:
        """The sink writes to directories only."""
        with pytest.raises(ConfigError, match="directory"):
            ParquetSink("s3://bucket/prefix")

    def test_unknown_tables_are_refused(self, tmp_path) -> None:
        """The index has a table of inputs, the sink has none."""
        with pytest.raises(ConfigError, match="inputs"):
            ParquetSink(tmp_path).dataset("inputs")

    def test_a_kill_at_any_moment_leaves_readable_files(self, tmp_path) -> None:
        """After kill -9 every file is whole, every run has its steps, and writing again completes."""
        ids = [f"7c000000-0000-4000-8000-{number:012d}" for number in range(12)]
        for turn in range(4):
            process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path), *ids])
            try:
                entries = tmp_path / "_run_index"
                deadline = time.monotonic() + 120
                while not entries.is_dir() or len(list(entries.glob("*.partition"))) < 3:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                time.sleep(0.02 * turn)
            finally:
                process.kill()
                process.wait(timeout=60)
            stepped = {row["run_id"] for row in table(tmp_path, "steps")}
            assert {row["run_id"] for row in table(tmp_path, "runs")} <= stepped
        made = [generation([media("a")], run_id=run_id) for run_id in ids]
        ParquetSink(tmp_path).write_many(made)
        assert [row["run_id"] for row in table(tmp_path, "runs")] == ids
        assert not ParquetSink(tmp_path).write_many(made)


# Moves every run from tenant to tenant until it is killed.
ENDLESS = """
import itertools, sys
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.index.parquet_sink import ParquetSink

sink = ParquetSink(sys.argv[1])
for number in itertools.count():
    for run_id in sys.argv[2:]:
        steps = [Step(provider="p", model="m", retries=number)]
        run = Run(run_id=run_id, tenant_id=f"t{number % 3}", steps=steps)
        sink.write(Manifest.from_run(run))
"""
