import copy
import logging
import re
import threading
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import ConfigError, InvalidRequestError
from genblaze_dagster.providers.constraints import mutually_exclusive
from genblaze_dagster.providers.input_mapping import route_images
from genblaze_dagster.providers.models import (
    FALLBACK_SPEC,
    ModelFamily,
    ModelRegistry,
    ModelSpec,
)
from genblaze_dagster.providers.once import Once
from genblaze_dagster.providers.param_schemas import IntSchema, StringSchema
from genblaze_dagster.providers.pricing import per_unit


def family(name: str, pattern: str, **fields: Any) -> ModelFamily:
    template = fields.pop("spec_template", ModelSpec(model_id="*", extras={"family": name}))
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        spec_template=template,
        description=f"Models like {pattern}.",
        **fields,
    )


def step(model: str = "m", **fields: Any) -> Step:
    return Step(provider="p", model=model, **fields)


def registry(*, strict: bool = False, **fields: Any) -> ModelRegistry:
    models = ModelRegistry(strict_params=strict)
    models.register(ModelSpec(model_id="m", **fields))
    return models


def filled() -> ModelRegistry:
    models = ModelRegistry(
        provider_families=[
            family("acme", r"acme-\d", canonical_slug=str.upper, example_slugs=("acme-1",))
        ]
    )
    models.register(
        ModelSpec(
            model_id="one",
            aliases=frozenset({"uno"}),
            deprecated_aliases=frozenset({"eins"}),
            modality=Modality.VIDEO,
        )
    )
    return models


@pytest.mark.parametrize(
    ("name", "found"),
    [("one", "one"), ("uno", "one"), ("acme-3", "ACME-3"), ("acme-3x", "ACME-3X"), ("no", "*")],
    ids=str,
)
def test_names_are_looked_up(name: str, found: str) -> None:
    """An id, an alias and a family's pattern find a spec; anything else finds the fallback."""
    models = filled()
    assert models.get(name).model_id == found
    assert models.has(name) is (name in models) is (found != "*")
    assert models.resolve_canonical(name) == (name if found == "*" else found)


def test_the_order_of_a_lookup() -> None:
    """Spec, own family (latest first), provider family (first first), alias, deprecated alias."""
    models = ModelRegistry(provider_families=[family("p1", "x"), family("p2", "x")])
    models.register(ModelSpec(model_id="late", deprecated_aliases=frozenset({"x1", "y1"})))
    models.register(ModelSpec(model_id="named", aliases=frozenset({"x1", "y1"})))
    assert models.get("y1").model_id == "named"
    assert models.get("x1").extras == {"family": "p1"}
    models.register_family(family("u1", "x"))
    models.register_family(family("u2", "x"))
    assert models.get("x1").extras == {"family": "u2"}
    assert [f.name for f in models.families] == ["u2", "u1", "p1", "p2"]
    models.register(ModelSpec(model_id="x1"))
    assert models.get("x1").extras == {}


def test_a_family_added_again_replaces_the_first() -> None:
    """A name stands once, and the number of families is bounded."""
    models = ModelRegistry()
    models.register_family(family("f", "a"))
    models.register_family(family("f", "b"))
    assert ("a1" in models, "b1" in models) == (False, True)
    for number in range(31):
        models.register_family(family(f"f{number}", "a"))
    with pytest.raises(ConfigError, match="33 families; 32 are allowed"):
        models.register_family(family("more", "a"))
    with pytest.raises(ConfigError, match="33 families"):
        ModelRegistry(provider_families=[family("f", "a")] * 33)


def test_a_deprecated_alias_warns_once() -> None:
    """The first use tells the new name; looking whether it is there does not."""
    models = filled()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "eins" in models
        assert models.resolve_canonical("eins") == "one"
        assert caught == []
        for _ in range(3):
            assert models.get("eins").model_id == "one"
        models.prepare_payload(step("eins"))
    assert [str(w.message) for w in caught] == ["the model id 'eins' is deprecated; use 'one'"]
    assert caught[0].category is DeprecationWarning


def test_registering_replaces_unless_told_otherwise() -> None:
    """The latest spec of an id counts with its own aliases; `override=False` refuses."""
    models = filled()
    with pytest.raises(ConfigError, match="'one' is registered already"):
        models.register(ModelSpec(model_id="one"), override=False)
    models.register(ModelSpec(model_id="one", aliases=frozenset({"ein"})))
    assert ("uno" in models, "eins" in models, "ein" in models) == (False, False, True)
    models.register(ModelSpec(model_id="two", aliases=frozenset({"ein"})))
    assert models.get("ein").model_id == "two"


