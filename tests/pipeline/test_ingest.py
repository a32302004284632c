import asyncio
import json
import subprocess
import sys
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality, RunStatus, StepStatus, StepType
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import (
    ConfigError,
    IntegrityError,
    ManifestError,
    OutputError,
    SinkError,
    UnsafeUrlError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.ingest import aingest, ingest
from genblaze_dagster.storage.fetch import RemoteFile
from genblaze_dagster.storage.manifests import manifest_keys, read_manifest
from genblaze_dagster.storage.sink import ObjectStorageSink
from genblaze_dagster.storage.store import MediaStore
from tests.support.scripted import ScriptedProvider

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02\x08\x02\0\0\0\x12\x16\xf1M"
    b"\0\0\0\x0cIDATx\x9cc`\xc0\x0b\0\0\x1a\0\x01\xb5\x1b\x8e\x1a\0\0\0\0IEND\xaeB`\x82"
)


@dataclass
class Body:
    data: bytes
    content_type: str | None
    content_length: int | None = None

    async def aiter(self) -> AsyncIterator[bytes]:
        yield self.data[:10]
        yield self.data[10:]


@dataclass
class Web:
    """Pages by URL, and what was asked for."""

    pages: dict[str, Body]

    @asynccontextmanager
    async def __call__(self, url: str) -> AsyncGenerator[RemoteFile]:
        if url not in self.pages:
            raise OutputError(f"{url}: answers 404")
        yield self.pages[url]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    return path


def stored_manifests(store: MediaStore) -> list[Manifest]:
    async def read() -> list[Manifest]:
        return [await read_manifest(store, key) async for key in manifest_keys(store)]

    return asyncio.run(read())


def test_media_becomes_steps_with_a_manifest(store: MediaStore, sound: Path) -> None:
    """Bytes, a file and a URL are stored with what they prove; the manifest names the source."""
    web = Web({"https://x/notes.txt?sig=hush": Body(b"some words", "text/plain; charset=utf-8")})
    result = ingest(
        [PNG, sound, "https://x/notes.txt?sig=hush"],
        source="archive",
        source_metadata={"shelf": 4},
        store=store,
        name="import",
        tenant_id=" t ",
        fetch=web,
    )
    (manifest,) = stored_manifests(store)
    assert manifest.verify()
    assert manifest.canonical_hash == result.manifest.canonical_hash
    assert (result.run.name, result.run.tenant_id, result.run.status) == (
        *("import", "t", RunStatus.COMPLETED),
    )
    for index, step in enumerate(result.run.steps):
        assert (step.provider, step.model, step.step_type, step.status, step.cost_usd) == (
            *(None, "archive", StepType.INGEST, StepStatus.SUCCEEDED, None),
        )
        assert step.metadata == {"source": "archive", "shelf": 4}
        assert (step.step_index, step.run_id) == (index, result.run.run_id)
    by_kind = {step.modality: step.assets[0] for step in result.run.steps}
    assert set(by_kind) == {Modality.IMAGE, Modality.AUDIO, Modality.TEXT}
    assert (by_kind[Modality.IMAGE].width, by_kind[Modality.IMAGE].height) == (3, 2)
    assert by_kind[Modality.AUDIO].duration == 0.5
    assert by_kind[Modality.TEXT].media_type == "text/plain"
    assert "hush" not in result.manifest.to_canonical_json()


def test_the_hash_does_not_depend_on_the_order(store: MediaStore, sound: Path) -> None:
    """Two ingests of the same media are two runs of one canonical hash."""
    things = [PNG, sound, b"words", PNG]
    one = ingest(things, source="s", store=store)
    other = ingest(things[::-1], source="s", store=store)
    assert one.manifest.canonical_hash == other.manifest.canonical_hash
    assert one.run.run_id != other.run.run_id
    assert len(one.run.steps) == 4


def test_results_are_media_to_go_on_with(store: MediaStore, ledger: Ledger, tmp_path: Path) -> None:
    """Outputs are called by their kind, can be saved, and are inputs of a pipeline."""
    result = ingest([PNG, b"\x89PNG\r\n\x1a\n other"], source="s", store=store)
    assert sorted(result.outcomes) == ["image", "image_2"]
    assert PNG in {result.media(name).bytes() for name in result.outcomes}
    alone = ingest([PNG], source="s", store=store)
    alone.save(tmp_path / "out.png")
    pipeline = Pipeline("p").step(
        ScriptedProvider(), model="m", external_inputs=alone.media("image")
    )
    after = pipeline.run(store=store, ledger=ledger)
    assert [step.model for step in after.run.steps] == ["s", "m"]
    assert after.run.steps[1].inputs[0].sha256 == alone.run.steps[0].assets[0].sha256


def test_a_record_keeps_what_it_says(store: MediaStore, sound: Path) -> None:
    """Its id, type and metadata stay; what it does not say is taken from the bytes."""
    record = Asset(
        asset_id="../../etc", url=sound.as_uri(), media_type="audio/x-mine", metadata={"a": 1}
    )
    asset = ingest([record], source="s", store=store).run.steps[0].assets[0]
    assert (asset.asset_id, asset.media_type, asset.metadata) == (
        *("../../etc", "audio/x-mine", {"a": 1}),
    )
    assert asset.duration == 0.5
    assert asset.size_bytes == sound.stat().st_size
    assert "etc" not in asset.url
    assert record.sha256 is None


def test_a_record_must_be_true(store: MediaStore, sound: Path) -> None:
    """Bytes that are not those of the record are not ingested, and no manifest is written."""
    record = Asset(url=sound.as_uri(), media_type="audio/wav", sha256="0" * 64)
    with pytest.raises(SinkError, match="1 of 2 asset") as refused:
        ingest([PNG, record], source="s", store=store)
    assert isinstance(refused.value.__cause__, IntegrityError)
    assert refused.value.failed_asset_ids == (record.asset_id,)
    assert stored_manifests(store) == []


