"""The changes a replay is asked for on the command line."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from genblaze_dagster.errors import ConfigError, StorageError
from genblaze_dagster.pipeline.assignments import parse_assignments

_STEP_AND_FILE: Final = re.compile(r"([A-Za-z0-9_]+)=(.+)", re.DOTALL)
_MAX_PROMPT_BYTES: Final = 1024 * 1024


def given_changes(assignments: Sequence[str], prompt_files: Sequence[str]) -> dict[str, object]:
    """Return changes by field, as `Replay.from_manifest` takes them.

    Args:
        assignments: `field=value` or `step.field=value`.
        prompt_files: `FILE` or `step=FILE`; `-` is stdin.

    Raises:
        UsageError: an assignment has no `=`, or a field gets two values.
        StorageError: a prompt file cannot be read.
    """
    try:
        changes = parse_assignments(assignments)
    except ConfigError as exc:
        raise click.UsageError(f"--with: {exc}") from exc
    for given in prompt_files:
        match = _STEP_AND_FILE.fullmatch(given)
        name, path = (f"{match[1]}.prompt", match[2]) if match else ("prompt", given)
        if name in changes:
            raise click.UsageError(f"{name} is given twice; give it one value")
        changes[name] = _prompt(path)
    return changes


def _prompt(path: str) -> str:
    try:
        data = sys.stdin.buffer.read(_MAX_PROMPT_BYTES + 1) if path == "-" else _read(Path(path))
        if len(data) > _MAX_PROMPT_BYTES:
            raise StorageError(f"{path}: longer than 1 MiB; is this a prompt?")
        # Editors end a file with a line break that is no part of the text.
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise StorageError(f"{path}: not UTF-8 text; is this a prompt?") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_PROMPT_BYTES + 1)
