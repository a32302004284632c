import math
from collections.abc import Callable
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality, ProviderErrorCode
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import ConfigError, InvalidRequestError
from genblaze_dagster.providers.constraints import (
    Constraint,
    implies,
    mutually_exclusive,
    required_one_of,
    requires_together,
)
from genblaze_dagster.providers.input_mapping import (
    InputMapping,
    chain_routers,
    route_audio,
    route_by_media_type,
    route_images,
    route_keyframes,
    route_video,
)
from genblaze_dagster.providers.model_spec import ModelSpec
from genblaze_dagster.providers.param_schemas import (
    ArraySchema,
    BoolSchema,
    EnumSchema,
    FloatSchema,
    IntSchema,
    ParamSchema,
    StringSchema,
)
from genblaze_dagster.providers.param_surface import (
    ParamSurface,
    modality_defaults,
    register_modality_default,
)

MIXED = EnumSchema(frozenset({"a", "b", 1}))
PATTERN = StringSchema(1, 3, pattern="a+")

ACCEPTED: list[tuple[str, ParamSchema, Any]] = [
    ("int-low", IntSchema(1, 10), 1),
    ("int-high", IntSchema(1, 10), 10),
    ("int-open", IntSchema(), -5),
    ("int-enum", IntSchema(enum=frozenset({1, 2})), 2),
    ("float-int", FloatSchema(0, 1), 1),
    ("float", FloatSchema(0, 1), 0.5),
    ("float-huge-int", FloatSchema(), 10**400),
    ("enum-text", MIXED, "a"),
    ("enum-int", MIXED, 1),
    ("enum-bool", EnumSchema(frozenset({True})), True),
    ("string", PATTERN, "ab"),
    ("string-enum", StringSchema(enum=frozenset({"x"})), "x"),
    ("bool", BoolSchema(), False),
    ("array", ArraySchema(1, 2, IntSchema(0, 3)), [1, 3]),
    ("array-tuple", ArraySchema(), (1, "two")),
    ("nested", ArraySchema(item=ArraySchema(item=BoolSchema())), [[True], []]),
]

REFUSED: list[tuple[str, ParamSchema, Any, str]] = [
    ("int-low", IntSchema(1, 10), 0, "k: the number is out of range.* from 1 to 10"),
    ("int-high", IntSchema(max=10), 11, "of 10 or less"),
    ("int-bool", IntSchema(1, 10), True, "k: expected a whole number from 1 to 10, got bool"),
    ("int-float", IntSchema(min=1), 1.0, "a whole number of 1 or more, got float"),
    ("int-text", IntSchema(), "1", "got str"),
    ("int-none", IntSchema(), None, "got NoneType"),
    ("int-enum", IntSchema(enum=frozenset({2, 1})), 3, "expected one of 1, 2"),
    ("float-bool", FloatSchema(0, 1), True, "got bool"),
    ("float-text", FloatSchema(), "0.5", "got str"),
    ("float-high", FloatSchema(0, 1), 1.5, "from 0 to 1"),
    ("float-nan", FloatSchema(), math.nan, "expected a finite number"),
    ("float-inf", FloatSchema(0), math.inf, "expected a finite number"),
    ("enum", MIXED, "c", "this str is not allowed; expected one of 1, 'a', 'b'"),
    ("enum-bool", MIXED, True, "this bool is not allowed"),
    ("enum-one", EnumSchema(frozenset({True})), 1, "this int is not allowed"),
    ("enum-list", MIXED, [1], "this list is not allowed"),
    ("string-short", PATTERN, "", "has 0 characters; expected a number from 1 to 3"),
    ("string-long", PATTERN, "aaaa", "has 4 characters"),
    ("string-pattern", PATTERN, "ba", "does not match the pattern 'a[+]'"),
    ("string-enum", StringSchema(enum=frozenset({"x"})), "y", "expected one of 'x'"),
    ("string-int", PATTERN, 1, "expected a text, got int"),
    ("bool-int", BoolSchema(), 1, "expected true or false, got int"),
    ("array-text", ArraySchema(), "ab", "expected a list, got str"),
    ("array-set", ArraySchema(), {1}, "expected a list, got set"),
    ("array-short", ArraySchema(1), [], "has 0 items; expected a number of 1 or more"),
    ("array-long", ArraySchema(1, 2), [1, 2, 3], "has 3 items"),
    ("array-item", ArraySchema(item=IntSchema(0, 3)), [1, 9], r"k\[1\]: the number"),
]