def test_media_that_is_stored_already_is_checked_too(store: MediaStore) -> None:
    """A URL of the store itself is read there, so a record cannot lie about its hash."""
    asset = ingest([PNG], source="s", store=store).run.steps[0].assets[0]
    again = ingest([asset], source="s", store=store).run.steps[0].assets[0]
    assert again == asset
    lying = asset.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SinkError):
        ingest([lying], source="s", store=store)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "https://127.0.0.1/a.png",
        "https://[::ffff:10.0.0.1]/a.png",
        "file:///etc/passwd",
        "ftp://x/y",
    ],
)
def test_addresses_are_guarded(url: str, store: MediaStore) -> None:
    """Only public https and files below a root are read."""
    with pytest.raises(SinkError) as refused:
        ingest([url], source="s", store=store, input_roots=[])
    assert isinstance(refused.value.__cause__, UnsafeUrlError)


def test_paths_of_the_system_and_of_credentials_stay_shut(
    store: MediaStore, tmp_path: Path
) -> None:
    """A path the caller's code names may lie anywhere else."""
    key = tmp_path / ".ssh" / "id"
    key.parent.mkdir()
    key.write_text("k")
    for path in (Path("/etc/passwd"), key, tmp_path):
        with pytest.raises(SinkError) as refused:
            ingest([path], source="s", store=store)
        assert isinstance(refused.value.__cause__, UnsafeUrlError)


def test_what_failed_is_named_and_the_rest_is_stored(store: MediaStore) -> None:
    """One dead link does not hide behind the others, and ingesting again goes on."""
    web = Web({"https://x/a.png": Body(PNG, None)})
    urls = ["https://x/gone.png", "https://x/a.png", "https://x/gone2.png"]
    with pytest.raises(SinkError, match=r"2 of 3 asset.*asset 0: https://x/gone.png.*asset 2"):
        ingest(urls, source="s", store=store, fetch=web)
    assert ingest(urls[1:2], source="s", store=store, fetch=web).run.steps[0].assets[0].width == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"assets": []}, "assets is empty"),
        ({"assets": b"x"}, "give a list"),
        ({"assets": ["photo.png"]}, r"write a path as Path"),
        ({"source": " "}, "source is empty"),
        ({"step_type": "generate"}, "ingest or import"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"source": "https://u:password1@host/"}, "source holds what looks like a secret"),
        ({"source_metadata": {"api_key": "sk-" + "a1B2" * 8}}, "at api_key"),
    ],
    ids=["empty", "single", "path", "source", "type", "concurrency", "login", "secret"],
)
def test_wrong_arguments(arguments: dict[str, Any], said: str, store: MediaStore) -> None:
    """Nothing is read or stored."""
    options: dict[str, Any] = {"assets": [PNG], "source": "s", "store": store, **arguments}
    with pytest.raises(ConfigError, match=said):
        ingest(options.pop("assets"), **options)
    assert stored_manifests(store) == []


def test_metadata_must_stand_in_a_manifest(store: MediaStore) -> None:
    """Otherwise the media would be stored before that is noticed."""
    with pytest.raises(ManifestError, match="source_metadata"):
        ingest([PNG], source="s", source_metadata={"x": float("nan")}, store=store)


def test_empty_media_is_refused(store: MediaStore) -> None:
    """No bytes prove nothing."""
    with pytest.raises(SinkError, match="it is empty"):
        ingest([b""], source="s", store=store)


def test_imports_go_through_a_sink(store: MediaStore) -> None:
    """The keywords of the guides: a sink and a step type."""
    sink = ObjectStorageSink(store, key_strategy="hierarchical")
    result = ingest([PNG], source="s", sink=sink, step_type=StepType.IMPORT)
    assert result.run.steps[0].step_type is StepType.IMPORT
    assert sink.read_manifest(result.run).canonical_hash == result.manifest.canonical_hash
    with pytest.raises(ConfigError, match="sink and store"):
        ingest([PNG], source="s", sink=sink, store=store)


def test_the_index_hears_of_it(store: MediaStore) -> None:
    """The manifest is added with its key, and flushed."""
    seen: list[Any] = []

    class Index:
        def add(self, manifest: Manifest, **options: Any) -> None:
            seen.append((manifest.run.run_id, options["manifest_key"]))

        async def flush(self) -> list[str]:
            seen.append("flushed")
            return []

    result = asyncio.run(aingest([PNG], source="s", store=store, index=Index()))
    assert seen == [(result.run.run_id, result.outcomes["image"].ref.manifest_key), "flushed"]


GENBLAZE = """
import json, sys
from genblaze_core import Pipeline
from genblaze_core.models.asset import Asset
assets = [Asset.model_validate(one) for one in json.load(sys.stdin)]
result = Pipeline.ingest(assets, source="s", source_metadata={"a": 1}, name="n")
print(result.manifest.canonical_hash)
"""


def test_genblaze_gives_the_same_hash(store: MediaStore, sound: Path) -> None:
    """Its ingest of the same records is the same manifest by content."""
    result = ingest([sound, PNG], source="s", source_metadata={"a": 1}, name="n", store=store)
    records = [
        {**step.assets[0].model_dump(mode="json"), "url": "https://x/y"}
        for step in reversed(result.run.steps)
    ]
    answer = subprocess.run(
        [sys.executable, "-c", GENBLAZE],
        input=json.dumps(records),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == result.manifest.canonical_hash
