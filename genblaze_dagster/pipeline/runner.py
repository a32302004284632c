"""The Runner: takes one step of one partition from declaration to durable, provable media.

Order, which is the whole point: ledger row, submit, job id into the ledger, bytes into the store,
manifest, reference, ledger row finished. Only then does anyone hear of the result.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, GenblazeError
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.claims import DEFAULT_LEASE_SECONDS, Claims
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.events import EventHandler, StepEventType
from genblaze_dagster.pipeline.inputs import Inputs
from genblaze_dagster.pipeline.lineage import Upstream
from genblaze_dagster.pipeline.lost_answers import LOOK_AFTER_SECONDS, LostAnswers, OnAmbiguous
from genblaze_dagster.pipeline.moderation import ModerationHook
from genblaze_dagster.pipeline.outcome import StepOutcome, Target
from genblaze_dagster.pipeline.spool import Spool, default_spool
from genblaze_dagster.pipeline.step_cache import StepCache
from genblaze_dagster.pipeline.tools import Tools
from genblaze_dagster.pipeline.work import Work
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.store import MediaStore

_WARNED_SCOPES = 1024
_WARNING = (
    "on_ambiguous='resubmit': a submit whose answer is lost is sent again, and may be paid twice"
)


class Runner:
    """Runs steps through ledger, provider and store; safe to use for many steps at once.

    Args:
        store: where media, manifests and references go.
        ledger: what has been asked and paid.
        retry: policy of steps that have none of their own; their provider's when left out.
        on_event: called on the event loop with every `StepEvent`; must be quick.
        clock: current time, aware UTC.
        lease_seconds: after this long without a sign of life another worker may take over.
        input_roots: folders whose files may be external inputs; see `inputs.Inputs`.
        embed: also store every output with its manifest inside, showing what this policy allows.
        moderation: looks at every request before it is sent.
        cache: answers of earlier runs, which cost nothing.
        budgets: limits on what is paid and reserved, checked in the claim of every submission. A
            request that finds no room fails its step with `BudgetExceededError`, unsent.
        on_ambiguous: what to do when the answer to a submit is lost and neither an idempotency key
            nor the vendor's list of jobs can tell: `hold` leaves it to a person. WARNING:
            `resubmit` sends it again and pays twice whenever the first one had arrived; an event
            says so once per run.
        look_after: seconds before each look at a vendor's jobs for one whose answer was lost.
        spool: where paid results wait while the store is down; GENBLAZE_SPOOL, or beside the
            ledger's file, when left out.

    Raises:
        ConfigError: `on_ambiguous` is neither of both, or a budget is none.
    """

    def __init__(
        self,
        store: MediaStore,
        ledger: Ledger,
        *,
        retry: RetryPolicy | None = None,
        on_event: EventHandler | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        lease_seconds: float = DEFAULT_LEASE_SECONDS,
        input_roots: Sequence[Path] | None = None,
        embed: EmbedPolicy | None = None,
        moderation: ModerationHook | None = None,
        cache: StepCache | None = None,
        budgets: Sequence[Budget] = (),
        on_ambiguous: OnAmbiguous | str = OnAmbiguous.HOLD,
        look_after: Sequence[float] = LOOK_AFTER_SECONDS,
        spool: Spool | None = None,
    ) -> None:
        self.store = store
        self._on_ambiguous = OnAmbiguous.of(on_ambiguous)
        limits = _checked(budgets)
        upstream = Upstream(store)
        claims = Claims(ledger, lease_seconds=lease_seconds)
        self._warned: OrderedDict[str, None] = OrderedDict()
        self._tools = Tools(
            store=store,
            claims=claims,
            upstream=upstream,
            inputs=Inputs(store, upstream, roots=input_roots),
            retry=retry,
            on_event=on_event,
            clock=clock,
            embed=embed,
            moderation=moderation,
            cache=cache,
            budgets=limits,
            lost_answers=LostAnswers(claims, store, self._on_ambiguous, look_after),
            spool=spool or default_spool(ledger),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish pending ledger writes."""
        self._tools.claims.close()

    async def run_step(
        self,
        spec: StepSpec,
        target: Target,
        *,
        variables: Mapping[str, object] | None = None,
        inputs: Sequence[MediaRef] = (),
        provider: Provider | None = None,
        on_event: EventHandler | None = None,
    ) -> StepOutcome:
        """Run one step for one partition and return when everything about it is durable.

        Args:
            spec: the declared step.
            target: what it is run for.
            variables: the partition's row.
            inputs: references of the inputs, in the step's order.
            provider: the provider to use, when `spec` holds only its name.
            on_event: called with the events of this step, like the Runner's own.

        Raises:
            ProviderError: the vendor refused or failed.
            BudgetExceededError: a budget has no room for the request; nothing was sent.
            HeldError: the answer to a submit was lost; nothing is sent again.
            StorageError: the store failed; a submitted job is resumed next time.
            ManifestError: an input is not what its record or manifest says, or the request cannot
                be recorded.
            UnsafeUrlError: the guard refuses the address of an external input.
            PromptTemplateError: the row lacks a variable.
        """
        work = Work(self._tools, spec, target, on_event)
        work.notify(StepEventType.STARTED)
        if self._on_ambiguous is OnAmbiguous.RESUBMIT and self._is_new(target.scope):
            work.notify(
                StepEventType.PROGRESS, status="processing", detail=_WARNING, message=_WARNING
            )
        try:
            outcome = await work.run(variables or {}, inputs, provider)
        except GenblazeError as exc:
            work.notify(StepEventType.FAILED, detail=f"{type(exc).__name__}: {redact(str(exc))}")
            raise
        work.notify(StepEventType.COMPLETED, detail=outcome.origin.value)
        return outcome

    def _is_new(self, scope: str) -> bool:
        """Whether a run is met for the first time, as far back as is remembered."""
        is_new = scope not in self._warned
        self._warned[scope] = None
        self._warned.move_to_end(scope)
        if len(self._warned) > _WARNED_SCOPES:
            self._warned.popitem(last=False)
        return is_new


def _checked(budgets: Iterable[object]) -> tuple[Budget, ...]:
    checked: list[Budget] = []
    for budget in budgets:
        if not isinstance(budget, Budget):
            raise ConfigError(
                f"budgets hold a {type(budget).__name__}; give Budget(scope, limit_usd) objects"
            )
        checked.append(budget)
    return tuple(checked)
