"""A verification report for people."""

from typing import Final

from rich.text import Text

from genblaze_dagster.cli.output import print_lines, printable
from genblaze_dagster.cli.verification import CheckName, Report, Status, Verdict

_SHOWN_FINDINGS: Final = 100
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


def print_report(report: Report) -> None:
    """Print what was found out about one target, and what was not looked at."""
    style = _VERDICT_STYLES[report.verdict]
    lines = [Text.assemble((report.verdict.value, style), f"  {printable(report.target)}")]
    if report.manifest is not None:
        run = report.manifest.run
        facts = f"run {run.run_id}, {len(run.steps)} step(s), from {report.source}"
        lines.append(Text(f"  manifest: {printable(facts)}"))
    for check in report.checks:
        mark = (f"  {check.status.value:<8}", _STATUS_STYLES[check.status])
        lines.append(Text.assemble(mark, f"{check.name.value}: {printable(check.detail)}"))
    lines += _finding_lines(report)
    lines.append(Text(f"  {_conclusion(report)}"))
    print_lines(lines)


def _finding_lines(report: Report) -> list[Text]:
    lines = [
        Text(
            "    "
            + printable(
                f"{found['asset_key']} [{found['partition_key'] or 'unpartitioned'}] "
                f"{found['problem']}: {found['subject']} {found['detail']}"
            )
        )
        for found in report.findings[:_SHOWN_FINDINGS]
    ]
    if hidden := len(report.findings) - len(lines):
        lines.append(Text(f"    and {hidden:,} more; --json lists all"))
    return lines


def _conclusion(report: Report) -> str:
    """Say in a sentence what was shown, and what was not."""
    if report.verdict is Verdict.FAILED:
        return "Do not trust it: what is marked fail does not hold."
    if report.verdict is Verdict.INCONCLUSIVE:
        return "Not decided: what is marked unknown could not be compared."
    compared = any(
        check.name is CheckName.BYTES_MATCH and check.status is Status.PASS
        for check in report.checks
    )
    shown = "Manifest and bytes agree" if compared else "The manifest is unchanged"
    unseen = "" if compared else " No media bytes were looked at."
    return f"{shown}; it is unsigned, so this does not say who made it.{unseen}"