def test_pricing_keeps_all_else() -> None:
    """A price can be set under any name a model has; unknown models become known."""
    models = filled()
    price = per_unit(1)
    for name, canonical in [("uno", "one"), ("acme-9", "ACME-9"), ("brand-new", "brand-new")]:
        models.register_pricing(name, price)
        assert models.get(name).pricing is price
        assert models.get(canonical).pricing is price
    assert models.get("one").modality is Modality.VIDEO
    assert models.get("acme-9").extras == {"family": "acme"}
    assert models.get("acme-8").pricing is None
    assert FALLBACK_SPEC.pricing is None


def test_known_models_are_listed() -> None:
    """Registered ids and the families' examples, sorted; items are what was registered."""
    models = filled()
    models.extend([ModelSpec(model_id="a")])
    models.extend({"any": ModelSpec(model_id="b")})
    assert models.known() == ["ACME-1", "a", "b", "one"]
    assert [name for name, _ in models.items()] == ["one", "a", "b"]
    match = models.match_family("acme-7")
    assert match is not None
    assert (match.family.name, match.spec.model_id) == ("acme", "ACME-7")


def test_hostile_names_are_nobodys() -> None:
    """A name of a megabyte is not run through patterns."""
    assert "acme-1" + "x" * 1_000_000 not in filled()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_id": ""}, "empty model_id"),
        ({"model_id": "m", "aliases": "abc"}, "aliases is a text"),
        ({"model_id": "m", "param_allowlist": "abc"}, "param_allowlist is a text"),
        (
            {"model_id": "m", "param_aliases": {"a": "b", "b": "c"}},
            "param_aliases names 'b', which is an alias",
        ),
        (
            {"model_id": "m", "param_aliases": {"a": "b"}, "param_defaults": {"a": 1}},
            "param_defaults names 'a', .*; name the native parameter 'b'",
        ),
        (
            {"model_id": "m", "param_schemas": {"x": IntSchema(1)}, "param_defaults": {"x": 0}},
            "its schema refuses a default of its own: x: the number is out of range",
        ),
        (
            {"model_id": "m", "param_required": frozenset("ab"), "param_allowlist": frozenset("a")},
            "param_allowlist leaves out 'b', which is required",
        ),
    ],
    ids=["id", "aliases", "allowlist", "chain", "alias", "default", "required"],
)
def test_a_broken_spec_is_refused(fields: dict[str, Any], message: str) -> None:
    """Mistakes in a declaration are told where it stands."""
    with pytest.raises(ConfigError, match=message):
        ModelSpec(**fields)


def test_what_permissive_means() -> None:
    """A spec that says nothing about parameters lets them through; a price says nothing."""
    assert FALLBACK_SPEC.is_permissive
    assert ModelSpec(model_id="m", pricing=per_unit(1)).is_permissive
    assert not ModelSpec(model_id="m", param_allowlist=frozenset()).is_permissive
    assert not ModelSpec(model_id="m", param_required=frozenset({"a"})).is_permissive
    assert not ModelSpec(model_id="m", input_mapping=route_images(slots=["a"])).is_permissive


PNG = Asset(url="https://x.test/1", media_type="image/png")
TO_IMAGE = route_images(slots=["image"])

STAGES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "base",
        {},
        {"prompt": "hi", "negative_prompt": "no", "seed": 3, "params": {"x": 1}},
        {"prompt": "hi", "negative_prompt": "no", "seed": 3, "x": 1},
    ),
    ("params-win", {}, {"prompt": "hi", "params": {"prompt": "other"}}, {"prompt": "other"}),
    (
        "null-is-absent",
        {},
        {"prompt": "hi", "params": {"prompt": None, "x": None}},
        {"prompt": "hi"},
    ),
    ("alias", {"param_aliases": {"d": "s"}}, {"params": {"d": 4}}, {"s": 4}),
    ("native-wins", {"param_aliases": {"d": "s"}}, {"params": {"d": 4, "s": 5}}, {"s": 5}),
    (
        "alias-before-transformer",
        {"param_aliases": {"d": "s"}, "param_transformer": lambda p: {**p, "seen": p["s"]}},
        {"params": {"d": 4}},
        {"s": 4, "seen": 4},
    ),
    ("input", {"input_mapping": TO_IMAGE}, {"inputs": [PNG]}, {"image": PNG.url}),
    (
        "given-input-wins",
        {"input_mapping": TO_IMAGE},
        {"inputs": [PNG], "params": {"image": "mine"}},
        {"image": "mine"},
    ),
    (
        "transformer-before-input",
        {"input_mapping": TO_IMAGE, "param_transformer": lambda p: {"n": len(p)}},
        {"inputs": [PNG]},
        {"n": 0, "image": PNG.url},
    ),
    ("coercer", {"param_coercers": {"x": int}}, {"params": {"x": "4"}}, {"x": 4}),
    (
        "coercer-after-input",
        {"input_mapping": TO_IMAGE, "param_coercers": {"image": str.upper}},
        {"inputs": [PNG]},
        {"image": PNG.url.upper()},
    ),
    ("default", {"param_defaults": {"x": 1, "y": 2}}, {"params": {"x": 9}}, {"x": 9, "y": 2}),
    (
        "default-is-not-coerced",
        {"param_defaults": {"x": 1}, "param_coercers": {"x": str}},
        {},
        {"x": 1},
    ),
    (
        "default-is-required",
        {"param_defaults": {"x": 1}, "param_required": frozenset({"x"})},
        {},
        {"x": 1},
    ),
    (
        "coerced-before-schema",
        {"param_coercers": {"x": int}, "param_schemas": {"x": IntSchema(1, 5)}},
        {"params": {"x": "4"}},
        {"x": 4},
    ),
    (
        "constraint-before-allowlist",
        {"param_constraints": (mutually_exclusive("a", "b"),), "param_allowlist": frozenset("a")},
        {"params": {"a": 1}},
        {"a": 1},
    ),
]


