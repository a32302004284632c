"""Is a file what its manifest says? Verification, as a library and for the command line."""

from typing import TYPE_CHECKING

from genblaze_dagster.core.lazy import lazy_exports

if TYPE_CHECKING:
    from genblaze_dagster.trust.report import BytesVerdict as BytesVerdict
    from genblaze_dagster.trust.report import Check as Check
    from genblaze_dagster.trust.report import CheckName as CheckName
    from genblaze_dagster.trust.report import Finding as Finding
    from genblaze_dagster.trust.report import Status as Status
    from genblaze_dagster.trust.report import Verdict as Verdict
    from genblaze_dagster.trust.report import VerificationReport as VerificationReport
    from genblaze_dagster.trust.verification import averify as averify
    from genblaze_dagster.trust.verification import verify as verify

_EXPORTS = {
    "report": (
        "BytesVerdict",
        "Check",
        "CheckName",
        "Finding",
        "Status",
        "Verdict",
        "VerificationReport",
    ),
    "verification": ("averify", "verify"),
}

__all__, __getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
