import asyncio
import base64
from pathlib import Path

import httpx
import pytest

from genblaze_dagster.errors import ModelError, OutputError
from genblaze_dagster.providers.openai import DalleProvider, OpenAITTSProvider, SoraProvider
from genblaze_dagster.providers.openai.provider import OpenAIProvider
from genblaze_dagster.providers.openai.vendor import kind_of
from genblaze_dagster.providers.validation import DiscoveryStatus, ValidationOutcome
from tests.providers import (
    test_openai_speech_wire,
    test_openai_video_wire,
    test_openai_wire,
)
from tests.support.vendor import called
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

REPLAYED = ("files_upload_vision", "models_list", "models_retrieve")
ALL = (DalleProvider, OpenAITTSProvider, SoraProvider)
KINDS = {
    DalleProvider: ["gpt-image-1.5", "gpt-image-2"],
    OpenAITTSProvider: ["gpt-4o-mini-tts"],
    SoraProvider: ["sora-2"],
}


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "openai" / f"{name}.json")


@pytest.mark.parametrize("provider", ALL)
def test_the_list_of_models_is_that_of_a_kind(
    vectors: Path, provider: type[OpenAIProvider]
) -> None:
    """One list holds all models; each provider finds its own in it."""
    found = called(
        load(vectors, "models_list"),
        lambda client: provider(API_KEY, client=client),
        lambda made: made.discover_models(),
    )
    assert found.status is DiscoveryStatus.OK
    assert sorted(found.slugs) == KINDS[provider]


def test_a_model_the_key_cannot_see_is_not_found(vectors: Path) -> None:
    """The list is complete: a retired model is known to be gone."""

    async def check(made: DalleProvider) -> list[ValidationOutcome]:
        names = ("gpt-image-2", "dall-e-3", "flux-on-my-gateway")
        return [(await made.validate_model(name)).outcome for name in names]

    found = called(
        load(vectors, "models_list"), lambda client: DalleProvider(API_KEY, client=client), check
    )
    assert found == [
        ValidationOutcome.OK_AUTHORITATIVE,
        ValidationOutcome.NOT_FOUND,
        ValidationOutcome.NOT_FOUND,
    ]


def test_an_outage_says_nothing_about_a_model() -> None:
    """Who asks for the vendor's word of now hears that there is none; else its name counts."""

    def down(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, text="Down for a while.")

    async def main() -> list[ValidationOutcome]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(down)) as client:
            made = SoraProvider(API_KEY, client=client)
            return [
                (await made.validate_model("sora-2", refresh=refresh)).outcome
                for refresh in (True, False)
            ]

    assert asyncio.run(main()) == [
        ValidationOutcome.UNKNOWN_PERMISSIVE,
        ValidationOutcome.OK_PROVISIONAL,
    ]


def test_a_gateways_own_models_are_found() -> None:
    """A name that is not OpenAI's may be of any kind, so it is in every list."""
    answer = {"data": [{"id": "flux-on-my-gateway"}, {"id": "gpt-4o"}]}

    async def main() -> list[str]:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
        async with httpx.AsyncClient(transport=transport) as client:
            return list(await DalleProvider(API_KEY, client=client).list_models())

    assert asyncio.run(main()) == ["flux-on-my-gateway"]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("sora-2-pro", "video"),
        ("chatgpt-image-latest", "image"),
        ("dall-e-2", "image"),
        ("tts-1-hd", "speech"),
        ("gpt-4o-mini-tts-2025-12-15", "speech"),
        ("gpt-5", "other"),
        ("chatgpt-4o-latest", "other"),
        ("o3-mini", "other"),
        ("text-embedding-3-small", "other"),
        ("flux-on-my-gateway", None),
    ],
)
def test_a_name_tells_the_kind(model: str, kind: str | None) -> None:
    """OpenAI's names are known by their beginnings, others are not judged."""
    assert kind_of(model) == kind


def test_a_model_is_retrieved(vectors: Path) -> None:
    """The record of one model is there without the list."""
    found = called(
        load(vectors, "models_retrieve"),
        lambda client: DalleProvider(API_KEY, client=client),
        lambda made: made.retrieve_model("gpt-image-2"),
    )
    assert found["id"] == load(vectors, "models_retrieve").exchanges[0]["response"]["json"]["id"]


def test_an_unknown_model_is_a_model_error() -> None:
    """The vendor's code says that it is the model."""
    error = {"error": {"message": "No.", "code": "model_not_found"}}

    async def main() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(404, json=error))
        async with httpx.AsyncClient(transport=transport) as client:
            await SoraProvider(API_KEY, client=client).retrieve_model("sora-9")

    with pytest.raises(ModelError):
        asyncio.run(main())


@pytest.mark.parametrize("provider", ALL)
def test_a_file_is_uploaded_once_for_many_calls(
    vectors: Path, provider: type[OpenAIProvider]
) -> None:
    """An upload gives the file id that OpenAI's APIs take in place of the file."""
    scenario = load(vectors, "files_upload_vision")
    part = scenario.exchanges[0]["request"]["multipart"][1]
    picture = input_media(
        base64.b64decode(part["body_base64"]),
        part["content_type"],
        url=f"https://store.example.com/media/{part['filename']}",
    )
    found = called(
        scenario,
        lambda client: provider(API_KEY, client=client),
        lambda made: made.upload(picture),
    )
    assert found == scenario.exchanges[0]["response"]["json"]["id"]


def test_an_upload_without_an_id_is_an_error() -> None:
    """Nothing could be named in a later call."""

    async def main() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json={}))
        async with httpx.AsyncClient(transport=transport) as client:
            picture = input_media(b"png", "image/png")
            await DalleProvider(API_KEY, client=client).upload(picture)

    with pytest.raises(OutputError, match="no file id"):
        asyncio.run(main())


def test_all_of_openais_vectors_are_replayed() -> None:
    """Images, videos, speech, chats, models and files: no scenario is left."""
    video, speech = test_openai_video_wire, test_openai_speech_wire
    images = [*test_openai_wire.NAMES, *test_openai_wire.REFUSED]
    replayed = {
        *REPLAYED,
        *scenario_names("openai", "chat_*"),
        *(f"image_{name}" for name in images),
        *video.JOBS,
        *video.OTHER_CALLS,
        *video.REFUSED,
        *speech.SPEECH,
        *speech.REFUSED,
    }
    everything = scenario_names("openai")
    print(f"openai: {len(replayed)} of {len(everything)} vectors replayed")
    assert replayed == set(everything)
