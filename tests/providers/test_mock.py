import io
from pathlib import Path

import pytest

from genblaze_dagster.core.enums import Modality, ProviderErrorCode, StepStatus
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.media.probe import probe
from genblaze_dagster.media.sniff import sniff_media_type
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.mock import MockAudioProvider, MockProvider, MockVideoProvider
from genblaze_dagster.providers.mock_media import file_of


def a_step(**fields: object) -> Step:
    return Step.model_validate({"provider": "mock", "model": "m", "prompt": "a fox", **fields})


@pytest.mark.parametrize(
    ("kind", "name", "url", "sha256"),
    [
        (MockProvider, "mock", "https://mock.test/output.bin", "0" * 64),
        (MockVideoProvider, "mock-video", "https://mock.test/video.mp4", "1" * 64),
        (MockAudioProvider, "mock-audio", "https://mock.test/audio.mp3", "2" * 64),
    ],
)
def test_records_are_those_of_the_guides(
    kind: type[MockProvider], name: str, url: str, sha256: str
) -> None:
    """Names, URLs and hashes are constants that tests written for genblaze compare with."""
    made = kind().invoke(a_step())
    assert kind().name == name
    assert kind(name="other").name == "other"
    assert [(asset.url, asset.sha256) for asset in made.assets] == [(url, sha256)]
    assert made.cost_usd is None


def test_calls_are_counted() -> None:
    """call_count and received_steps tell what was asked."""
    provider = MockProvider(cost_usd=0.5)
    for prompt in ("a", "b"):
        assert provider.invoke(a_step(prompt=prompt)).cost_usd == 0.5
    assert provider.call_count == 2
    assert [step.prompt for step in provider.received_steps] == ["a", "b"]


def test_failures_are_as_told() -> None:
    """A mock that should fail does, with code and message, and counts the call."""
    provider = MockProvider(
        should_fail=True, error_code=ProviderErrorCode.CONTENT_POLICY, error_message="no foxes"
    )
    made = provider.invoke(a_step())
    assert (made.status, made.error, made.error_code) == (
        StepStatus.FAILED,
        "no foxes",
        ProviderErrorCode.CONTENT_POLICY,
    )
    assert provider.call_count == 1
    assert MockProvider(should_fail=True).invoke(a_step()).error == "Mock provider error"


def test_outputs_can_be_given() -> None:
    """A list is copied for every call; a function sees the step."""
    given = [Asset(url="https://cdn.test/a.png", media_type="image/png")]
    made = MockProvider(assets=given).invoke(a_step())
    assert made.assets == given
    assert made.assets[0] is not given[0]
    by_step = MockProvider(
        assets=lambda step: [Asset(url=f"https://cdn.test/{step.model}", media_type="image/png")]
    )
    assert by_step.invoke(a_step()).assets[0].url == "https://cdn.test/m"


@pytest.mark.parametrize("media_type", ["image/png", "audio/mpeg", "video/mp4"])
def test_files_are_real_and_depend_on_the_request(media_type: str) -> None:
    """The bytes are of their type, play for a second, and differ with the request only."""
    first = file_of(media_type, "a")
    assert sniff_media_type(first) == media_type
    assert probe(first, media_type)
    assert file_of(media_type, "a") == first
    assert file_of(media_type, "b") != first


def test_sound_and_video_can_be_decoded() -> None:
    """A decoder reads every frame of the sound and of the video."""
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(file_of("audio/mpeg", "a"))) as sound:
        assert sum(frame.samples for frame in sound.decode(audio=0)) > 40_000
    with av.open(io.BytesIO(file_of("video/mp4", "a"))) as film:
        assert len(list(film.decode(video=0))) == 2


def test_a_pipeline_of_mocks_runs_offline(tmp_path: Path) -> None:
    """Pictures, sound and a video made of both are stored, with the hash of their real bytes."""
    pipeline = (
        Pipeline("mocks")
        .step(adapt(MockProvider(cost_usd=0.1)), model="m", prompt="a fox")
        .step(adapt(MockAudioProvider(cost_usd=0.2)), model="m", modality=Modality.AUDIO)
        .step(
            adapt(MockVideoProvider(cost_usd=0.3)),
            model="m",
            modality=Modality.VIDEO,
            input_from=[0, 1],
        )
        .step(adapt(MockProvider(name="writer")), model="m", modality=Modality.TEXT)
    )
    result = pipeline.run(
        store=f"file://{tmp_path / 'store'}", ledger=f"sqlite:///{tmp_path / 'ledger.db'}"
    )
    media = [result.outcomes[spec.name].ref.media[0] for spec in pipeline.steps]
    assert [item.media_type for item in media] == [
        "image/png",
        "audio/mpeg",
        "video/mp4",
        "text/plain",
    ]
    assert not {item.sha256 for item in media} & {"0" * 64, "1" * 64, "2" * 64}
    assert [item.duration for item in media] == [None, 1.0425, 1.0, None]


def test_given_outputs_are_stored_without_a_network(tmp_path: Path) -> None:
    """https URLs of given records are not fetched; file URLs are read."""
    picture = tmp_path / "own.png"
    picture.write_bytes(file_of("image/png", "own"))
    provider = MockProvider(
        assets=[
            Asset(url="https://cdn.test/a.png", media_type="image/png"),
            Asset(url=picture.as_uri(), media_type="image/png"),
        ]
    )
    provider.output_dir = tmp_path
    result = (
        Pipeline("mocks")
        .step(adapt(provider), model="m")
        .run(store=f"file://{tmp_path / 'store'}", ledger=f"sqlite:///{tmp_path / 'ledger.db'}")
    )
    stored = next(iter(result.outcomes.values())).ref.media
    assert [item.media_type for item in stored] == ["image/png", "image/png"]
    assert stored[1].size_bytes == picture.stat().st_size
