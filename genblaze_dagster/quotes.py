"""What a materialization or a backfill would do and cost, before it runs.

Every request is made by the functions that make it in the run, from the same rows and the same
stored inputs, and looked up in the same ledger; so what is quoted is what will be reserved. Nothing
is submitted, claimed, written or downloaded. Prompt functions are called, as in the run.
"""

import asyncio
import warnings
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy import make_url

from genblaze_dagster import _compat
from genblaze_dagster._definition import Generated, generated
from genblaze_dagster._flows import BatchStep, stored_input
from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, GenblazeError
from genblaze_dagster.io_manager import StoreIOManager
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.net.redact import redact
from genblaze_dagster.partitions import WantedPartitions
from genblaze_dagster.pipeline.allowance import Allowance
from genblaze_dagster.pipeline.environment import default_ledger_url
from genblaze_dagster.pipeline.generation import provider_of
from genblaze_dagster.pipeline.lost_answers import OnAmbiguous
from genblaze_dagster.pipeline.quote import WITHOUT_MEDIA, Outlook, Quote, StepQuote
from genblaze_dagster.pipeline.quoting import UNTIL_INPUT_EXISTS, Quoter, Wish, unknown_quote
from genblaze_dagster.provider_resources import resource_key
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.resources import LedgerResource
from genblaze_dagster.storage.store import MediaStore

__all__ = ["Outlook", "Quote", "StepQuote", "quote"]

_CONCURRENCY = 32
_TOLD_CHARS = 200
_NEW_RUN = "the run that is quoted"


def quote(
    definitions: dg.Definitions | Sequence[dg.AssetsDefinition],
    *,
    selection: str | Sequence[str] | dg.AssetSelection = "*",
    partition_keys: Sequence[str] | None = None,
    partition_range: tuple[str, str] | None = None,
    resources: Mapping[str, Any] | None = None,
    instance: dg.DagsterInstance | None = None,
    scope: str | None = None,
) -> Quote:
    """Say what a materialization or backfill would do and cost.

    Inputs that are still to be made count as one file each of their kind. Where a price depends on
    more than that, it is unknown until the input exists, and so is that of a request a prompt
    function writes from such an input.

    Args:
        definitions: a code location, or assets alone together with `resources`.
        selection: which assets, in Dagster's selection syntax, such as `group:story` or `+video`.
        partition_keys: of the assets that have partitions; all of them when left out.
        partition_range: the first and the last of them, instead of `partition_keys`.
        resources: take the place of those of the definitions.
        instance: knows the keys of dynamic partitions.
        scope: id of a run or backfill that would be carried on; what it finished costs nothing.

    Raises:
        ConfigError: a resource is missing or of the wrong kind, or nothing is selected.
        PartitionKeyError: no selected asset has such a partition.
        StorageError: the store cannot be read.
    """
    given = resources or {}
    if isinstance(definitions, dg.Definitions):
        found = {**(definitions.resources or {}), **given}
        repository = definitions.get_repository_def()
    else:
        found = dict(given)
        repository = dg.Definitions(assets=definitions, resources=found).get_repository_def()
    partitions = WantedPartitions(partition_keys, partition_range, instance)
    with ExitStack() as opened:
        plan = _Plan(repository, found, partitions, opened, scope)
        return run_sync(plan.quote(selection))


@dataclass(frozen=True, slots=True)
class _Around:
    """What the batches of one store and one ledger share."""

    store: MediaStore
    quoter: Mapping[OnAmbiguous, Quoter]
    allowance: Allowance
    budgets: tuple[Budget, ...]


_Place = tuple[dg.AssetKey, str | None]


