"""Look whether all models of a pipeline exist, before anything is paid."""

import asyncio
import inspect
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

from genblaze_dagster.errors import ModelError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.blocking import BlockingCalls
from genblaze_dagster.providers.once import Once
from genblaze_dagster.providers.validation import ValidationOutcome, ValidationResult

MOST_AT_ONCE = 8
_MAX_NAME = 80
_MAX_NAMED = 5

_log = logging.getLogger(__name__)
_said = Once()


class ChecksModels(Protocol):
    """A provider that can say whether it has a model; it may block, or be a coroutine function."""

    name: str

    def validate_model(self, model_id: str, *, refresh: bool = False) -> ValidationResult:
        """Return what is known about a model."""
        ...


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """What a provider says about one of its models."""

    provider: str
    model: str
    result: ValidationResult


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What providers say about their models. Only a model that is not found is a failure."""

    checks: tuple[ModelCheck, ...]

    @property
    def not_found(self) -> tuple[ModelCheck, ...]:
        """The models that do not exist."""
        return tuple(check for check in self.checks if check.result.is_terminal_failure)

    @property
    def ok(self) -> bool:
        """Whether no model is known to be missing."""
        return not self.not_found


async def apreflight(
    models: Iterable[tuple[object, str]], *, within: float = 10.0
) -> tuple[ModelCheck, ...]:
    """Check the models of a pipeline, at most 8 at once, each of them once.

    A model nobody vouches for is warned about once per process. So is one whose provider cannot be
    asked in time: that is no reason not to run.

    Args:
        models: provider and model of every step, and of its fallbacks. Providers that have no
            `validate_model` are passed over.
        within: seconds for all of them together.

    Returns:
        What was found, in the order of the models.

    Raises:
        ModelError: a model certainly does not exist; names all of them, and close ones.
    """
    checks = await _check(models, within=within, refresh=False)
    missing = [check for check in checks if check.result.is_terminal_failure]
    if missing:
        raise ModelError(
            "; ".join(map(_complaint, missing[:_MAX_NAMED])) + _rest(missing),
            provider=missing[0].provider,
            model=missing[0].model,
            sent=False,
        )
    for check in checks:
        _warn(check)
    return checks


def preflight(
    models: Iterable[tuple[object, str]], *, within: float = 10.0
) -> tuple[ModelCheck, ...]:
    """Check the models of a pipeline; see `apreflight`. Blocks."""
    return run_sync(apreflight(models, within=within))


async def aprobe_models(
    models: Iterable[tuple[object, str]], *, within: float = 60.0
) -> ProbeReport:
    """Ask vendors now whether models still exist, for a schedule or a command.

    Args:
        models: providers and models, such as `((p, m) for p in providers for m in
            p.models.known())`.
        within: seconds for all of them together; what is not answered by then is unknown.
    """
    return ProbeReport(await _check(models, within=within, refresh=True))


def probe_models(models: Iterable[tuple[object, str]], *, within: float = 60.0) -> ProbeReport:
    """Ask vendors now whether models still exist; see `aprobe_models`. Blocks."""
    return run_sync(aprobe_models(models, within=within))


async def _check(
    models: Iterable[tuple[object, str]], *, within: float, refresh: bool
) -> tuple[ModelCheck, ...]:
    # By identity: two providers of one name may have different registries.
    asked = {
        (id(provider), model): (cast(ChecksModels, provider), model)
        for provider, model in models
        if hasattr(provider, "validate_model")
    }
    if not asked:
        return ()
    # Its own threads: what hangs here keeps nobody else waiting.
    calls = BlockingCalls("model checks")
    free = asyncio.Semaphore(MOST_AT_ONCE)
    tasks = [
        asyncio.create_task(_ask(calls, free, provider, model, refresh=refresh))
        for provider, model in asked.values()
    ]
    try:
        await asyncio.wait(tasks, timeout=within)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return tuple(
        ModelCheck(provider.name, model, _answer(task))
        for (provider, model), task in zip(asked.values(), tasks, strict=True)
    )


async def _ask(
    calls: BlockingCalls,
    free: asyncio.Semaphore,
    provider: ChecksModels,
    model: str,
    *,
    refresh: bool,
) -> ValidationResult:
    async with free:
        found = await calls.run(partial(provider.validate_model, model, refresh=refresh))
        if inspect.isawaitable(found):
            found = cast(ValidationResult, await found)
        return found


def _answer(task: "asyncio.Task[ValidationResult]") -> ValidationResult:
    if task.cancelled():
        return ValidationResult.unknown_permissive(detail="no answer in time")
    failure = task.exception()
    if failure is not None:
        # Not its message: it may hold a URL with a key.
        return ValidationResult.unknown_permissive(
            detail=f"could not be asked ({type(failure).__name__})"
        )
    return task.result()


def _complaint(check: ModelCheck) -> str:
    close = check.result.suggested_slugs
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    detail = f" ({check.result.detail})" if check.result.detail else ""
    return f"{check.provider}: there is no model {_name(check.model)!r}{detail}{hint}"


def _rest(missing: Sequence[ModelCheck]) -> str:
    more = len(missing) - _MAX_NAMED
    return f"; and {more} more" if more > 0 else ""


def _warn(check: ModelCheck) -> None:
    result = check.result
    if result.outcome is ValidationOutcome.OK_AUTHORITATIVE:
        return
    if not _said.first((check.provider, check.model, result.outcome)):
        return
    detail = f" ({result.detail})" if result.detail else ""
    if result.outcome is ValidationOutcome.OK_PROVISIONAL:
        fact = f"is taken for one of the family {result.family_name}"
    else:
        fact = "is not known here; the vendor decides"
    _log.warning("%s: the model %r %s%s", check.provider, _name(check.model), fact, detail)


def _name(model: str) -> str:
    return redact(model, max_chars=_MAX_NAME)