@pytest.mark.parametrize(
    ("schema", "value"), [c[1:] for c in ACCEPTED], ids=[c[0] for c in ACCEPTED]
)
def test_a_schema_takes_what_it_says(schema: ParamSchema, value: object) -> None:
    """Values in range and of the right type pass."""
    schema.validate("k", value)


@pytest.mark.parametrize(
    ("schema", "value", "message"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_a_schema_refuses_everything_else(schema: ParamSchema, value: object, message: str) -> None:
    """A refusal is an invalid input that names parameter, type and what is allowed."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        schema.validate("k", value)
    assert caught.value.code is ProviderErrorCode.INVALID_INPUT
    assert caught.value.sent is False
    assert (caught.value.param or "").startswith("k")


@pytest.mark.parametrize(
    "schema",
    [StringSchema(max_len=3), StringSchema(pattern="x"), StringSchema(enum=frozenset()), MIXED],
    ids=["length", "pattern", "enum", "mixed"],
)
def test_a_refused_value_is_never_quoted(schema: ParamSchema) -> None:
    """A value may be a private prompt, so the message leaves it out."""
    with pytest.raises(InvalidRequestError) as caught:
        schema.validate("style", "a secret wish")
    assert "secret" not in str(caught.value)


def test_a_long_list_of_values_is_cut() -> None:
    """The message stays readable when there are hundreds of allowed values."""
    with pytest.raises(InvalidRequestError, match="and 180 more"):
        EnumSchema(frozenset(range(200))).validate("k", -1)


def test_a_broken_pattern_is_refused_where_it_is_written() -> None:
    """A regular expression that does not compile fails in the declaration, not in a run."""
    with pytest.raises(ConfigError, match="StringSchema pattern"):
        StringSchema(pattern="(")


MX, ONE = mutually_exclusive("a", "b"), required_one_of("a", "b")
BOTH, IMPLIES = requires_together("a", "b"), implies("a", "b")

CONSTRAINTS: list[tuple[str, Constraint, dict[str, Any], str | None]] = [
    ("mx-none", MX, {}, None),
    ("mx-one", MX, {"a": 1}, None),
    ("mx-null", MX, {"a": None, "b": 1}, None),
    ("mx-both", MX, {"a": 1, "b": 2}, "b: cannot stand beside a; give one of a, b"),
    ("mx-false", MX, {"a": False, "b": 0}, "b: cannot stand beside a"),
    ("one-none", ONE, {}, "a: missing; give at least one of a, b"),
    ("one-null", ONE, {"a": None}, "a: missing"),
    ("one-one", ONE, {"b": 0}, None),
    ("one-both", ONE, {"a": 1, "b": 2}, None),
    ("both-none", BOTH, {}, None),
    ("both-one", BOTH, {"b": 1}, "a: missing; a, b go together, b is given"),
    ("both-both", BOTH, {"a": 1, "b": ""}, None),
    ("implies-none", IMPLIES, {"b": 1}, None),
    ("implies-one", IMPLIES, {"a": 1}, "b: missing; a needs it"),
    ("implies-both", IMPLIES, {"a": 1, "b": 2}, None),
]


@pytest.mark.parametrize(
    ("constraint", "params", "message"),
    [c[1:] for c in CONSTRAINTS],
    ids=[c[0] for c in CONSTRAINTS],
)
def test_constraints_look_at_which_parameters_are_given(
    constraint: Callable[[dict[str, Any]], None], params: dict[str, Any], message: str | None
) -> None:
    """None is not given; false, zero and the empty text are."""
    if message is None:
        constraint(params)
        return
    with pytest.raises(InvalidRequestError, match=message):
        constraint(params)


def media(media_type: str, name: str) -> Asset:
    return Asset(url=f"https://x.test/{name}", media_type=media_type)


ONE_PNG, TWO_JPG = media("image/png", "1"), media("image/jpeg", "2")
THREE, FILM, SOUND = media("image/webp", "3"), media("video/mp4", "v"), media("audio/mpeg", "a")
U1, U2, U3, UV, UA = (a.url for a in (ONE_PNG, TWO_JPG, THREE, FILM, SOUND))

ROUTES: list[tuple[str, InputMapping, list[Asset], dict[str, Any]]] = [
    ("slots", route_images(slots=["f", "l"]), [ONE_PNG, FILM, TWO_JPG, THREE], {"f": U1, "l": U2}),
    ("few", route_images(slots=["f", "l"]), [ONE_PNG], {"f": U1}),
    ("array", route_images(array_slot="i"), [ONE_PNG, FILM, TWO_JPG], {"i": [U1, U2]}),
    ("empty", route_images(array_slot="i"), [FILM], {}),
    (
        "both",
        route_images(slots=["f"], array_slot="i"),
        [ONE_PNG, TWO_JPG, THREE],
        {"f": U1, "i": [U2, U3]},
    ),
    ("rest-empty", route_images(slots=["f"], array_slot="i"), [ONE_PNG], {"f": U1}),
    ("video", route_video(), [ONE_PNG, FILM], {"video": UV}),
    ("audio", route_audio(slot="voice"), [SOUND, FILM], {"voice": UA}),
    ("no-audio", route_audio(), [FILM], {}),
    (
        "types",
        route_by_media_type({"image": "img", "image/jpeg": "jpg", "audio/*": "snd"}),
        [ONE_PNG, TWO_JPG, THREE, FILM, SOUND],
        {"img": U1, "jpg": U2, "snd": UA},
    ),
    (
        "frames",
        route_keyframes(),
        [FILM, ONE_PNG, TWO_JPG, THREE],
        {
            "keyframes": {
                "frame0": {"type": "image", "url": U1},
                "frame1": {"type": "image", "url": U2},
            }
        },
    ),
    ("no-frames", route_keyframes(), [FILM], {}),
    (
        "wrapped",
        route_keyframes(frames=("f",), key="k", wrap=lambda a: {"u": a.url}),
        [ONE_PNG, TWO_JPG],
        {"k": {"f": {"u": U1}}},
    ),
    (
        "chain",
        chain_routers(route_images(slots=["s"]), route_video(slot="s")),
        [ONE_PNG, FILM],
        {"s": UV},
    ),
    ("chain-none", chain_routers(), [FILM], {}),
]


@pytest.mark.parametrize(
    ("route", "assets", "fields"), [c[1:] for c in ROUTES], ids=[c[0] for c in ROUTES]
)
def test_routers_put_inputs_into_slots(
    route: InputMapping, assets: list[Asset], fields: dict[str, Any]
) -> None:
    """Inputs go by media type and order; what finds no slot is left out."""
    assert route(assets) == fields


@pytest.mark.parametrize("slots", [None, [], "image"], ids=["none", "empty", "text"])
def test_a_router_without_slots_is_refused(slots: Any) -> None:
    """A mapping that would drop every image is a mistake in the declaration."""
    with pytest.raises(ConfigError, match="route_images has nowhere"):
        route_images(slots=slots)


def test_a_surface_is_built_step_by_step() -> None:
    """Each method gives a new surface; aliases allow the native name; build feeds a spec."""
    base = ParamSurface.for_modality(Modality.IMAGE)
    surface = (
        base.extend("style")
        .remove("seed", "nothing")
        .with_aliases({"number_of_images": "n"}, style="look")
        .with_coercers(n=int)
    )
    assert base.allowlist == modality_defaults(Modality.IMAGE)
    assert surface.allowlist == (base.allowlist | {"style", "look", "n"}) - {"seed"}
    spec = ModelSpec(model_id="m", **surface.build())
    assert spec.param_allowlist == surface.allowlist
    assert spec.param_aliases == {"number_of_images": "n", "style": "look"}
    assert spec.param_coercers == {"n": int}
    assert ParamSurface.empty().build()["param_allowlist"] == frozenset()


def test_modalities_have_standard_parameters() -> None:
    """Prompt, negative prompt and seed are standard everywhere; more can be added."""
    for modality in Modality:
        assert {"prompt", "negative_prompt", "seed"} <= modality_defaults(modality)
    assert "duration" in modality_defaults(Modality.VIDEO)
    assert "voice_id" in modality_defaults(Modality.AUDIO)
    before = modality_defaults(Modality.TEXT)
    register_modality_default(Modality.TEXT, ["seed"])
    assert modality_defaults(Modality.TEXT) == before
