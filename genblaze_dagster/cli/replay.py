"""`genblaze-dagster replay`: what a manifest records, to look at, run again, or run differently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.cli.output import (
    endpoint_option,
    json_option,
    print_json,
    progress,
)
from genblaze_dagster.cli.replay_changes import given_changes
from genblaze_dagster.cli.replay_preview import preview, print_preview
from genblaze_dagster.cli.targets import locate, reachable_store
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import NotFoundError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.replay import Replay
from genblaze_dagster.trust.claims import RunSearch, find_manifest
from genblaze_dagster.trust.subject import opened
from genblaze_dagster.trust.targets import StoredObject, WholeStore

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of the command, as click names them."""

    assignments: Sequence[str]
    prompt_files: Sequence[str]
    show_prompts: bool
    force: bool
    runs: bool
    yes: bool
    allowed_providers: Sequence[str]
    store_url: str | None
    ledger_url: str | None
    allowed_roots: Sequence[Path]
    launch_url: str | None
    location: str | None
    wait: bool
    endpoint_url: str | None
    as_json: bool

    def check(self) -> None:
        """Refuse options that contradict each other or have no effect.

        Raises:
            UsageError: names them.
        """
        if self.runs and self.launch_url is not None:
            raise click.UsageError("--run and --launch are two places to run it; give one of them")
        needs_run = {
            "--yes": self.yes,
            "--allow-provider": self.allowed_providers,
            "--ledger": self.ledger_url,
            "--allowed-root": self.allowed_roots,
        }
        needs_launch = {"--location": self.location, "--wait": self.wait}
        for given, belongs, there in (
            (needs_run, "--run", self.runs),
            (needs_launch, "--launch", self.launch_url is not None),
        ):
            for name, value in given.items():
                if value and not there:
                    raise click.UsageError(f"{name} belongs to {belongs}")


@click.command()
@click.argument("target", metavar="MANIFEST|MEDIA|URL")
@click.option(
    "--with",
    "assignments",
    metavar="[STEP.]NAME=VALUE",
    multiple=True,
    help="Make something different: prompt, negative_prompt, seed, model, provider, "
    "prompt_visibility, or a parameter. Repeatable; values are JSON or text.",
)
@click.option(
    "--prompt-file",
    "prompt_files",
    metavar="[STEP=]FILE",
    multiple=True,
    help="Read a prompt from a file (- is stdin), for prompts that nobody may see.",
)
@click.option("--show-prompts", is_flag=True, help="Show prompts that are public.")
@click.option("--force", is_flag=True, help="Also when the manifest does not match its hash.")
@click.option("--run", "runs", is_flag=True, help="Run it in this process.")
@click.option("--yes", is_flag=True, help="With --run: ask nobody before anything is paid.")
@click.option(
    "--allow-provider",
    "allowed_providers",
    metavar="NAME",
    multiple=True,
    help="With --run: pay this provider without asking. Repeatable.",
)
@click.option(
    "--store",
    "store_url",
    metavar="URL",
    help="Where new media goes and recorded inputs are; with --launch the deployment's own. "
    "GENBLAZE_STORE, else .genblaze/store.",
)
@click.option(
    "--ledger",
    "ledger_url",
    metavar="URL",
    help="With --run: the ledger. GENBLAZE_LEDGER, else .genblaze/ledger.db.",
)
@click.option(
    "--allowed-root",
    "allowed_roots",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="With --run: inputs may be files below this folder. Repeatable.",
)
@click.option("--launch", "launch_url", metavar="URL", help="Run it on this Dagster webserver.")
@click.option("--location", metavar="NAME", help="With --launch: the code location to use.")
@click.option("--wait", is_flag=True, help="With --launch: follow the run to its end.")
@endpoint_option
@json_option
@click.pass_context
def replay(ctx: click.Context, target: str, **given: Any) -> None:
    """Look at the run behind a manifest; with --run or --launch, run it again.

    TARGET is a manifest, a media file with one inside or beside it, or a file://, s3:// or b2://
    URL of either. Without --run and --launch nothing is run: steps, inputs and what they may cost
    are printed, and what cannot be restored. The new run has the recorded one as its parent.

    \b
    genblaze-dagster replay clip.mp4
    genblaze-dagster replay clip.mp4 --run --with image.seed=7
    genblaze-dagster replay clip.mp4 --launch http://localhost:3000 --wait
    """
    options = _Options(**given)
    options.check()
    changes = given_changes(options.assignments, options.prompt_files)
    manifest, store = run_sync(_found(target, options))
    restored = Replay.from_manifest(manifest, changes=changes)
    if options.launch_url is not None:
        ctx.exit(_launch(restored, options.launch_url, options, changes, store))
    if options.runs:
        ctx.exit(_run(restored, options))
    ctx.exit(_look(restored, options))


async def _found(target: str, options: _Options) -> "tuple[Manifest, MediaStore | None]":
    """Return a manifest, and the store that may hold its run."""
    located = await locate(target, endpoint_url=options.endpoint_url)
    if isinstance(located, WholeStore):
        raise click.UsageError(f"{target}: a directory or prefix; name one manifest or media file")
    store = None
    if options.store_url is not None:
        try:
            store = await reachable_store(options.store_url, endpoint_url=options.endpoint_url)
        except NotFoundError:
            # With --run a directory is made by storing into it.
            if not options.runs:
                raise
    async with opened(located, progress=progress) as subject:
        found = await find_manifest(subject, RunSearch(store))
    if store is None and isinstance(located, StoredObject) and located.in_store:
        store = located.store
    return found.manifest, store


def _look(restored: Replay, options: _Options) -> ExitCode:
    document = preview(restored, show_prompts=options.show_prompts)
    print_json(document) if options.as_json else print_preview(document)
    return ExitCode.OK if restored.hash_ok or options.force else ExitCode.FAILED


def _run(restored: Replay, options: _Options) -> ExitCode:
    from genblaze_dagster.cli import replay_run

    if not options.force:
        restored.check_hash()
    restored.require()
    consent = replay_run.Consent(options.yes, frozenset(options.allowed_providers))
    replay_run.ask_consent(restored, consent)
    places = replay_run.Places(
        options.store_url, options.endpoint_url, options.ledger_url, tuple(options.allowed_roots)
    )
    result = run_sync(replay_run.run_replay(restored, places, force=options.force))
    document = replay_run.report(restored, result)
    print_json(document) if options.as_json else replay_run.print_report(document)
    return ExitCode.FAILED if result.errors else ExitCode.OK


def _launch(
    restored: Replay,
    url: str,
    options: _Options,
    changes: Mapping[str, object],
    store: "MediaStore | None",
) -> ExitCode:
    from genblaze_dagster.cli import replay_launch
    from genblaze_dagster.cli.deployment import Deployment

    deployment = Deployment(url)
    launched = run_sync(
        replay_launch.launch_replay(
            restored,
            deployment,
            location=options.location,
            changes=changes,
            store=store,
            force=options.force,
        )
    )
    if not options.as_json:
        replay_launch.print_launched(launched)
    if options.wait:
        launched = run_sync(replay_launch.followed(deployment, launched))
        if not options.as_json:
            replay_launch.print_status(launched)
    if options.as_json:
        print_json(launched.to_dict())
    return ExitCode.OK if launched.ok else ExitCode.FAILED
