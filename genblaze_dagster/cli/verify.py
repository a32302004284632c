"""`genblaze-dagster verify`: are these the bytes their manifest speaks of, and is it unchanged?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from genblaze_dagster.cli.exit_codes import (
    ExitCode,
    exit_code,
    gravest,
    verdict_code,
    verdict_of,
)
from genblaze_dagster.cli.output import (
    endpoint_option,
    error_document,
    json_option,
    print_error,
    print_json,
    progress,
)
from genblaze_dagster.cli.targets import locate, reachable_store
from genblaze_dagster.cli.verify_output import print_report
from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.trust.os_errors import storage_error
from genblaze_dagster.trust.report import BytesVerdict, VerificationReport
from genblaze_dagster.trust.verification import answer, ask, contradiction


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked about every target."""

    hash_only: bool
    fetch: bool
    allowed_roots: tuple[Path, ...]
    store_url: str | None
    endpoint_url: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The report on one target, or the error that kept it from being made."""

    target: str
    outcome: VerificationReport | GenblazeError

    @property
    def exit_code(self) -> ExitCode:
        """The exit status this target asks for."""
        if isinstance(self.outcome, VerificationReport):
            return verdict_code(self.outcome.verdict)
        return exit_code(self.outcome)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        if isinstance(self.outcome, VerificationReport):
            return self.outcome.to_dict()
        return {
            "target": self.target,
            "verdict": verdict_of(self.exit_code),
            "error": error_document(self.outcome),
        }


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("--hash-only", is_flag=True, help="Check the manifest's hash and look at no bytes.")
@click.option(
    "--fetch", is_flag=True, help="Download every output of the manifest from its URL, too."
)
@click.option(
    "--allowed-root",
    "allowed_roots",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --fetch: a folder whose files file:// URLs may name; may be repeated.",
)
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
    fetch: bool,
    allowed_roots: tuple[Path, ...],
    store_url: str | None,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Check manifests, and the bytes they speak of.

    TARGET is a media file, a manifest file, a directory, or a file://, s3:// or b2:// URL of an
    object, a store or a prefix. Of a media file the manifest (embedded, in its sidecar, or in the
    store) and the file's own bytes are checked; of a manifest inside a store the stored outputs; of
    a store every reference with its manifest and all bytes; of any other directory or prefix every
    file below it.

    \b
    Exit status: 0 verified, 1 failed, 3 cannot be decided (no manifest, or bytes
    that cannot be compared), 4 storage or configuration error.
    """
    if hash_only and fetch:
        raise click.UsageError("--hash-only looks at no bytes and --fetch at all; choose one")
    if allowed_roots and not fetch:
        raise click.UsageError("--allowed-root says what --fetch may read; add --fetch")
    options = Options(hash_only, fetch, allowed_roots, store_url, endpoint_url)
    answers: list[Answer] = []
    for target in targets:
        found = run_sync(_answer(target, options))
        answers.append(found)
        if not as_json:
            _print(found)
    status = gravest(answer.exit_code for answer in answers)
    if as_json:
        print_json(_document(answers, status))
    ctx.exit(status)


async def _answer(target: str, options: Options) -> Answer:
    try:
        return Answer(target, await _report(target, options))
    except GenblazeError as exc:
        return Answer(target, exc)
    except OSError as exc:
        return Answer(target, storage_error(exc))


async def _report(target: str, options: Options) -> VerificationReport:
    located = await locate(target, endpoint_url=options.endpoint_url)
    store = None
    if options.store_url is not None:
        store = await reachable_store(options.store_url, endpoint_url=options.endpoint_url)
    question = await ask(
        store=store,
        hash_only=options.hash_only,
        fetch=options.fetch,
        allowed_roots=options.allowed_roots,
        endpoint_url=options.endpoint_url,
        progress=progress,
    )
    if (problem := await contradiction(located, question)) is not None:
        raise click.UsageError(f"{target}: {problem}")
    return await answer(located, question, target=target)


def _document(answers: Sequence[Answer], status: ExitCode) -> dict[str, Any]:
    document: dict[str, Any] = {
        "verdict": verdict_of(status),
        "targets": [answer.to_dict() for answer in answers],
    }
    errors = [a.outcome for a in answers if isinstance(a.outcome, GenblazeError)]
    if errors:
        document["error"] = error_document(errors[0])
    return document


def _print(answer: Answer) -> None:
    if isinstance(answer.outcome, VerificationReport):
        print_report(answer.outcome)
        return
    message = str(answer.outcome)
    if answer.target not in message:
        message = f"{answer.target}: {message}"
    if answer.exit_code is ExitCode.UNDECIDED:
        message = f"{BytesVerdict.UNDECIDED.value}: {message}"
    print_error(message)
