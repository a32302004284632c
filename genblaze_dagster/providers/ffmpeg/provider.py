"""What the ffmpeg providers share: one call from inputs in our store to a file."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from genblaze_dagster.errors import InvalidRequestError, OutputError
from genblaze_dagster.providers.ffmpeg.containers import Container
from genblaze_dagster.providers.ffmpeg.program import Ffmpeg, find_ffmpeg, reading
from genblaze_dagster.providers.ffmpeg.workspace import Workspace, publish, unwritable
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobStatus,
    Output,
    Result,
    Submission,
)

DEFAULT_MAX_BYTES = 4 * 1024**3

# Nothing of the input's tags, which may hold the manifest of another file, and nothing that differs
# between two runs: the same input gives the same bytes.
_REPEATABLE = (
    *("-map_metadata", "-1", "-map_chapters", "-1"),
    *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"),
)
# The Runner stops waiting at the step's own timeout; ending a little earlier gives the better error.
_SHARE_OF_THE_STEP = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of ffmpeg: its inputs in order, the arguments between them and the output's name.

    `files` are further files it reads, by name; `subject` says what it does, for messages. `facts`
    are those of `Output`.
    """

    inputs: tuple[InputMedia, ...]
    arguments: tuple[str, ...]
    container: Container
    subject: str
    decodes_video: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


class FFmpegProvider(ABC):
    """A provider that answers a submit with what ffmpeg makes of the inputs.

    Any model name is taken; it is a label in manifests. Inputs are streamed from the store into a
    temporary folder and checked against their records; ffmpeg opens files of that folder only,
    without a shell and without this process's environment. The same inputs and parameters give the
    same bytes with the same ffmpeg, whose version is the `model_version` in manifests.

    Args:
        output_dir: keep the outputs there too, named by their SHA-256; they are temporary files
            without it. The store gets them either way.
        ffmpeg_path: name on PATH or path of the program; that of `imageio-ffmpeg`, else `ffmpeg` on
            PATH, when left out.
        timeout: seconds one run may take; at most nine tenths of the step's.
        max_bytes: size of the largest input or output.
    """

    name: str
    version = "1"
    deduplicates = True
    models: ClassVar[tuple[str, ...]] = ("ffmpeg",)

    def __init__(
        self,
        output_dir: str | Path | None = None,
        ffmpeg_path: str | None = None,
        timeout: float = 120.0,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._ffmpeg_path = ffmpeg_path
        self._timeout = timeout
        self._max_bytes = max_bytes

    @abstractmethod
    def plan(self, request: GenerationRequest) -> Plan:
        """Return what is to be run; reads no bytes.

        Raises:
            InvalidRequestError: an input is missing, or a parameter is wrong.
            MissingExtraError: something besides ffmpeg is needed and not installed.
        """

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what cannot be run.

        Raises:
            InvalidRequestError: names the missing input, or the parameter and what it may be.
            ConfigError: there is no usable ffmpeg; names both ways to get one.
        """
        for media in self.plan(request).inputs:
            size = media.asset.size_bytes
            if size is not None and size > self._max_bytes:
                raise InvalidRequestError(
                    f"{self.name}: input {media.asset.asset_id} has {size} bytes, more than the "
                    f"allowed {self._max_bytes}; raise max_bytes of the provider",
                    sent=False,
                )
        self._program()

    def estimate_cost(self, request: GenerationRequest) -> float:
        """Return 0.0: it runs on this machine."""
        return 0.0

    async def submit(self, request: GenerationRequest) -> Submission:
        """Run ffmpeg and return its file.

        Raises:
            ProviderError: as `validate`, or ffmpeg failed; nothing was paid either way.
            StorageError: an input cannot be read.
        """
        plan = self.plan(request)
        program = await asyncio.to_thread(self._program)
        path = await self._make(plan, program, request.timeout)
        if self._output_dir is not None:
            path = await asyncio.to_thread(publish, path, self._output_dir)
        output = Output(path=path, media_type=plan.container.media_type, facts=plan.facts)
        return Submission(
            result=Result(outputs=(output,), cost_usd=0.0, model_version=program.version)
        )

    async def _make(self, plan: Plan, program: Ffmpeg, step_seconds: float) -> Path:
        name = f"output{plan.container.extension}"
        opening: list[str] = []
        async with Workspace(self._max_bytes) as work:
            for number, media in enumerate(plan.inputs):
                demuxer = await work.save(f"input{number}", media)
                opening += reading(f"input{number}", demuxer, decodes_video=plan.decodes_video)
            try:
                for file, data in plan.files.items():
                    (work.folder / file).write_bytes(data)
            except OSError as exc:
                raise unwritable(work.folder, exc) from exc
            await program.run(
                [
                    *opening,
                    *plan.arguments,
                    *_REPEATABLE,
                    *("-fs", str(self._max_bytes)),
                    *("-f", plan.container.muxer, f"file:{name}"),
                ],
                folder=work.folder,
                seconds=min(self._timeout, step_seconds * _SHARE_OF_THE_STEP),
                subject=plan.subject,
            )
            return work.output(name)

    def _program(self) -> Ffmpeg:
        return find_ffmpeg(self._ffmpeg_path)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Not used: a submit is answered with the result.

        Raises:
            OutputError: always.
        """
        raise self._no_job(job_id)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Not used: a submit is answered with the result.

        Raises:
            OutputError: always.
        """
        raise self._no_job(job_id)

    async def cancel(self, job_id: str) -> bool:
        """Return False: there are no jobs. Cancelling the submit kills ffmpeg."""
        return False

    async def aclose(self) -> None:
        """Do nothing: nothing is open between calls."""
        return

    def _no_job(self, job_id: str) -> OutputError:
        return OutputError(f"{self.name} has no job {job_id[:80]!r}; submit the request again")
