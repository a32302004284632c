"""Finish submissions in this process, by runs of the user's assets that submit nothing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import dagster as dg

from genblaze_dagster._compat import partition_range_tags
from genblaze_dagster.cli.ledger_batches import Progress, RunBatch, Started, batches, by_asset
from genblaze_dagster.cli.ledger_records import Records
from genblaze_dagster.cli.output import progress
from genblaze_dagster.errors import ConfigError, GenblazeError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import LedgerRow
from genblaze_dagster.pipeline.quote import Outlook, StepQuote
from genblaze_dagster.pipeline.resuming import RESUME_ONLY_TAG
from genblaze_dagster.quotes import quote
from genblaze_dagster.resources import LedgerResource

_PARTITIONS_PER_RUN: Final = 50
_HOME_VARIABLE: Final = "DAGSTER_HOME"
_QUIET: Final = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def finish_here(
    definitions: dg.Definitions,
    rows: Sequence[LedgerRow],
    records: Records,
    *,
    regenerate: bool,
) -> Progress:
    """Materialise the asset partitions of submissions, so that their jobs are resumed.

    Args:
        definitions: those of the assets.
        rows: open ones with a job that nobody works on.
        records: the ledger they are in.
        regenerate: run also what would be submitted anew.

    Raises:
        ConfigError: the definitions keep another ledger, or Dagster cannot run them.
    """
    work = Progress()
    try:
        with _instance(work) as instance:
            _Here(definitions, instance, records, work, regenerate=regenerate).finish(rows)
    except dg.DagsterError as exc:
        raise ConfigError(f"Dagster cannot run these definitions here: {exc}") from exc
    return work


@contextmanager
def _instance(work: Progress) -> Iterator[dg.DagsterInstance]:
    if os.environ.get(_HOME_VARIABLE):
        with dg.DagsterInstance.get() as instance:
            yield instance
        return
    work.notes.append(
        f"{_HOME_VARIABLE} is not set: what is finished is in the store and the ledger, and no "
        "Dagster instance knows of it"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class _Here:
    """One call of the command on loaded definitions."""

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        records: Records,
        work: Progress,
        *,
        regenerate: bool,
    ) -> None:
        self._definitions = definitions
        self._instance = instance
        self._work = work
        self._regenerate = regenerate
        resources = dict(definitions.resources or {})
        ledgers = {k: r for k, r in resources.items() if isinstance(r, LedgerResource)}
        self._check_ledgers(ledgers, records)
        # Without the loggers of the user, whose configuration is not known here.
        runnable = dg.Definitions(assets=definitions.assets, resources=resources)
        self._job = runnable.resolve_implicit_global_asset_job_def()
        self._assets = {key.to_user_string(): key for key in definitions.resolve_all_asset_keys()}

    def _check_ledgers(self, found: Mapping[str, LedgerResource], records: Records) -> None:
        if not found:
            raise ConfigError(
                "the definitions have no LedgerResource; add the resources of genblaze_resources()"
            )
        with dg.build_resources(dict(found), instance=self._instance) as built:
            opened = {repr(getattr(built, key).get_ledger()) for key in found}
        if opened != {repr(Ledger(records.url))}:
            raise ConfigError(
                f"the definitions use {', '.join(sorted(opened))}, and these submissions are in "
                f"{records.name}; give the definitions' ledger by --ledger"
            )

    def finish(self, rows: Sequence[LedgerRow]) -> None:
        """Run what can be resumed, and note why the rest is left alone."""
        with progress("submissions", total=len(rows)) as advance:
            for asset_key, of_asset in by_asset(rows).items():
                for batch in self._batches(asset_key, of_asset):
                    self._run(batch, of_asset)
                advance(len(of_asset))

    def _batches(self, asset_key: str, rows: Sequence[LedgerRow]) -> list[RunBatch]:
        key = self._assets.get(asset_key)
        if key is None:
            self._work.leave(rows, "these definitions have no such asset; run the pipeline again")
            return []
        assets = self._definitions.resolve_assets_def(key)
        order = self._order(assets.partitions_def)
        known = [row for row in rows if row.partition_key in (order or [None])]
        self._work.leave(
            [row for row in rows if row not in known], "its asset has no such partition any more"
        )
        resumed = known if self._regenerate else self._resumed(key, known)
        return batches(asset_key, resumed, order, most=_most(assets)) if resumed else []

    def _order(self, definition: dg.PartitionsDefinition | None) -> list[str] | None:
        if definition is None:
            return None
        return [*definition.get_partition_keys(dynamic_partitions_store=self._instance)]

    def _resumed(self, key: dg.AssetKey, rows: Sequence[LedgerRow]) -> list[LedgerRow]:
        """Return the submissions that a run would resume; nothing is asked of a vendor here."""
        keys = dict.fromkeys(row.partition_key for row in rows)
        partitions = [key for key in keys if key is not None]
        try:
            found = quote(
                self._definitions,
                selection=dg.AssetSelection.assets(key),
                partition_keys=partitions or None,
                instance=self._instance,
            )
        except GenblazeError as exc:
            self._work.leave(rows, f"what it would do cannot be told: {exc}")
            return []
        outlooks = {item.partition_key: item for item in found.items}
        resumed: list[LedgerRow] = []
        for row in rows:
            reason = _reason_to_leave(row, outlooks.get(row.partition_key))
            if reason is None:
                resumed.append(row)
            else:
                self._work.problems[row.id] = reason
        return resumed

    def _run(self, batch: RunBatch, rows: Sequence[LedgerRow]) -> None:
        tags = {} if self._regenerate else {RESUME_ONLY_TAG: "true"}
        if len(batch.partitions) > 1:
            first, last = str(batch.partitions[0]), str(batch.partitions[-1])
            tags |= partition_range_tags(first, last)
        result = self._job.execute_in_process(
            asset_selection=[self._assets[batch.asset_key]],
            partition_key=batch.one,
            tags=tags,
            instance=self._instance,
            run_config=_QUIET,
            raise_on_error=False,
        )
        self._work.runs.append(Started(result.run_id, "SUCCESS" if result.success else "FAILURE"))
        failures = _failures(result)
        for row in rows:
            if not batch.covers(row):
                continue
            if (told := failures.get(row.partition_key or "")) is not None:
                self._work.problems[row.id] = told
            elif self._regenerate:
                self._work.regenerated.add(row.id)


def _most(assets: dg.AssetsDefinition) -> int:
    policy = assets.backfill_policy
    if policy is None or isinstance(assets.partitions_def, dg.MultiPartitionsDefinition):
        # The first and the last key of several dimensions span a rectangle.
        return 1
    return policy.max_partitions_per_run or _PARTITIONS_PER_RUN


def _reason_to_leave(row: LedgerRow, found: StepQuote | None) -> str | None:
    if found is None:
        return "its asset is not one of generated media any more"
    if found.outlook is Outlook.RESUMED and (row.job_id or "") in (found.reason or ""):
        return None
    if found.outlook in (Outlook.NEW, Outlook.REFUSED, Outlook.RESUMED):
        return (
            "its request has changed since (prompt, parameters or inputs): a run would submit "
            "anew, and not fetch this job; --regenerate does so"
        )
    reason = f": {found.reason}" if found.reason else ""
    return f"a run would not fetch it ({found.outlook.value}{reason})"


def _failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Return what went wrong in a run by partition; `""` is an unpartitioned asset."""
    found: dict[str, str] = {}
    for event in result.get_step_failure_events():
        data = event.step_failure_data
        table = (data.user_failure_data.metadata if data.user_failure_data else {}).get("failures")
        records = cast(Sequence[Any], getattr(table, "records", ()))
        for record in records:
            told = f"{record.data['error']}: {record.data['message']}"
            found[str(record.data["partition"])] = told
    return found
