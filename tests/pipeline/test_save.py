"""Outputs saved as files: embedded, beside a sidecar, again, and never over something else."""

import asyncio
import json
from pathlib import Path

import pytest

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.errors import (
    ConfigError,
    EmbeddingError,
    IntegrityError,
    ModelError,
    PointerSidecarError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.media.embedding import EmbedMethod, embed
from genblaze_dagster.media.extraction import extract
from genblaze_dagster.media.sidecar import sidecar_path
from genblaze_dagster.media.stripping import strip
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import Output
from genblaze_dagster.storage.store import MediaStore
from tests.media.genblaze_cli import Genblaze
from tests.support.providers import png
from tests.support.scripted import ScriptedProvider

PICTURES = tuple(Output(data=png(f"{n}"), media_type="image/png") for n in range(3))
SPEECH = Output(data=b"OggS" + bytes(60), media_type="audio/ogg")


@pytest.fixture
def result(store: MediaStore, ledger: Ledger) -> PipelineResult:
    """A picture, and a second one made from it."""
    return (
        Pipeline("p")
        .step(ScriptedProvider(outputs=PICTURES[:1]), model="m", name="draft", prompt="a fox")
        .step(
            ScriptedProvider(outputs=PICTURES[1:2]),
            model="m",
            name="final",
            prompt="a red fox",
            input_from="draft",
        )
        .run(store=store, ledger=ledger)
    )


def one(store: MediaStore, ledger: Ledger, *outputs: Output) -> PipelineResult:
    provider = ScriptedProvider(outputs=outputs)
    pipeline = Pipeline("p").step(provider, model="m", name="only", prompt="a fox")
    return pipeline.run(store=store, ledger=ledger)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_last_output_is_saved_with_its_manifest(result: PipelineResult, tmp_path: Path) -> None:
    """A new folder, one file; without the manifest it is the output to the byte."""
    path = tmp_path / "a folder" / "fox.png"
    saved = result.save(path)
    assert (saved.path, saved.method) == (path, EmbedMethod.INLINE)
    assert (saved.sidecar_path, saved.embed_error) == (None, None)
    assert extract(path).canonical_hash == result.manifest.canonical_hash
    assert strip(path) == PICTURES[1].data
    assert files(path.parent) == {"fox.png"}


def test_a_step_is_saved_with_what_led_to_it(result: PipelineResult, tmp_path: Path) -> None:
    """Its own manifest, without the steps that came after it."""
    result.save(str(tmp_path / "draft.png"), step="draft")
    inside = extract(tmp_path / "draft.png")
    assert inside.canonical_hash == result.outcomes["draft"].manifest.canonical_hash
    assert [step.metadata.get("name", step.prompt) for step in inside.run.steps] == ["a fox"]


def test_the_content_decides_and_not_the_name(result: PipelineResult, tmp_path: Path) -> None:
    """A PNG called .jpg is embedded as what it is."""
    saved = result.save(tmp_path / "fox.jpg")
    assert saved.method is EmbedMethod.INLINE
    assert strip(tmp_path / "fox.jpg") == PICTURES[1].data


def test_every_kind_of_real_media_is_saved_and_read_by_genblaze(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """Picture, sound and film of the local provider, through genblaze's own command line."""
    local = LocalProvider()
    result = (
        Pipeline("p")
        .step(local, model="local-image", name="image", prompt="a lake", width=64, height=64)
        .step(local, model="local-audio", name="sound", modality="audio", prompt="l", duration=1)
        .step(local, model="local-video", name="film", modality="video", prompt="l", duration=1)
        .run(store=store, ledger=ledger)
    )
    with Genblaze.running() as genblaze:
        for name, extension in (("image", "png"), ("sound", "wav"), ("film", "mp4")):
            path = tmp_path / f"{name}.{extension}"
            assert result.save(path, step=name).method is EmbedMethod.INLINE
            assert genblaze.extract(path) == result.outcomes[name].manifest.to_canonical_json()
            assert strip(path) == result.media(name).bytes()
            verified = genblaze.run("verify", path)
            assert verified.code == 0, verified.error


def test_a_file_that_cannot_carry_a_manifest_gets_it_beside(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """The media stays as it is, and the sidecar is named after the whole file name."""
    saved = one(store, ledger, SPEECH).save(tmp_path / "speech.ogg")
    assert saved.method is EmbedMethod.SIDECAR
    assert saved.sidecar_path == tmp_path / "speech.ogg.genblaze.json"
    assert saved.embed_error is None
    assert (tmp_path / "speech.ogg").read_bytes() == SPEECH.data
    assert files(tmp_path) >= {"speech.ogg", "speech.ogg.genblaze.json"}


def test_embed_false_leaves_the_media_alone(result: PipelineResult, tmp_path: Path) -> None:
    """The bytes of the output, with the manifest beside them."""
    path = tmp_path / "fox.png"
    saved = result.save(path, embed=False)
    assert saved.method is EmbedMethod.SIDECAR
    assert path.read_bytes() == PICTURES[1].data
    assert extract(path).canonical_hash == result.manifest.canonical_hash
    pointer = EmbedPolicy(embed_mode=EmbedMode.POINTER)
    assert result.save(path, embed=False, policy=pointer).method is EmbedMethod.POINTER
    with pytest.raises(PointerSidecarError):
        extract(path)


@pytest.mark.parametrize("embed", [True, False])
def test_a_policy_of_none_saves_the_bytes_alone(
    result: PipelineResult, tmp_path: Path, embed: bool
) -> None:
    """Nothing inside, nothing beside; a sidecar of something older goes."""
    path = tmp_path / "fox.png"
    result.save(path, embed=False)
    saved = result.save(path, embed=embed, policy=EmbedPolicy(embed_mode=EmbedMode.NONE))
    assert (saved.method, saved.sidecar_path) == (EmbedMethod.NONE, None)
    assert path.read_bytes() == PICTURES[1].data
    assert not sidecar_path(path).exists()


def test_a_pointer_says_where_the_manifest_is(result: PipelineResult, tmp_path: Path) -> None:
    """The sidecar names the manifest in the store and its hash, and no prompt."""
    saved = result.save(tmp_path / "fox.png", policy=EmbedPolicy(embed_mode=EmbedMode.POINTER))
    assert saved.method is EmbedMethod.POINTER
    assert saved.sidecar_path is not None
    said = json.loads(saved.sidecar_path.read_bytes())
    assert said["manifest_uri"] == result.manifest.manifest_uri == saved.manifest_uri
    assert said["canonical_hash"] == result.manifest.canonical_hash


@pytest.mark.parametrize("embed", [True, False])
def test_what_a_policy_hides_is_not_in_any_file(
    result: PipelineResult, tmp_path: Path, embed: bool
) -> None:
    """The prompt is searched for in the bytes of all that was written."""
    policy = EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE)
    result.save(tmp_path / "fox.png", embed=embed, policy=policy)
    written = [path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("fox")]
    assert len(written) == (1 if embed else 2)
    assert not any(b"red fox" in data for data in written)
    assert extract(tmp_path / "fox.png").verify()


def test_an_output_that_is_there_is_embedded_in_place(
    result: PipelineResult, tmp_path: Path
) -> None:
    """As genblaze's save() does: the file may have been fetched by other means, under any name."""
    draft = tmp_path / "downloaded"
    assert PICTURES[0].data is not None
    draft.write_bytes(PICTURES[0].data)
    result.save(draft)
    inside = extract(draft)
    assert inside.canonical_hash == result.outcomes["draft"].manifest.canonical_hash
    assert strip(draft) == PICTURES[0].data


def test_saving_again_updates(result: PipelineResult, tmp_path: Path) -> None:
    """The same file twice is the same file; another policy replaces the manifest."""
    path = tmp_path / "fox.png"
    result.save(path)
    first = path.read_bytes()
    result.save(path)
    assert path.read_bytes() == first
    result.save(path, policy=EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE))
    assert b"red fox" not in path.read_bytes()
    assert strip(path) == PICTURES[1].data


@pytest.mark.parametrize("embedded", [False, True], ids=["plain", "with a manifest"])
def test_other_content_is_only_replaced_when_asked(
    result: PipelineResult, tmp_path: Path, embedded: bool
) -> None:
    """The error names the remedy and leaves the file; overwrite replaces it, sidecar included."""
    path = tmp_path / "fox.png"
    path.write_bytes(png("something else"))
    if embedded:
        embed(path, result.manifest)
    sidecar_path(path).write_text(result.manifest.to_canonical_json())
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"no output of this run; .*overwrite=True"):
        result.save(path)
    assert path.read_bytes() == before
    result.save(path, overwrite=True)
    assert strip(path) == PICTURES[1].data
    assert not sidecar_path(path).exists()