class _Plan:
    """Quotes the steps of a repository, inputs before what is made of them."""

    def __init__(
        self,
        repository: dg.RepositoryDefinition,
        resources: Mapping[str, Any],
        partitions: WantedPartitions,
        opened: ExitStack,
        scope: str | None,
    ) -> None:
        self._graph = repository.asset_graph
        self._resources = resources
        self._partitions = partitions
        self._opened = opened
        self._scope = scope
        self._selected: list[_Selected] = []
        self._places: dict[tuple[str, str], _Around] = {}
        # One for each ledger, in whatever stores its media are.
        self._allowances: dict[str, Allowance] = {}
        self._providers: dict[str, Provider] = {}
        self._made: dict[_Place, StepQuote] = {}
        self._inputs: dict[_Place, list[_Place]] = {}
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._notes: list[str] = []

    async def quote(self, selection: str | Sequence[str] | dg.AssetSelection) -> Quote:
        """Return what would become of the selected assets."""
        selected = _resolved(selection, self._graph)
        for key in self._graph.toposorted_asset_keys:
            found = self._generated(key) if key in selected else None
            if found is not None:
                step, batch = found
                keys = self._partitions.of(batch.settings.rows.definition)
                self._selected.append(_Selected(step, batch, keys))
        if not self._selected:
            raise ConfigError(f"selection {selection!r} has no generated assets; select others")
        if len(selected) > len(self._selected):
            others = len(selected) - len(self._selected)
            self._notes.append(f"{others} selected assets are not generated, and not quoted")
        self._partitions.check(one.partitions for one in self._selected)
        for one in self._selected:
            await self._quote_asset(one)
        self._count()
        budgets = [
            budget for allowance in self._allowances.values() for budget in allowance.budgets
        ]
        return Quote(tuple(self._made.values()), tuple(budgets), tuple(self._notes))

    def _generated(self, key: dg.AssetKey) -> tuple[BatchStep, Generated] | None:
        batch = generated(self._graph.assets_def_for_key(key)) if self._graph.has(key) else None
        step = next((s for s in batch.steps if s.key == key), None) if batch else None
        return None if batch is None or step is None else (step, batch)

    async def _quote_asset(self, one: "_Selected") -> None:
        around = self._around(one.batch)

        async def quoted(key: str | None) -> StepQuote:
            async with self._slots:
                return await self._quote_one(one.step, one.batch, around, key)

        found = await asyncio.gather(*map(quoted, one.partitions))
        for key, item in zip(one.partitions, found, strict=True):
            self._made[one.step.key, key] = item

    async def _quote_one(
        self, step: BatchStep, batch: Generated, around: _Around, partition: str | None
    ) -> StepQuote:
        target = batch.settings.target(step.key, partition, self._scope or _NEW_RUN)
        if batch.is_loop:
            return unknown_quote(step.spec, target, "an agent asks as often as its evaluator wants")
        try:
            provider = self._provider(step, batch)
            row = await batch.settings.rows.load(around.store, partition)
            consumed = await self._consumed(step, around.store, partition)
            if consumed is None and step.is_written:
                return unknown_quote(step.spec, target, UNTIL_INPUT_EXISTS)
            request = await step.prepare(
                around.store, partition, row, consumed or dict.fromkeys(step.inputs, ())
            )
        except Exception as exc:
            # A prompt function may raise anything; in the run too it fails its partition alone.
            told = f"{type(exc).__name__}: {exc}"
            ours = isinstance(exc, GenblazeError)
            return replace(
                unknown_quote(step.spec, target, told if ours else redact(told)),
                outlook=Outlook.IMPOSSIBLE,
                cost_usd=0.0,
            )
        wish = Wish(
            target=target,
            spec=request.spec,
            provider=provider,
            variables=request.variables,
            inputs=None if consumed is None else request.inputs,
            kinds=[self._kind(key) for key in step.inputs],
        )
        return await around.quoter[batch.settings.on_ambiguous].quote(wish)

    async def _consumed(
        self, step: BatchStep, store: MediaStore, partition: str | None
    ) -> dict[dg.AssetKey, list[MediaRef]] | None:
        """Return the references of the inputs, None when one of them is still to be made."""
        consumed: dict[dg.AssetKey, list[MediaRef]] = {}
        places = self._inputs[step.key, partition] = []
        for key in step.inputs:
            wanted = self._upstream(step.key, key, partition)
            made = [(key, one) for one in wanted or [None] if (key, one) in self._made]
            places.extend(made)
            if any(self._made[place].ref is None for place in made):
                return None
            refs = {one: self._made[key, one].ref for key, one in made}
            rest = None if wanted is None else [one for one in wanted if one not in refs]
            if rest or not refs:
                stored = await stored_input(store, key, rest, partition)
                refs.update({ref.partition_key: ref for ref in stored})
            ordered = refs if wanted is None else wanted
            consumed[key] = [ref for one in ordered if (ref := refs.get(one)) is not None]
        return consumed

    def _upstream(
        self, key: dg.AssetKey, upstream: dg.AssetKey, partition: str | None
    ) -> list[str] | None:
        known = self._graph.has(upstream)
        return _compat.mapped_partitions(
            self._graph.get_partition_mapping(key, upstream) if known else None,
            self._graph.get(key).partitions_def,
            self._graph.get(upstream).partitions_def if known else None,
            partition,
            instance=self._partitions.instance,
        )

    def _kind(self, key: dg.AssetKey) -> Modality:
        found = self._generated(key)
        return Modality.IMAGE if found is None else found[0].spec.modality

    def _around(self, batch: Generated) -> _Around:
        """Return store, ledger and budgets of a batch; each is opened once."""
        place = (batch.settings.media_key, batch.settings.ledger_key)
        if place not in self._places:
            manager, ledger = map(self._resource, place)
            if not isinstance(manager, StoreIOManager) or not isinstance(ledger, LedgerResource):
                raise ConfigError(
                    f"resources {place[0]!r} and {place[1]!r} are a {type(manager).__name__} and a "
                    f"{type(ledger).__name__}; generated assets need a media IO manager, such as "
                    "S3MediaIOManager, and a LedgerResource"
                )
            existing = _existing(ledger)
            quoters = {
                on_ambiguous: Quoter(
                    manager.store,
                    existing,
                    resubmits=on_ambiguous is OnAmbiguous.RESUBMIT,
                )
                for on_ambiguous in OnAmbiguous
            }
            allowance = self._allowances.setdefault(place[1], Allowance(existing))
            self._places[place] = _Around(manager.store, quoters, allowance, ledger.get_budgets())
        return self._places[place]

    def _provider(self, step: BatchStep, batch: Generated) -> Provider:
        name = step.spec.provider
        if not isinstance(name, str):
            return name
        if name not in self._providers:
            if resource_key(name) in batch.settings.provider_keys:
                provider: Provider = self._resource(resource_key(name)).provider_named(name)
            else:
                provider = provider_of(step.spec)
            self._opened.callback(lambda: run_sync(provider.aclose()))
            self._providers[name] = provider
        return self._providers[name]

    def _resource(self, key: str) -> Any:
        if key not in self._resources:
            raise ConfigError(
                f"there is no resource {key!r}; add the resources of genblaze_resources()"
            )
        built = dg.build_resources({key: self._resources[key]}, instance=self._partitions.instance)
        return getattr(self._opened.enter_context(built), key)

    def _count(self) -> None:
        """Count what would be asked against the budgets, partition by partition as it is run."""
        for group in _groups(self._selected):
            around, settings = self._around(group[0].batch), group[0].batch.settings
            budgets = (*around.budgets, *settings.budgets)
            for partition in dict.fromkeys(key for one in group for key in one.partitions):
                for one in group:
                    if (one.step.key, partition) in self._made:
                        self._count_one((one.step.key, partition), around.allowance, budgets)

    def _count_one(self, place: _Place, allowance: Allowance, budgets: Sequence[Budget]) -> None:
        item = self._made[place]
        if item.outlook is not Outlook.NEW or item.intent is None:
            return
        for before in self._inputs.get(place, ()):
            outlook = self._made[before].outlook
            if outlook in WITHOUT_MEDIA:
                told = f"its input {before[0].to_user_string()} is {outlook.value}"
                self._made[place] = replace(
                    item, outlook=Outlook.IMPOSSIBLE, cost_usd=0.0, reason=told
                )
                return
        refusal = allowance.refusal(
            item.intent, budgets, taken_usd=item.taken_usd, is_priced_later=item.is_priced_later
        )
        if refusal is not None:
            self._made[place] = replace(item, outlook=Outlook.REFUSED, reason=refusal)


