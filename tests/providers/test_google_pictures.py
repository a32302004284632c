from dataclasses import replace
from pathlib import Path

import pytest

from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.providers.google import GeminiImageProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from tests.providers.test_google_wire import load, replay_of, request_of
from tests.support.wire import API_KEY


@pytest.mark.parametrize("name", ["imagen_minimal", "gemini_image_text_to_image"])
def test_pictures_that_can_be_read_are_kept(vectors: Path, name: str) -> None:
    """All of them are paid; what is broken is counted, and does not cost the others."""
    scenario = load(vectors, name)
    data = ["aGk=", "%%%", "aG8="]
    parts = [{"inlineData": {"mimeType": "image/png", "data": text}} for text in data]
    answer = {
        "predictions": [{"bytesBase64Encoded": text} for text in data],
        "candidates": [{"content": {"parts": parts}}],
    }
    exchange = {**scenario.exchanges[0], "response": {"status": 200, "json": answer}}
    driven = replay_of(replace(scenario, exchanges=[exchange]), request_of(scenario))
    assert driven.data == [b"hi", b"ho"]
    assert driven.result is not None
    assert driven.result.provider_payload["missing"] == 1


def test_an_empty_prompt_makes_no_picture() -> None:
    """A picture is described in words, also one that is made of another."""
    request = GenerationRequest(model="gemini-2.5-flash-image", prompt="")
    with pytest.raises(InvalidRequestError) as caught:
        GeminiImageProvider(API_KEY).validate(request)
    assert caught.value.param == "prompt"
