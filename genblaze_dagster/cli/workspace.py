"""Which code locations a workspace.yaml names, for commands that load one into this process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from genblaze_dagster.errors import ConfigError, NotFoundError

_NAMES: Final = {
    "python_file": "relative_path",
    "python_module": "module_name",
    "python_package": "package_name",
}
"""Kinds of code locations that are Python code, and the field that says where it is."""

_LARGEST_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CodeLocation:
    """Python code with definitions: a module or a file.

    `attribute` is what the definitions are called in it, None when there is only one candidate;
    modules are looked for in `working_directory` too.
    """

    name: str
    module: str | None = None
    python_file: Path | None = None
    attribute: str | None = None
    working_directory: Path | None = None


def code_location(workspace: Path, name: str | None) -> CodeLocation:
    """Return a code location of a workspace file.

    Args:
        workspace: the file.
        name: of the location; may be left out where there is only one that is Python code.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it cannot be read, or does not say which location is meant.
    """
    found = _locations(workspace)
    chosen = [one for one in found if name in (None, one.name)]
    if len(chosen) == 1:
        return chosen[0]
    known = ", ".join(one.name for one in found) or "none"
    if name is None:
        raise ConfigError(
            f"{workspace} names {len(found)} code locations of Python code: {known}; name one with "
            "--location"
        )
    raise ConfigError(
        f"{workspace} names {len(chosen) or 'no'} code locations {name!r} of Python code; it names "
        f"{known}"
    )


def _locations(workspace: Path) -> list[CodeLocation]:
    import yaml

    try:
        with workspace.open("rb") as file:
            text = file.read(_LARGEST_BYTES + 1)
        if len(text) > _LARGEST_BYTES:
            raise ConfigError(
                f"{workspace} has more than {_LARGEST_BYTES} bytes; it is no workspace"
            )
        document: object = yaml.safe_load(text)
    except FileNotFoundError as exc:
        raise NotFoundError(f"{workspace}: no such file; name a workspace.yaml with -w") from exc
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigError(f"{workspace} cannot be read ({type(exc).__name__}); correct it") from exc
    listed = _fields(document).get("load_from")
    if not isinstance(listed, list):
        raise ConfigError(f"{workspace} has no list load_from; see Dagster's workspace files")
    folder = workspace.absolute().parent
    found = (_location(_fields(one), folder, workspace) for one in cast(Sequence[object], listed))
    return [one for one in found if one is not None]


def _location(entry: Mapping[str, Any], folder: Path, workspace: Path) -> CodeLocation | None:
    """Read one entry; None when it is no Python code, such as a code server elsewhere."""
    kind = next((kind for kind in _NAMES if kind in entry), None)
    if kind is None:
        return None
    given: object = entry[kind]
    fields = {_NAMES[kind]: given} if isinstance(given, str) else _fields(given)
    texts = {key: value for key, value in fields.items() if isinstance(value, str) and value}
    where = texts.get(_NAMES[kind])
    if where is None:
        raise ConfigError(f"{workspace}: a {kind} has no {_NAMES[kind]}; add it")
    attribute = texts.get("attribute")
    name = where if kind != "python_file" else Path(where).name
    directory = texts.get("working_directory")
    return CodeLocation(
        name=texts.get("location_name") or (f"{name}:{attribute}" if attribute else name),
        module=where if kind != "python_file" else None,
        python_file=folder / where if kind == "python_file" else None,
        attribute=attribute,
        working_directory=folder / directory if directory is not None else None,
    )


def _fields(value: object) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}