@dataclass(frozen=True, slots=True)
class _Selected:
    """One selected step with the partitions that are wanted of it."""

    step: BatchStep
    batch: Generated
    partitions: Sequence[str | None]


def _groups(selected: Iterable[_Selected]) -> list[list[_Selected]]:
    """Return what is run by the same Dagster step together."""
    groups: dict[int, list[_Selected]] = {}
    for one in selected:
        groups.setdefault(id(one.batch), []).append(one)
    return list(groups.values())


def _resolved(
    selection: str | Sequence[str] | dg.AssetSelection, graph: Any
) -> AbstractSet[dg.AssetKey]:
    try:
        with warnings.catch_warnings():
            # Dagster calls beta what its own parser makes of `*` and `group:story`.
            warnings.simplefilter("ignore", dg.BetaWarning)
            if isinstance(selection, str):
                selection = dg.AssetSelection.from_string(selection)
            elif not isinstance(selection, dg.AssetSelection):
                selection = reduce(or_, map(dg.AssetSelection.from_string, selection))
            return selection.resolve(graph)
    except dg.DagsterError as exc:
        told = redact(str(exc), max_chars=_TOLD_CHARS)
        raise ConfigError(
            f"selection {str(selection)!r} cannot be resolved: {told}; see Dagster's asset selection "
            "syntax"
        ) from exc


def _existing(resource: LedgerResource) -> Ledger | None:
    """Return the ledger, None when its file does not exist; looking must not make one."""
    # Before anything else looks at the URL: this refuses what no ledger can be.
    ledger = resource.get_ledger()
    url = resource.url or default_ledger_url()
    name = make_url(url).database if "://" in url else url
    is_file = "://" not in url or url.startswith("sqlite")
    if is_file and name and name != ":memory:":
        path = Path(name.removeprefix("file:"))
        if not path.exists() or (path.is_file() and not path.stat().st_size):
            return None
    return ledger