@pytest.mark.parametrize(
    ("spec", "fields", "payload"), [c[1:] for c in STAGES], ids=[c[0] for c in STAGES]
)
def test_payload_stages(
    spec: dict[str, Any], fields: dict[str, Any], payload: dict[str, Any]
) -> None:
    """Each stage does its part, in the documented order."""
    models = registry(**spec)
    made = models.prepare_payload(step(**fields))
    assert made == payload


REFUSALS: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("schema", {"param_schemas": {"x": IntSchema(1, 3)}}, {"x": 9}, "x", "from 1 to 3"),
    ("required", {"param_required": frozenset({"x", "y"})}, {"y": None}, "x", "m needs x, y"),
    ("coercer", {"param_coercers": {"x": int}}, {"x": "secret"}, "x", "a str cannot be used"),
    ("transformer", {"param_transformer": lambda p: p["secret"]}, {}, "params", "KeyError"),
    ("mapping", {"input_mapping": lambda a: a[9]}, {}, "inputs", "IndexError"),
    (
        "constraint",
        {"param_constraints": (mutually_exclusive("a", "b"),)},
        {"a": 1, "b": 2},
        "b",
        "beside a",
    ),
    (
        "constraint-sees-extra",
        {"param_constraints": (mutually_exclusive("a", "b"),), "param_allowlist": frozenset("a")},
        {"a": 1, "b": 2},
        "b",
        "beside a",
    ),
]


@pytest.mark.parametrize(
    ("spec", "params", "name", "message"), [c[1:] for c in REFUSALS], ids=[c[0] for c in REFUSALS]
)
def test_payload_refusals(
    spec: dict[str, Any], params: dict[str, Any], name: str, message: str
) -> None:
    """A refusal names parameter, provider and model, and quotes no value."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        registry(**spec).prepare_payload(step(params=params, inputs=[PNG]))
    error = caught.value
    assert (error.param, error.provider, error.model, error.sent) == (name, "p", "m", False)
    assert "secret" not in str(error)


@pytest.mark.parametrize("field", ["param_transformer", "input_mapping"])
def test_a_function_of_the_wrong_shape_is_a_mistake_in_the_spec(field: str) -> None:
    """A transformer or mapping that returns nothing is told by the name of its field."""
    with pytest.raises(ConfigError, match=f"m: its {field} returned NoneType"):
        registry(**{field: lambda _: None}).prepare_payload(step(inputs=[PNG]))


def test_parameters_that_are_not_allowed_are_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning names them, once, and never their values."""
    models = registry(param_allowlist=frozenset({"x"}))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            made = models.prepare_payload(step(prompt="wish", params={"x": 1, "y": "secret"}))
    assert made == {"x": 1}
    assert [r.getMessage() for r in caplog.records] == [
        "m: parameters it does not take are left out: prompt, y"
    ]


def test_strict_registries_refuse_unknown_parameters() -> None:
    """With `strict_params` an extra parameter is an invalid input; forks stay strict."""
    models = registry(strict=True, param_allowlist=frozenset({"x"}))
    for strict in (models, models.fork()):
        with pytest.raises(InvalidRequestError, match="m has no parameter y; it takes x") as caught:
            strict.prepare_payload(step(params={"x": 1, "y": 1}))
        assert caught.value.param == "y"


