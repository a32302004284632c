"""Reading manifests of every known schema version, from files nobody vouches for."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, cast, get_args

from pydantic import ValidationError

from genblaze_dagster.core.document import has_encrypted_prompt
from genblaze_dagster.core.manifest import Manifest, SchemaVersion
from genblaze_dagster.core.models import TOLERANT
from genblaze_dagster.errors import ManifestError, SchemaError, UnsupportedSchemaVersionError

MAX_MANIFEST_BYTES: Final = 16 * 1024 * 1024
MAX_BRACKETS: Final = 100_000
"""Objects and arrays in a manifest, and brackets in its texts. 16 MiB have room for 5 million, of
which each may become a step of 2 KB."""

_VERSIONS: Final[tuple[str, ...]] = get_args(SchemaVersion)
_FIRST_VERSION: Final = "1.0"
_SHOWN_ERRORS: Final = 3
_VERSION_LIKE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}", re.ASCII)


def parse_manifest(data: Mapping[str, Any] | bytes | bytearray | str) -> Manifest:
    """Read a manifest from its JSON text, or from the object that the text holds.

    Facts about media that break the rules are kept: `Manifest.verification_report` lists them.
    The argument is not changed. Messages name fields, never their values.

    Raises:
        SchemaError: longer than 16 MiB, of more than `MAX_BRACKETS` objects and arrays, not JSON,
            not a manifest, or a field has a wrong value.
        UnsupportedSchemaVersionError: written by a later release.
        ManifestError: an encrypted prompt without `encryption_scheme`.
    """
    document = _loads(data) if isinstance(data, str | bytes | bytearray) else data
    if not isinstance(document, Mapping):
        raise SchemaError(
            f"manifest is a JSON {_json_name(document)}, not an object; is this another file?"
        )
    fields = dict(cast(Mapping[str, Any], document))
    fields["schema_version"] = _version(fields.get("schema_version"))
    try:
        manifest = Manifest.model_validate(fields, context=TOLERANT)
    except ValidationError as exc:
        raise SchemaError(_explanation(exc)) from None
    if has_encrypted_prompt(manifest.run) and not manifest.encryption_scheme:
        raise ManifestError(
            "manifest has an encrypted prompt but names no encryption_scheme; "
            "ask its writer for a complete one"
        )
    return manifest


def _loads(data: str | bytes | bytearray) -> object:
    if _is_too_long(data):
        raise SchemaError(f"manifest is longer than the limit of {MAX_MANIFEST_BYTES} bytes")
    try:
        document = data if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SchemaError(f"manifest is not UTF-8 text: byte {exc.start} is wrong") from None
    brackets = document.count("{") + document.count("[")
    if brackets > MAX_BRACKETS:
        raise SchemaError(f"manifest has {brackets} brackets; the limit is {MAX_BRACKETS}")
    try:
        return json.loads(document)
    except json.JSONDecodeError as exc:
        raise SchemaError(
            f"manifest is not JSON: {exc.msg} at line {exc.lineno} column {exc.colno}; "
            "it may be truncated"
        ) from None
    except RecursionError:
        raise SchemaError("manifest is nested too deep to be read") from None
    except ValueError:
        raise SchemaError("manifest holds an integer with too many digits to be read") from None


def _is_too_long(data: str | bytes | bytearray) -> bool:
    if len(data) > MAX_MANIFEST_BYTES or not isinstance(data, str) or data.isascii():
        return len(data) > MAX_MANIFEST_BYTES
    return len(data.encode(errors="surrogatepass")) > MAX_MANIFEST_BYTES


def _version(value: object) -> str:
    version = value or _FIRST_VERSION
    if isinstance(version, str) and version in _VERSIONS:
        return version
    # Anything may stand here; only what looks like a version is repeated.
    known = isinstance(version, str) and _VERSION_LIKE.fullmatch(version)
    raise UnsupportedSchemaVersionError(
        f"manifest has schema version {version if known else 'of an unknown form'}; this release "
        f"reads {_VERSIONS[0]} to {_VERSIONS[-1]}, so read it with a later one"
    )


def _explanation(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{_path(detail['loc'])}: {detail['msg']}" for detail in details[:_SHOWN_ERRORS]]
    more = len(details) - len(shown)
    return f"manifest is malformed: {'; '.join(shown)}" + (f"; and {more} more" if more else "")


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += "." * bool(path) + part[:40].encode("ascii", "backslashreplace").decode()
    return path


def _json_name(value: object) -> str:
    if value is None:
        return "null"
    names = ((bool, "boolean"), (str, "string"), (int | float, "number"), (list, "array"))
    return next((name for kind, name in names if isinstance(value, kind)), "value")
