"""Do the models that assets name still exist? Vendors are asked on a schedule, and checks say so.

    available = model_checks(assets)
    Definitions(
        assets=assets, asset_checks=[available], schedules=[probe_schedule(available)], ...
    )

The answer stands at each asset as the check `model_available`. It costs nothing: lists and names
are asked for, media is not.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import dagster as dg

from genblaze_dagster import _compat
from genblaze_dagster._definition import Generated, generated
from genblaze_dagster._flows import BatchStep
from genblaze_dagster.errors import (
    ConfigError,
    GenblazeError,
    InvalidRequestError,
    ModelError,
    ProviderError,
)
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.fallback import models_of
from genblaze_dagster.pipeline.generation import provider_of
from genblaze_dagster.pipeline.quoting import check_declared
from genblaze_dagster.provider_resources import resource_key
from genblaze_dagster.providers.adapter import AdaptedProvider
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.providers.preflight import aprobe_models
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.providers.validation import (
    ValidationOutcome,
    ValidationResult,
    ValidationSource,
)

MODEL_AVAILABLE = "model_available"
EVERY_MORNING = "0 6 * * *"
_TOLD_CHARS = 300
_NOT_ASKED = "its provider cannot ask the vendor"


def model_checks(
    assets: Iterable[dg.AssetsDefinition], *, name: str = MODEL_AVAILABLE, within: float = 60.0
) -> dg.AssetChecksDefinition:
    """Return one check per generated asset: its model, and those it falls back to, still exist.

    A model that is gone, and declared parameters that are refused, fail the check as errors. A
    deprecated model, a missing fallback, and a vendor that cannot be asked are warnings. Nothing
    downstream is held up: whether media can be made anew says nothing about what there is.

    Args:
        assets: assets of `to_assets` and `generation_asset`; others are passed over, and so are
            those of `agent_asset`, whose models are known when they run.
        name: of the checks.
        within: seconds for all vendors together; what is not answered by then is unknown.

    Raises:
        ConfigError: none of the assets is generated.
    """
    found = [
        _Checked(step, batch)
        for definition in assets
        if (batch := generated(definition)) is not None and not batch.is_loop
        for step in batch.steps
    ]
    if not found:
        raise ConfigError("none of the assets is generated; give those of to_assets(...)")
    by_key = {one.step.key: one for one in found}

    def check(context: dg.AssetCheckExecutionContext):
        selected = [by_key[key.asset_key] for key in sorted(context.selected_asset_check_keys)]
        yield from run_sync(_probe(context, selected, name, within))

    return dg.multi_asset_check(
        name=f"check_{name}",
        specs=[
            dg.AssetCheckSpec(
                name,
                asset=key,
                description="The vendor still has the model, and takes the declared parameters.",
            )
            for key in by_key
        ],
        can_subset=True,
        required_resource_keys={one.resource for one in found if one.resource is not None},
    )(check)


def probe_job(checks: dg.AssetChecksDefinition, *, name: str = "probe_models") -> _compat.AssetJob:
    """Return a job that asks the vendors once; `checks` are those of `model_checks`."""
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.checks(*checks.check_keys),
        description="Ask every vendor whether the models that assets name still exist.",
    )


def probe_schedule(
    checks: dg.AssetChecksDefinition,
    *,
    cron_schedule: str | Sequence[str] = EVERY_MORNING,
    name: str = "probe_models_schedule",
    job_name: str = "probe_models",
    execution_timezone: str | None = None,
    default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED,
) -> dg.ScheduleDefinition:
    """Return a schedule that asks the vendors, at six every morning when nobody says otherwise.

    Args:
        checks: those of `model_checks`.
        cron_schedule: when, in cron syntax.
        name: of the schedule.
        job_name: of the job it starts.
        execution_timezone: IANA name of the zone of `cron_schedule`; UTC when left out.
        default_status: RUNNING starts it with the deployment.
    """
    return dg.ScheduleDefinition(
        name,
        job=probe_job(checks, name=job_name),
        cron_schedule=cron_schedule,
        execution_timezone=execution_timezone,
        default_status=default_status,
    )


@dataclass(frozen=True, slots=True)
class _Checked:
    """One asset whose models are asked for; `resource` is the key its provider comes from."""

    step: BatchStep
    batch: Generated

    @property
    def resource(self) -> str | None:
        key = resource_key(self.step.spec.provider_name)
        return key if key in self.batch.settings.provider_keys else None


@dataclass(frozen=True, slots=True)
class _Finding:
    """What is known about one model of an asset; a `problem` is an error or else a warning."""

    model: str
    result: ValidationResult
    problem: str | None
    is_error: bool = False

    @property
    def record(self) -> dg.TableRecord:
        return dg.TableRecord(
            {
                "model": self.model,
                "answer": self.result.outcome.value,
                "said_by": self.result.source.value,
                "problem": self.problem or "",
            }
        )


async def _probe(
    context: dg.AssetCheckExecutionContext, checked: Sequence[_Checked], name: str, within: float
) -> list[dg.AssetCheckResult]:
    async with AsyncExitStack() as opened:
        of_name: dict[str, Provider] = {}
        providers: dict[dg.AssetKey, Provider | GenblazeError] = {}
        for one in checked:
            try:
                providers[one.step.key] = _provider(context, one, of_name, opened)
            except GenblazeError as exc:
                providers[one.step.key] = exc
        wanted = [
            (provider, spec.model)
            for one in checked
            if not isinstance(provider := providers[one.step.key], GenblazeError)
            for spec in models_of(one.step.spec)
        ]
        report = await aprobe_models(wanted, within=within)
        asked = {(one.provider, one.model): one.result for one in report.checks}
        return [
            _result(one, name, _findings(one, providers[one.step.key], asked)) for one in checked
        ]


def _provider(
    context: dg.AssetCheckExecutionContext,
    one: _Checked,
    of_name: dict[str, Provider],
    opened: AsyncExitStack,
) -> Provider:
    """Return the provider of an asset; what is made here is made once and closed."""
    spec = one.step.spec
    if not isinstance(spec.provider, str):
        return spec.provider
    if spec.provider not in of_name:
        if one.resource is None:
            provider = provider_of(spec)
        else:
            provider = getattr(context.resources, one.resource).provider_named(spec.provider)
        opened.push_async_callback(provider.aclose)
        of_name[spec.provider] = provider
    return of_name[spec.provider]


def _findings(
    one: _Checked,
    provider: Provider | GenblazeError,
    asked: Mapping[tuple[str, str], ValidationResult],
) -> list[_Finding]:
    """Return what is known about the models of an asset, the declared one first."""
    specs = models_of(one.step.spec)
    if isinstance(provider, GenblazeError):
        unknown = ValidationResult.unknown_permissive(detail=_told(provider))
        return [_Finding(specs[0].model, unknown, f"cannot be asked: {_told(provider)}")]
    findings: list[_Finding] = []
    for spec in specs:
        result = asked.get((provider.name, spec.model)) or _by_adapter(provider, spec.model)
        is_first = not findings
        refusal = _refusal(one, spec, provider)
        if isinstance(refusal, ModelError) and not result.is_ok:
            result = ValidationResult.not_found(ValidationSource.USER, detail=_told(refusal))
        if result.is_terminal_failure:
            findings.append(_Finding(spec.model, result, _gone(result), is_error=is_first))
        elif isinstance(refusal, InvalidRequestError):
            told = f"the declared request is refused: {_told(refusal)}"
            findings.append(_Finding(spec.model, result, told, is_error=is_first))
        else:
            findings.append(_Finding(spec.model, result, _doubt(provider, spec.model, result)))
    return findings


def _by_adapter(provider: Provider, model: str) -> ValidationResult:
    """Return what an adapter that cannot ask says: only one with a closed list of models knows."""
    known = getattr(provider, "models", None)
    if isinstance(known, tuple) and model in known:
        return ValidationResult.ok_authoritative(ValidationSource.USER)
    return ValidationResult.unknown_permissive(detail=_NOT_ASKED)


def _refusal(one: _Checked, spec: StepSpec, provider: Provider) -> ProviderError | None:
    """Return why the provider refuses what is declared, as far as that is known before a run."""
    if one.step.is_written:
        # The function writes the request; whether there is such a model is all one can ask.
        spec = replace(spec, prompt="a", negative_prompt=None, seed=None, params={}, metadata={})
    kinds = [spec.modality] * len(spec.sources)
    try:
        rows = one.batch.settings.rows.example
        check_declared(spec, provider, variables=rows, kinds=kinds)
    except ProviderError as exc:
        return exc if not one.step.is_written or isinstance(exc, ModelError) else None
    except GenblazeError:
        # Its columns are known when it runs.
        return None
    return None


def _doubt(provider: Provider, model: str, result: ValidationResult) -> str | None:
    own = provider.provider if isinstance(provider, AdaptedProvider) else provider
    registry = getattr(own, "models", None)
    if isinstance(registry, ModelRegistry) and registry.is_deprecated(model):
        return f"deprecated; use {registry.resolve_canonical(model)}"
    if result.outcome is ValidationOutcome.UNKNOWN_PERMISSIVE:
        return f"cannot be asked: {result.detail or 'nobody knows the model'}"
    return None


def _gone(result: ValidationResult) -> str:
    close = result.suggested_slugs
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"there is no such model ({result.detail or result.source.value}){hint}"


def _told(error: GenblazeError) -> str:
    return redact(str(error), max_chars=_TOLD_CHARS)


def _result(one: _Checked, name: str, findings: Sequence[_Finding]) -> dg.AssetCheckResult:
    problems = [finding for finding in findings if finding.problem is not None]
    is_error = any(finding.is_error for finding in problems)
    return dg.AssetCheckResult(
        asset_key=one.step.key,
        check_name=name,
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{one.model}: {one.problem}" for one in problems) or None,
        metadata={
            "provider": one.step.spec.provider_name,
            "models": dg.MetadataValue.table([finding.record for finding in findings]),
        },
    )
