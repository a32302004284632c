"""Errors of whole runs."""

from typing import ClassVar

from genblaze_dagster.errors.base import GenblazeError


class PipelineError(GenblazeError):
    """A run ended with failed steps; what succeeded is in `result` and is stored."""

    code: ClassVar[str] = "pipeline_failed"

    def __init__(self, message: str, *, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class PipelineTimeoutError(PipelineError):
    """The time for the whole run is over; finished steps are in `result`."""

    code = "pipeline_timeout"
