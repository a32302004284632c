"""Reading manifests that somebody else wrote, broke, or made up."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.core.parse import MAX_BRACKETS, MAX_MANIFEST_BYTES, parse_manifest
from genblaze_dagster.errors import ManifestError, SchemaError, UnsupportedSchemaVersionError

STEP: dict[str, Any] = {"model": "m", "provider": "p"}


def document(**fields: Any) -> dict[str, Any]:
    return {"schema_version": "1.5", "run": {"steps": [STEP]}, **fields}


@pytest.fixture
def text() -> str:
    run = Run(steps=[Step(model="m", provider="p", prompt="a lighthouse", params={"a": 1})])
    return Manifest.from_run(run).to_canonical_json()


def test_text_of_any_kind_is_read(text: str) -> None:
    """Text, bytes, bytes with a byte order mark and mappings give the same manifest."""
    sources = (
        text,
        text.encode(),
        bytearray(text.encode()),
        b"\xef\xbb\xbf" + text.encode(),
        MappingProxyType(json.loads(text)),
    )
    for source in sources:
        assert parse_manifest(source).to_canonical_json() == text


@pytest.mark.parametrize("version", [None, "", 0])
def test_a_missing_version_is_the_first(version: object) -> None:
    """A file without a schema version is read as 1.0."""
    assert parse_manifest(document(schema_version=version)).schema_version == "1.0"
    bare = document()
    del bare["schema_version"]
    assert parse_manifest(bare).schema_version == "1.0"
    assert "schema_version" not in bare


@pytest.mark.parametrize(
    ("version", "shown"),
    [("1.7", "1.7"), ("2.0", "2.0"), (1.5, "unknown form"), ("a secret", "unknown form")],
)
def test_a_version_from_the_future_says_what_to_do(version: object, shown: str) -> None:
    """An unknown version names itself, the versions that are read, and the remedy."""
    with pytest.raises(UnsupportedSchemaVersionError, match=shown) as refusal:
        parse_manifest(document(schema_version=version))
    assert "1.0 to 1.6" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"{", "truncated"),
        (b"{'a': 1}", "not JSON"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"[]", "array"),
        (b"null", "null"),
        (b"true", "boolean"),
        (b"7", "number"),
        (b'"text"', "string"),
        (b"{}", "run: Field required"),
        (b'{"run":' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a":' * 50_000, "too deep"),
        (b"[" * 50_000, "too deep"),
        (b"{" + b" " * MAX_MANIFEST_BYTES + b"}", "longer than"),
        (" " * (MAX_MANIFEST_BYTES + 1), "longer than"),
        ("\u00e9" * (MAX_MANIFEST_BYTES // 2 + 1), "longer than"),
        (b"[" + b"{}," * MAX_BRACKETS + b"0]", "100001 brackets"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 99 else "",
)
def test_what_is_no_manifest_is_a_schema_error(data: bytes | str, message: str) -> None:
    """Broken, foreign, endless and oversized input is refused with its reason."""
    with pytest.raises(SchemaError, match=message):
        parse_manifest(data)


def test_a_truncated_manifest_is_never_accepted(text: str) -> None:
    """Every proper prefix of a manifest is a typed error."""
    data = text.encode()
    for end in range(len(data)):
        with pytest.raises(SchemaError):
            parse_manifest(data[:end])


def test_the_longest_manifest_is_read(text: str) -> None:
    """Exactly 16 MiB are still read, one byte more is not."""
    padding = b" " * (MAX_MANIFEST_BYTES - len(text))
    assert parse_manifest(text.encode() + padding).verify()
    with pytest.raises(SchemaError, match="longer than"):
        parse_manifest(text.encode() + padding + b" ")


def test_a_manifest_of_very_many_steps_is_read() -> None:
    """The limit on objects leaves room for more steps than anybody has."""
    steps = [{**STEP, "params": {}, "inputs": [], "assets": []}] * 20_000
    assert len(parse_manifest({"run": {"steps": steps}}).run.steps) == 20_000
    assert len(parse_manifest(json.dumps({"run": {"steps": steps}})).run.steps) == 20_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"run": None}, r"run: "),
        ({"run": []}, r"run: "),
        ({"run": {"steps": {}}}, r"run\.steps: "),
        ({"run": {"steps": [{}]}}, r"run\.steps\[0\]\.model: "),
        ({"run": {"steps": [{**STEP, "seed": {}}]}}, r"run\.steps\[0\]\.seed: "),
        ({"run": {"steps": [{**STEP, "mine": 1}]}}, r"run\.steps\[0\]\.mine: Extra"),
        ({"run": {"steps": [{"model": "m"}]}}, r"run\.steps\[0\]\.provider: .*null is for"),
        ({"run": {"steps": [{**STEP, "modality": "smell"}]}}, r"run\.steps\[0\]\.modality: "),
        ({"run": {"created_at": "yesterday"}}, r"run\.created_at: "),
        ({"canonical_hash": None}, r"canonical_hash: "),
        ({"transfer_failures": [1]}, r"transfer_failures\[0\]: "),
        ({"run": {"steps": [7] * 9}}, r"run\.steps\[0\]: [^;]*$"),
        ({"run": {"steps": [{**STEP, **dict.fromkeys("abcde")}]}}, r"\[0\]\.c: .*; and 2 more$"),
    ],
    ids=str,
)
def test_errors_name_the_fields(fields: dict[str, Any], message: str) -> None:
    """A wrong field is named by its path, at most three of them."""
    with pytest.raises(SchemaError, match=message):
        parse_manifest(document(**fields))


def test_errors_never_quote_the_input() -> None:
    """No value of a file, and no exception that holds one, is in the error."""
    asset = {"url": "hush", "media_type": ["hush"], "width": "hush", "size_bytes": "hush"}
    step = {
        "model": ["hush"],
        "prompt": {"hush": "hush"},
        "seed": "hush",
        "modality": "hush",
        "cost_usd": "hush",
        "started_at": "hush",
        "assets": [asset],
    }
    with pytest.raises(SchemaError) as refusal:
        parse_manifest(document(run={"steps": [step], "created_at": "hush"}))
    assert "hush" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_a_secret_version_of_json_error_is_not_quoted() -> None:
    """The message for broken JSON gives the place, not the text around it."""
    with pytest.raises(SchemaError) as refusal:
        parse_manifest(b'{"prompt": "hush" "hush"}')
    assert "line 1 column 19" in str(refusal.value)
    assert "hush" not in str(refusal.value)


def test_millions_of_wrong_items_are_one_error() -> None:
    """A hostile file cannot make the explanation larger than itself."""
    items = b",".join([b"0"] * 2_000_000)
    for text in (
        b'{"run":{"steps":[' + items + b"]}}",
        b'{"run":{},"transfer_failures":[' + items + b"]}",
        b'{"run":{"steps":[{"model":"m","provider":"p","assets":[' + items + b"]}]}}",
    ):
        with pytest.raises(SchemaError) as refusal:
            parse_manifest(text)
        assert len(str(refusal.value)) < 200


def test_numbers_beyond_json_are_read_as_null() -> None:
    """NaN, Infinity and 1E400 are accepted and hash as null."""
    source = (
        '{{"schema_version":"1.5","run":{{"steps":[{{"model":"m","provider":"p","params":{}}}]}}}}'
    )
    hashes = {
        parse_manifest(source.format(params)).compute_hash()
        for params in ('{"a":NaN}', '{"a":-Infinity}', '{"a":1E400}', '{"a":null}')
    }
    assert len(hashes) == 1


def test_the_last_of_two_equal_keys_wins() -> None:
    """Duplicate keys are read as Python reads them."""
    first = b'{"schema_version":"1.5","run":{"name":"a"},"run":{"name":"b"}}'
    assert parse_manifest(first).run.name == "b"


def test_deep_objects_are_refused_when_hashed_not_when_read() -> None:
    """A mapping of any depth is read, and ends in a typed error when it is hashed."""
    value: object = 1
    for _ in range(100_000):
        value = [value]
    manifest = parse_manifest(document(run={"steps": [{**STEP, "params": {"a": value}}]}))
    with pytest.raises(ManifestError, match="100 levels"):
        manifest.verify()


# Values that a field may be replaced with: other types, other magnitudes, other alphabets.
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    -0.0,
    1e-7,
    1e400,
    float("nan"),
    "",
    "x" * 300,
    "\ud800",
    "e\u0301",
    "1.5",
    "2025-01-01",
    "9" * 4000,
    [],
    {},
    [[[[]]]],
    {"": {"": None}},
    {"\udc00": 1},
]


def mutations(document: dict[str, Any], rng: random.Random) -> Iterator[bytes]:
    """Yield broken spellings of a manifest: bytes changed, lost, doubled; values replaced."""
    data = json.dumps(document).encode()
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    yield data[:start] + data[end:]
    yield data[:end] + data[start:]
    yield data[:start] + bytes([rng.randrange(256)]) + data[start + 1 :]
    yield data[:start] + rng.choice([b"{", b"]", b'"', b"\\u", b"e9", b"-"]) + data[start:]
    for _ in range(4):
        changed = json.loads(data)
        node = changed
        while True:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            below = node[key]
            if not isinstance(below, dict | list) or not below or rng.random() < 0.2:
                break
            node = below
        if rng.random() < 0.15 and isinstance(node, dict):
            del node[key]
        else:
            node[key] = rng.choice(ODD)
        yield json.dumps(changed).encode()


def read_verify_write(data: bytes) -> str:
    """Do all that a tool does with a file; anything but a ManifestError fails the test."""
    try:
        manifest = parse_manifest(data)
        manifest.verification_report()
        written = manifest.to_canonical_json()
    except ManifestError:
        return "refused"
    again = parse_manifest(written)
    assert again.to_canonical_json() == written
    assert again.compute_hash() == manifest.compute_hash()
    return "read"


def fuzz(vectors: Path, rounds: int) -> dict[str, int]:
    files = sorted((vectors / "genblaze" / "manifests").glob("*.json"))
    documents = [json.loads(path.read_bytes()) for path in files]
    rng = random.Random(20250102)  # noqa: S311
    outcomes = {"refused": 0, "read": 0}
    for document in documents:
        if not isinstance(document, dict):
            continue
        for _ in range(rounds):
            for data in mutations(document, rng):
                outcomes[read_verify_write(data)] += 1
    return outcomes


def test_mutated_manifests_are_read_or_refused(vectors: Path) -> None:
    """Whatever is done to a file, the outcome is a manifest or a typed error."""
    outcomes = fuzz(vectors, rounds=5)
    assert min(outcomes.values()) > 200


@pytest.mark.slow
def test_mutated_manifests_are_read_or_refused_at_length(vectors: Path) -> None:
    """The same, over some 100,000 files."""
    outcomes = fuzz(vectors, rounds=250)
    assert min(outcomes.values()) > 10_000


def test_random_bytes_are_refused() -> None:
    """Noise never is a manifest."""
    rng = random.Random(7)  # noqa: S311
    noise: list[Callable[[int], bytes]] = [
        rng.randbytes,
        lambda n: bytes(rng.choices(b'{}[]":,0123456789eE+-.truefalsn\\u', k=n)),
    ]
    for size in range(1, 400):
        for make in noise:
            with pytest.raises(ManifestError):
                parse_manifest(make(size))