def test_several_outputs_go_to_a_directory(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """Named by position and type; save() says where to find the way."""
    result = one(store, ledger, *PICTURES, SPEECH)
    with pytest.raises(ConfigError, match=r"4 outputs .*save_all\(directory\)"):
        result.save(tmp_path / "fox.png")
    folder = tmp_path / "all"
    saved = result.save_all(folder)
    assert [one.path.name for one in saved] == ["0.png", "1.png", "2.png", "3.ogg"]
    for output, one_saved in zip(PICTURES, saved, strict=False):
        assert strip(one_saved.path) == output.data
    assert [one.method for one in saved] == [EmbedMethod.INLINE] * 3 + [EmbedMethod.SIDECAR]
    assert result.save_all(str(folder) + "/") == saved


@pytest.mark.parametrize("text", ["there", "new/"])
def test_a_directory_is_no_file(result: PipelineResult, tmp_path: Path, text: str) -> None:
    """Existing or ending in a slash: the error names save_all."""
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="save_all"):
        result.save(f"{tmp_path}/{text}")
    assert files(tmp_path / "there") == set()
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_directory(result: PipelineResult, tmp_path: Path) -> None:
    """What is in the way is named."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EmbeddingError, match="file"):
        result.save_all(tmp_path / "file")


def test_which_output_is_meant_must_be_clear(store: MediaStore, ledger: Ledger) -> None:
    """Two last steps, an unknown one, a failed one: each is told apart, with what can be saved."""
    provider = ScriptedProvider(outputs=PICTURES[:1])
    failing = ScriptedProvider(submit_errors=[ModelError("no")] * 3)
    two = Pipeline("p").step(provider, model="m", name="a").step(provider, model="m", name="b")
    result = two.run(store=store, ledger=ledger)
    with pytest.raises(ConfigError, match=r"2 steps are last .* step='a' or 'b'"):
        result.save("x")
    with pytest.raises(ConfigError, match=r"'c' is not of this run; .* step='a' or 'b'"):
        result.save("x", step="c")
    failed = (
        Pipeline("p")
        .step(provider, model="m", name="a")
        .step(failing, model="m", name="b", input_from="a")
        .run(store=store, ledger=ledger, raise_on_failure=False)
    )
    with pytest.raises(ConfigError, match=r"'b' failed, .* step='a'"):
        failed.save("x")
    with pytest.raises(ConfigError, match="'b' failed: "):
        failed.save("x", step="b")
    nothing = (
        Pipeline("p")
        .step(ScriptedProvider(submit_errors=[ModelError("no")] * 3), model="m", name="a")
        .run(store=store, ledger=ledger, raise_on_failure=False)
    )
    with pytest.raises(ConfigError, match="nothing to save"):
        nothing.save_all("x")


def test_damaged_media_is_never_saved(
    result: PipelineResult, store: MediaStore, tmp_path: Path
) -> None:
    """The store's bytes are hashed on the way; nothing is left, and what was there stays."""
    path = tmp_path / "out" / "fox.png"
    path.parent.mkdir()
    path.write_bytes(b"before")
    key = result.media("final").key
    asyncio.run(store.put(key, png("damaged"), media_type="image/png"))
    with pytest.raises(IntegrityError):
        result.save(path, overwrite=True)
    assert path.read_bytes() == b"before"
    assert files(path.parent) == {"fox.png"}


def test_a_cancelled_save_leaves_nothing(result: PipelineResult, tmp_path: Path) -> None:
    """Also in async code, and in the middle."""

    async def body() -> None:
        saving = asyncio.ensure_future(result.asave(tmp_path / "out" / "fox.png"))
        while not (tmp_path / "out").exists():
            await asyncio.sleep(0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving

    asyncio.run(body())
    assert files(tmp_path / "out") == set()


def test_saving_works_in_async_code(result: PipelineResult, tmp_path: Path) -> None:
    """Both forms, inside of a running loop."""

    async def body() -> None:
        await result.asave(tmp_path / "fox.png")
        await result.asave_all(tmp_path / "all")
        result.save(tmp_path / "fox.png")

    asyncio.run(body())
    assert (tmp_path / "fox.png").read_bytes() == (tmp_path / "all" / "0.png").read_bytes()
