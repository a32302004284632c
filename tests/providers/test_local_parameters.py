import math

import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import InvalidRequestError, ModelError
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.local.parameters import ASPECT_SIZES, Size
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia

IMAGE = ("local-image", Modality.IMAGE)
VIDEO = ("local-video", Modality.VIDEO)
AUDIO = ("local-audio", Modality.AUDIO)


@pytest.mark.parametrize(
    ("model", "params", "param", "allowed"),
    [
        (IMAGE, {"width": 5000}, "width", "16 to 2048"),
        (IMAGE, {"width": 0}, "width", "16 to 2048"),
        (IMAGE, {"width": "512"}, "width", "16 to 2048"),
        (IMAGE, {"width": True}, "width", "16 to 2048"),
        (IMAGE, {"height": 512.0}, "height", "16 to 2048"),
        (IMAGE, {"aspect_ratio": "5:1"}, "aspect_ratio", "16:9"),
        (IMAGE, {"aspect_ratio": ["1:1"]}, "aspect_ratio", "16:9"),
        (IMAGE, {"aspect_ratio": "1:1", "width": 64, "height": 64}, "aspect_ratio", "both"),
        (IMAGE, {"aspect_ratio": "9:16", "width": 2048}, "width", "2048"),
        (IMAGE, {"output_format": "bmp"}, "output_format", "png, jpeg, webp"),
        (IMAGE, {"caption": 1}, "caption", "True"),
        (IMAGE, {"n": 9}, "n", "1 to 8"),
        (IMAGE, {"fps": 12}, "fps", "aspect_ratio, caption, height, n, output_format, seed, width"),
        (IMAGE, {"seed": -1}, "seed", "0 to"),
        (VIDEO, {"width": 511}, "width", "even"),
        (VIDEO, {"duration": 61}, "duration", "0.1 to 60"),
        (VIDEO, {"duration": math.nan}, "duration", "0.1 to 60"),
        (VIDEO, {"duration": math.inf}, "duration", "0.1 to 60"),
        (VIDEO, {"fps": 0}, "fps", "1 to 60"),
        (VIDEO, {"output_format": "webm"}, "output_format", "mp4"),
        (AUDIO, {"sample_rate": 44_000}, "sample_rate", "44100"),
        (AUDIO, {"sample_rate": 44_100.0}, "sample_rate", "44100"),
        (AUDIO, {"channels": 6}, "channels", "1 to 2"),
        (AUDIO, {"voice": "x"}, "voice", "duration"),
    ],
)
def test_bad_parameter_is_named_with_what_is_allowed(
    model: tuple[str, Modality], params: dict[str, object], param: str, allowed: str
) -> None:
    """A wrong parameter raises InvalidRequestError naming it and the allowed values."""
    request = GenerationRequest(model=model[0], modality=model[1], params=params)
    with pytest.raises(InvalidRequestError) as caught:
        LocalProvider().validate(request)
    assert caught.value.param == param
    assert param in str(caught.value)
    assert allowed in str(caught.value)
    assert caught.value.sent is False
    assert caught.value.transient is False


def test_unknown_model_names_the_ones_there_are() -> None:
    """An unknown model raises ModelError that lists the models."""
    with pytest.raises(ModelError, match="local-image, local-video, local-audio"):
        LocalProvider().validate(GenerationRequest(model="dall-e-3"))


def test_modality_must_be_what_the_model_makes() -> None:
    """A manifest that would call a video an image is refused."""
    with pytest.raises(InvalidRequestError, match="must be video, not image") as caught:
        LocalProvider().validate(GenerationRequest(model="local-video"))
    assert caught.value.param == "modality"


def test_seed_given_twice_must_agree() -> None:
    """The request's seed and a seed parameter may be equal, not different."""
    provider = LocalProvider()
    provider.validate(GenerationRequest(model="local-image", seed=3, params={"seed": 3}))
    with pytest.raises(InvalidRequestError, match="twice"):
        provider.validate(GenerationRequest(model="local-image", seed=3, params={"seed": 4}))


@pytest.mark.parametrize(
    ("model", "media_types"),
    [
        (IMAGE, ["video/mp4"]),
        (IMAGE, ["image/png", "image/png"]),
        (VIDEO, ["video/mp4"]),
        (VIDEO, ["audio/wav", "audio/wav"]),
        (VIDEO, ["text/plain"]),
    ],
)
def test_inputs_a_model_cannot_use_are_refused(
    model: tuple[str, Modality], media_types: list[str]
) -> None:
    """Inputs of a wrong kind or number raise InvalidRequestError before anything is read."""

    async def read() -> bytes:
        raise AssertionError("validation read an input")

    inputs = tuple(
        InputMedia(Asset(url="x:y", media_type=kind), read, None, lambda: None)  # type: ignore[arg-type]
        for kind in media_types
    )
    request = GenerationRequest(model=model[0], modality=model[1], inputs=inputs)
    with pytest.raises(InvalidRequestError, match="at most 1 image") as caught:
        LocalProvider().validate(request)
    assert caught.value.param == "inputs"


@pytest.mark.parametrize("natural", [(1, 1), (3000, 20), (20, 3000), (1921, 1081)])
@pytest.mark.parametrize("asked", [(None, None), (1920, None), (None, 1920)])
def test_sides_that_follow_from_an_input_are_even_and_in_range(
    natural: tuple[int, int], asked: tuple[int | None, int | None]
) -> None:
    """Whatever the input's shape, the size can be encoded."""
    for side in Size(*asked, aspect_ratio=None, largest_side=1920).resolve(natural):
        assert 16 <= side <= 1920
        assert side % 2 == 0


def test_aspect_ratios_give_about_the_shape_they_name() -> None:
    """Every default size is even and within two percent of its ratio."""
    for name, (width, height) in ASPECT_SIZES.items():
        wide, high = map(int, name.split(":"))
        assert width % 2 == height % 2 == 0
        assert width / height == pytest.approx(wide / high, rel=0.02)


def test_nothing_costs_anything() -> None:
    """The estimate is exactly 0.0, not unknown."""
    assert LocalProvider().estimate_cost(GenerationRequest(model="local-image")) == 0.0
