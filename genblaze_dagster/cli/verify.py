"""`genblaze-dagster verify`: are these the bytes their manifest speaks of, and is it unchanged?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from genblaze_dagster.cli.exit_codes import ExitCode, exit_code, gravest, storage_error
from genblaze_dagster.cli.output import (
    endpoint_option,
    error_document,
    json_option,
    print_error,
    print_json,
)
from genblaze_dagster.cli.subject import opened
from genblaze_dagster.cli.targets import WholeStore, locate, reachable_store
from genblaze_dagster.cli.verification import Report, Verdict
from genblaze_dagster.cli.verify_file import check_file
from genblaze_dagster.cli.verify_output import print_report
from genblaze_dagster.cli.verify_store import check_store
from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.net.loop import run_sync


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about every target."""

    hash_only: bool
    store_url: str | None
    endpoint_url: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The report on one target, or the error that kept it from being made."""

    target: str
    outcome: Report | GenblazeError

    @property
    def exit_code(self) -> ExitCode:
        """The exit status this target asks for."""
        if isinstance(self.outcome, Report):
            return self.outcome.verdict.exit_code
        return exit_code(self.outcome)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        if isinstance(self.outcome, Report):
            return self.outcome.to_dict()
        return {
            "target": self.target,
            "verdict": _verdict(self.exit_code),
            "error": error_document(self.outcome),
        }


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("--hash-only", is_flag=True, help="Check the manifest's hash and look at no bytes.")
@click.option(
    "--store",
    "store_url",
    metavar="URL",
    help="Look up in this store who made FILE, or where the media of a manifest is.",
)
@endpoint_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    targets: Sequence[str],
    hash_only: bool,
    store_url: str | None,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Check manifests, and the bytes they speak of.

    TARGET is a media file, a manifest file, a directory, or a file://, s3:// or b2:// URL of an
    object or of a store. Of a media file the manifest (embedded, in its sidecar, or in the store)
    and the file's own bytes are checked; of a manifest inside a store the stored outputs; of a
    store every reference with its manifest and all bytes.

    \b
    Exit status: 0 verified, 1 failed, 3 cannot be decided (no manifest, or bytes
    that cannot be compared), 4 storage or configuration error.
    """
    question = Question(hash_only, store_url, endpoint_url)
    answers: list[Answer] = []
    for target in targets:
        answer = run_sync(_answer(target, question))
        answers.append(answer)
        if not as_json:
            _print(answer)
    status = gravest(answer.exit_code for answer in answers)
    if as_json:
        print_json(_document(answers, status))
    ctx.exit(status)


async def _answer(target: str, question: Question) -> Answer:
    try:
        return Answer(target, await _report(target, question))
    except GenblazeError as exc:
        return Answer(target, exc)
    except OSError as exc:
        return Answer(target, storage_error(exc))


async def _report(target: str, question: Question) -> Report:
    located = await locate(target, endpoint_url=question.endpoint_url)
    if isinstance(located, WholeStore):
        if question.hash_only:
            raise click.UsageError(f"{target}: a store is checked with its bytes, not --hash-only")
        return await check_store(located.store, target=target)
    store = None
    if question.store_url is not None:
        store = await reachable_store(question.store_url, endpoint_url=question.endpoint_url)
    async with opened(located) as subject:
        return await check_file(subject, target=target, store=store, hash_only=question.hash_only)


def _document(answers: Sequence[Answer], status: ExitCode) -> dict[str, Any]:
    document: dict[str, Any] = {
        "verdict": _verdict(status),
        "targets": [answer.to_dict() for answer in answers],
    }
    errors = [a.outcome for a in answers if isinstance(a.outcome, GenblazeError)]
    if errors:
        document["error"] = error_document(errors[0])
    return document


def _verdict(status: ExitCode) -> str:
    return next((verdict.value for verdict in Verdict if verdict.exit_code is status), "error")


def _print(answer: Answer) -> None:
    if isinstance(answer.outcome, Report):
        print_report(answer.outcome)
        return
    message = str(answer.outcome)
    print_error(message if answer.target in message else f"{answer.target}: {message}")
