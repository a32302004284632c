"""A verification report for people."""

from typing import Final

from rich.text import Text

from genblaze_dagster.cli.output import print_lines, printable
from genblaze_dagster.trust.folder import Outcome
from genblaze_dagster.trust.report import (
    BytesVerdict,
    Check,
    CheckName,
    Finding,
    Kind,
    Status,
    Verdict,
    VerificationReport,
)

_STATUS_STYLES: Final = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.SKIP: "dim",
    Status.UNKNOWN: "yellow",
}
_VERDICT_STYLES: Final = {
    Verdict.VERIFIED_UNSIGNED: "bold green",
    Verdict.FAILED: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
}


def print_report(report: VerificationReport) -> None:
    """Print what was found out about one target, and what was not looked at."""
    style = _VERDICT_STYLES[report.verdict]
    lines = [Text.assemble((report.verdict.value, style), f"  {printable(report.target)}")]
    if report.manifest is not None:
        facts = report.manifest
        told = f"run {facts.run_id}, {facts.steps} step(s), from {facts.source}"
        lines.append(Text(f"  manifest: {printable(told)}"))
    lines += [_check_line(check, report) for check in report.checks]
    lines += [_finding_line(finding, report) for finding in report.findings]
    if report.findings_left_out:
        lines.append(Text(f"    and {report.findings_left_out:,} more"))
    if report.kind is Kind.FOLDER:
        lines.append(Text(f"  {_summary(report)}"))
    lines.append(Text(f"  {_conclusion(report)}"))
    print_lines(lines)


def _check_line(check: Check, report: VerificationReport) -> Text:
    mark = (f"  {check.status.value:<8}", _STATUS_STYLES[check.status])
    detail = check.detail
    if check is report.bytes_check:
        detail = f"{report.bytes.value}: {detail}"
    return Text.assemble(mark, f"{check.name.value}: {printable(detail)}")


def _finding_line(finding: Finding, report: VerificationReport) -> Text:
    if finding.asset_key is None:
        line = f"{finding.problem}: {finding.subject}"
    else:
        partition = finding.partition_key or "unpartitioned"
        line = f"{finding.asset_key} [{partition}] {finding.problem}: {finding.subject}"
    if finding.detail:
        line += f" {finding.detail}" if report.kind is Kind.STORE else f": {finding.detail}"
    return Text(f"    {printable(line)}")


def _summary(report: VerificationReport) -> str:
    """Say how many files ended how; what was skipped only when something was."""
    shown = [o for o in Outcome if o is not Outcome.SKIPPED or report.counts[o.value]]
    return ", ".join(f"{report.counts[o.value]:,} {o.value.replace('_', ' ')}" for o in shown)


def _conclusion(report: VerificationReport) -> str:
    """Say in a sentence what was shown, and what was not."""
    if report.verdict is Verdict.FAILED:
        return "Do not trust it: what is marked fail does not hold."
    if report.verdict is Verdict.INCONCLUSIVE:
        return "Not decided: what is marked unknown could not be compared."
    compared = report.bytes is BytesVerdict.VERIFIED
    shown = "Manifest and bytes agree" if compared else "The manifest is unchanged"
    unseen = "" if compared else " No media bytes were looked at."
    signed = any(check.name is CheckName.SIGNATURE_PRESENT for check in report.checks)
    who = "its signature was not checked" if signed else "it is unsigned"
    return f"{shown}; {who}, so this does not say who made it.{unseen}"
