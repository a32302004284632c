"""The ffmpeg program: where it is, whether it is new enough, and one run of it."""

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genblaze_dagster.errors import (
    ConfigError,
    InvalidRequestError,
    ProviderError,
    ProviderTimeoutError,
)
from genblaze_dagster.net.redact import redact

OLDEST_VERSION = "4.4"
_OLDEST_LIBAVCODEC = (58, 134)
"""That of ffmpeg 4.4; builds from git have no other number that can be compared."""

REMEDY = (
    "run: pip install 'genblaze-dagster[ffmpeg]', or install ffmpeg "
    f"{OLDEST_VERSION} or later and put it on PATH"
)

MAX_PIXELS = 100_000_000
"""Pixels of one decoded frame; 16K video has more, 8K a third of it."""
_MAX_ALLOCATION_BYTES = 1024**3
_KEPT_ERROR_BYTES = 8 * 1024
_QUOTED_CHARS = 200
_VERSION_SECONDS = 20.0

# Keys and tokens of this process are no business of a program that reads strangers' files.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP")


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """An ffmpeg that can be run; `version` as it calls itself."""

    path: str
    version: str

    async def run(
        self, arguments: Sequence[str], *, folder: Path, seconds: float, subject: str
    ) -> None:
        """Run it once and wait; no shell is involved, and it reads no URL and no terminal.

        When the time is over, or the caller is cancelled, the whole process group is killed.

        Args:
            arguments: inputs and outputs, by their names in `folder`; see `reading`.
            folder: working directory.
            seconds: wall-clock time it may take.
            subject: what is being done, for messages.

        Raises:
            InvalidRequestError: ffmpeg refused; ends with what it said first.
            ProviderTimeoutError: it took too long.
            ProviderError: it could not be started, or was killed from outside.
        """
        command = (
            *(self.path, "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
            *("-max_alloc", str(_MAX_ALLOCATION_BYTES)),
            # CPU time that cannot be used up before the time is: it ends what outlives this process.
            *("-timelimit", str((math.ceil(seconds) + 1) * (os.cpu_count() or 1))),
            *arguments,
        )
        try:
            code, said = await _run(command, folder, seconds)
        except TimeoutError as exc:
            raise ProviderTimeoutError(
                f"ffmpeg did not {subject} within {seconds:g} s and was stopped; give the provider "
                "a longer timeout, or shorter media",
                transient=False,
                sent=False,
            ) from exc
        except OSError as exc:
            raise ProviderError(
                f"ffmpeg could not be started: {exc.strerror}; {REMEDY}", sent=False
            ) from exc
        if code < 0:
            raise ProviderError(
                f"ffmpeg was killed by signal {-code} while it was to {subject}; the machine may "
                "be out of memory",
                sent=False,
            )
        if code > 0:
            raise InvalidRequestError(
                f"ffmpeg could not {subject}: {_quoted(said) or f'exit code {code}'}", sent=False
            )


def reading(name: str, demuxer: str, *, decodes_video: bool) -> list[str]:
    """Return the arguments that open a file of the folder as what its bytes prove it to be.

    Nothing but files can be opened, and the format is given, so that a playlist or a script that
    calls itself a video is not obeyed.
    """
    limit = ["-max_pixels", str(MAX_PIXELS)] if decodes_video else []
    return ["-protocol_whitelist", "file", *limit, "-f", demuxer, "-i", f"file:{name}"]


def find_ffmpeg(named: str | None = None) -> Ffmpeg:
    """Return the named program, else that of `imageio-ffmpeg`, else the one on PATH.

    Its version is asked for once per process, which takes some 30 ms.

    Raises:
        ConfigError: there is none, it does not run, or it is too old.
    """
    path = shutil.which(named) if named is not None else _bundled() or shutil.which("ffmpeg")
    if path is None:
        wanted = f"ffmpeg at {named!r}" if named is not None else "ffmpeg"
        raise ConfigError(f"{wanted} is not found; {REMEDY}")
    return Ffmpeg(path, _version(path))


@functools.cache
def _bundled() -> str | None:
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return None
    package: Any = importlib.import_module("imageio_ffmpeg")
    try:
        return str(package.get_ffmpeg_exe())
    except RuntimeError:
        # Its wheel for this platform brings no program.
        return None


@functools.cache
def _version(path: str) -> str:
    try:
        told = subprocess.run(  # noqa: S603 - found on PATH or named by the caller
            [path, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(),
            timeout=_VERSION_SECONDS,
            check=True,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError) as exc:
        raise ConfigError(
            f"ffmpeg at {path} does not run ({type(exc).__name__}); {REMEDY}"
        ) from exc
    named = re.search(r"ffmpeg version (\S{1,80})", told)
    library = re.search(r"libavcodec\s{1,9}(\d{1,5})\.\s{0,9}(\d{1,5})\.", told)
    if named is None or library is None:
        raise ConfigError(f"{path} does not call itself ffmpeg; {REMEDY}")
    if (int(library[1]), int(library[2])) < _OLDEST_LIBAVCODEC:
        raise ConfigError(f"ffmpeg at {path} has version {named[1]}, which is too old; {REMEDY}")
    return named[1]


def _environment() -> Mapping[str, str]:
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


async def _run(command: Sequence[str], folder: Path, seconds: float) -> tuple[int, bytes]:
    started = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        process = await asyncio.shield(started)
    except asyncio.CancelledError:
        # asyncio itself would end the program, and not what that has started.
        process = await started
        _kill(process)
        await process.wait()
        raise
    said = b""
    try:
        async with asyncio.timeout(seconds):
            while process.stderr is not None and (piece := await process.stderr.read(4096)):
                said = (said + piece)[-_KEPT_ERROR_BYTES:]
            code = await process.wait()
        return code, said
    finally:
        if process.returncode is None:
            _kill(process)
            await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _quoted(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    # Addresses of ffmpeg's own objects differ from run to run and say nothing.
    text = re.sub(r" @ 0x[0-9a-f]+", "", redact(" / ".join(lines)))
    return "".join(c if c.isprintable() else "?" for c in text)[:_QUOTED_CHARS]
