"""Changes to a recorded run as people write them: `image.seed=7`, `prompt=a quiet harbour`."""

import json
from collections.abc import Mapping, Sequence

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.pipeline.restoring import TEXT_FIELDS

_SHOWN_CHARS = 80


def parse_assignments(assignments: Sequence[str]) -> dict[str, object]:
    """Return changes by field, as `Replay.from_manifest` takes them.

    Values are JSON where they can be read as JSON, else text; a prompt, a model and the like are
    text, quoted or not.

    Raises:
        ConfigError: an assignment has no `=`, or a field gets two values.
    """
    changes: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"change {name[:_SHOWN_CHARS]!r} has no value; write name=value")
        if name in changes:
            raise ConfigError(f"{name[:_SHOWN_CHARS]!r} is changed twice; give it one value")
        changes[name] = _value(name, text)
    return changes


def written(changes: Mapping[str, object]) -> list[str]:
    """Return changes as assignments that read back as they are."""
    return [f"{name}={json.dumps(value)}" for name, value in changes.items()]


def _value(name: str, text: str) -> object:
    is_text = name.rpartition(".")[2] in TEXT_FIELDS
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if is_text and not isinstance(value, str) else value