def test_unknown_models_pass_through() -> None:
    """Nobody knows the model, so nothing is refused or left out."""
    made = ModelRegistry().prepare_payload(step("nobody", prompt="hi", params={"any": [1]}))
    assert made == {"prompt": "hi", "any": [1]}


def test_nothing_given_is_changed() -> None:
    """Step and spec stay as they are, whatever functions and callers do to a payload."""

    def meddle(params: dict[str, Any]) -> dict[str, Any]:
        params["deep"].append(2)
        return params

    models = registry(param_transformer=meddle, param_defaults={"tags": ["a"]})
    given_step = step(params={"deep": [1]})
    before = copy.deepcopy(given_step)
    made = models.prepare_payload(given_step)
    assert made == {"deep": [1, 2], "tags": ["a"]}
    made["tags"].append("b")
    assert given_step == before
    assert models.prepare_payload(step(params={"deep": []}))["tags"] == ["a"]


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
VALUES = st.one_of(st.none(), st.integers(-3, 9), st.text(max_size=3), st.booleans())


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    schemas = draw(st.dictionaries(NAMES, st.just(StringSchema(max_len=5))))
    aliases = draw(st.dictionaries(st.sampled_from("ab"), st.sampled_from("cd")))
    native = NAMES.filter(lambda name: name not in aliases)
    coercers = draw(st.dictionaries(native, st.sampled_from([str, bool, int])))
    # A default is sent as it stands; a coercer of the same name is for what people write.
    plain = native.filter(lambda name: name not in coercers)
    defaults = {
        name: str(value) if name in schemas else value
        for name, value in draw(st.dictionaries(plain, VALUES)).items()
    }
    allowed = draw(st.none() | st.frozensets(NAMES))
    required = draw(st.frozensets(native, max_size=1))
    return {
        "param_aliases": aliases,
        "param_transformer": draw(st.sampled_from([None, lambda p: {**p, "e": "made"}])),
        "param_coercers": coercers,
        "param_defaults": defaults,
        "param_schemas": {name: s for name, s in schemas.items() if name not in aliases},
        "param_required": required if allowed is None else required & allowed,
        "param_allowlist": allowed,
    }


@given(specs(), st.dictionaries(NAMES, VALUES))
def test_preparing_twice_is_preparing_once(spec: dict[str, Any], params: dict[str, Any]) -> None:
    """A payload that a model takes is prepared to itself."""
    models = registry(**spec)
    try:
        made = models.prepare_payload(step(params=params))
    except InvalidRequestError:
        return
    assert models.prepare_payload(step(), base_params=made) == made


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["register", "price", "family"]),
        st.sampled_from(["one", "uno", "two", "acme-1", "z"]),
    ),
    max_size=8,
)


def picture(models: ModelRegistry) -> dict[str, Any]:
    names = ("one", "uno", "eins", "two", "acme-1", "z", "z9")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "known": models.known(),
            "families": models.families,
            **{n: (models.resolve_canonical(n), models.get(n)) for n in names},
        }


def operate(models: ModelRegistry, operations: list[tuple[str, str]]) -> None:
    for operation, name in operations:
        if operation == "register":
            models.register(ModelSpec(model_id=name, aliases=frozenset({"z9"})))
        elif operation == "price":
            models.register_pricing(name, per_unit(1))
        else:
            models.register_family(family(name, name))


@given(OPERATIONS, OPERATIONS)
def test_forks_are_isolated(ours: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> None:
    """A fork starts equal; what happens to one of the two never shows in the other."""
    models = filled()
    operate(models, ours)
    fork = models.fork()
    before = picture(models)
    assert picture(fork) == before
    operate(fork, theirs)
    assert picture(models) == before
    changed = picture(fork)
    operate(models, [("register", "two"), ("family", "z"), ("price", "one")])
    assert picture(fork) == changed


def test_many_threads_may_register_and_look_up() -> None:
    """Concurrent use loses nothing and breaks no listing."""
    models = filled()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(50):
                models.register(ModelSpec(model_id=f"m{number}-{i}", aliases=frozenset({"shared"})))
                assert models.get(f"m{number}-{i}").model_id == f"m{number}-{i}"
                models.known()
                models.fork()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(models.items())) == 201


def test_what_was_said_is_remembered_within_bounds() -> None:
    """A thing is new once; after a thousand others it may be new again."""
    once = Once()
    assert [once.first("a"), once.first("a"), once.first("b")] == [True, False, True]
    for number in range(2000):
        once.first(number)
    assert once.first("a")
    assert not once.first(1999)
