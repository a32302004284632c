"""genblaze's own command line and embedder, in one process of their own for any number of files.

The process reads one JSON task a line and answers each with a JSON line; nothing of genblaze is
imported into the tests.
"""

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent.parent
ANSWERS_WITHIN = 60.0
"""Seconds that one task may take on a busy machine."""


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command of genblaze's did: its exit code, standard output and standard error."""

    code: int
    output: str
    error: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """What genblaze's `SmartEmbedder` says that it did."""

    method: str
    sidecar: str | None
    error: str | None


class Genblaze:
    """A running process with genblaze in it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Start the process; it ends with the block."""
        with subprocess.Popen(
            # As a module: as a script its folder, with this file, would hide the real genblaze_cli.
            [sys.executable, "-m", "tests.media.genblaze_cli"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env={"PYTHONUTF8": "1", "PATH": "", "HOME": "/nonexistent"},
        ) as process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def run(self, *arguments: str | Path) -> Printed:
        """Run `genblaze ARGUMENT ...`."""
        return Printed(**self._answer({"command": [str(argument) for argument in arguments]}))

    def extract(self, path: Path) -> str:
        """Return what `genblaze extract` prints for a file, without the line feed behind it."""
        printed = self.run("extract", path)
        assert printed.code == 0, f"{path.name}: {printed.error}"
        return printed.output.removesuffix("\n")

    def embed(self, path: Path, manifest: str, *, mime_type: str | None = None) -> Embedded:
        """Let genblaze embed a manifest, given as JSON text, into a file, in place."""
        return Embedded(
            **self._answer({"embed": str(path), "manifest": manifest, "mime_type": mime_type})
        )

    def _answer(self, task: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWERS_WITHIN)
        assert ready, f"genblaze took more than {ANSWERS_WITHIN} s for {sorted(task)}"
        return json.loads(self._process.stdout.readline())


def _run(command: Sequence[str]) -> dict[str, Any]:
    from click.testing import CliRunner
    from genblaze_cli.main import cli

    result = CliRunner().invoke(cli, command, prog_name="genblaze")
    return {"code": result.exit_code, "output": result.stdout, "error": result.stderr}


def _embed(path: str, manifest: str, mime_type: str | None) -> dict[str, Any]:
    from genblaze_core import parse_manifest
    from genblaze_core.media import SmartEmbedder

    document = parse_manifest(json.loads(manifest))
    result = SmartEmbedder().embed(Path(path), document, mime_type=mime_type)
    sidecar = str(result.sidecar_path) if result.sidecar_path else None
    return {"method": str(result.method), "sidecar": sidecar, "error": result.embed_error}


def _main() -> None:
    for line in sys.stdin:
        task = json.loads(line)
        if "command" in task:
            answer = _run(task["command"])
        else:
            answer = _embed(task["embed"], task["manifest"], task["mime_type"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
