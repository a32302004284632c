"""What the command's exit status means: the one place that maps errors to it."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from genblaze_dagster.errors import (
    BudgetExceededError,
    EmbeddingError,
    GenblazeError,
    IndexQueryError,
    ManifestError,
    PipelineError,
    ProviderError,
    UnsupportedSchemaVersionError,
)
from genblaze_dagster.trust.report import Verdict


class ExitCode(IntEnum):
    """Exit status of every command; documented in docs/cli.md."""

    OK = 0
    FAILED = 1
    """Looked at and found wrong, or refused: tampered, bytes differ, unreadable manifest, failed
    generation, no budget for it, a submission that is not in the state it is asked to leave."""
    USAGE = 2
    UNDECIDED = 3
    """Neither right nor wrong: no manifest, a pointer, a newer schema, bytes nobody can compare."""
    ENVIRONMENT = 4
    """Storage or configuration: unreachable, refused, not found, wrong settings."""
    SQL = 5
    INTERNAL = 70
    """A bug of ours; sysexits.h calls it EX_SOFTWARE."""
    INTERRUPTED = 130
    READER_GONE = 141
    """Whoever read stdout stopped reading; what the shell reports for SIGPIPE."""


# The first class that fits decides; everything else on the tree is the surroundings' fault.
_CODES: Final[tuple[tuple[type[GenblazeError], ExitCode], ...]] = (
    (UnsupportedSchemaVersionError, ExitCode.UNDECIDED),
    (EmbeddingError, ExitCode.UNDECIDED),
    (ManifestError, ExitCode.FAILED),
    (ProviderError, ExitCode.FAILED),
    (PipelineError, ExitCode.FAILED),
    (BudgetExceededError, ExitCode.FAILED),
    (IndexQueryError, ExitCode.SQL),
)

_OF_VERDICTS: Final = {
    Verdict.VERIFIED_UNSIGNED: ExitCode.OK,
    Verdict.FAILED: ExitCode.FAILED,
    Verdict.INCONCLUSIVE: ExitCode.UNDECIDED,
}

_GRAVITY: Final = (
    ExitCode.FAILED,
    ExitCode.ENVIRONMENT,
    ExitCode.SQL,
    ExitCode.UNDECIDED,
    ExitCode.OK,
)


def exit_code(error: GenblazeError) -> ExitCode:
    """Return the exit status of a command that ended with `error`."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.ENVIRONMENT)


def verdict_code(verdict: Verdict) -> ExitCode:
    """Return the exit status of a verification with this verdict."""
    return _OF_VERDICTS[verdict]


def verdict_of(code: ExitCode) -> str:
    """Return the verdict that several targets with this exit status add up to."""
    return next((v.value for v, status in _OF_VERDICTS.items() if status is code), "error")


def gravest(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the status of several targets: what is wrong outweighs what could not be read."""
    return min(codes, key=_GRAVITY.index, default=ExitCode.OK)
