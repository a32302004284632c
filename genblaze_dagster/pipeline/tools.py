"""What all steps of one Runner share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.pipeline.claims import Claims
from genblaze_dagster.pipeline.events import EventHandler
from genblaze_dagster.pipeline.inputs import Inputs
from genblaze_dagster.pipeline.lineage import Upstream
from genblaze_dagster.pipeline.lost_answers import LostAnswers
from genblaze_dagster.pipeline.moderation import ModerationHook
from genblaze_dagster.pipeline.spool import Spool
from genblaze_dagster.pipeline.step_cache import StepCache
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.store import MediaStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all steps of one Runner share; `Runner` says what each is."""

    store: MediaStore
    claims: Claims
    upstream: Upstream
    inputs: Inputs
    retry: RetryPolicy | None
    on_event: EventHandler | None
    clock: Callable[[], datetime]
    embed: EmbedPolicy | None
    moderation: ModerationHook | None
    cache: StepCache | None
    budgets: Sequence[Budget]
    lost_answers: LostAnswers
    spool: Spool | None
