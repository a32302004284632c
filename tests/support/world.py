"""Everything generated assets need, in a directory of their own, with a provider that counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from genblaze_dagster import PromptTable
from genblaze_dagster._compat import partition_range_tags
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.resources import genblaze_resources
from genblaze_dagster.storage.refs import read_ref
from genblaze_dagster.storage.store import MediaStore
from tests.support.providers import CountingProvider


def prompts(*keys: str, **columns: Mapping[str, object]) -> PromptTable:
    """Return a table with a `subject` per key, the key itself unless a column says otherwise."""
    rows = [
        {"key": key, "subject": key, **{name: values[key] for name, values in columns.items()}}
        for key in keys
    ]
    return PromptTable.from_rows(rows)


@dataclass
class World:
    """A store, a ledger and a provider, and short ways to run and look."""

    folder: Path
    instance: dg.DagsterInstance
    provider: CountingProvider = field(default_factory=CountingProvider)
    store_url: str = ""

    def __post_init__(self) -> None:
        self.store_url = self.store_url or (self.folder / "store").as_uri()

    @property
    def store(self) -> MediaStore:
        return MediaStore(self.store_url)

    @property
    def resources(self) -> dict[str, Any]:
        ledger = f"sqlite:///{(self.folder / 'ledger.db').as_posix()}"
        return genblaze_resources(store=self.store_url, ledger=ledger)

    def pipeline(self, name: str = "story") -> Pipeline:
        """An image made from the subject, and a video made from the image."""
        return (
            Pipeline(name)
            .step(self.provider, model="m", name="image", prompt="draw {subject}")
            .step(
                self.provider,
                model="m",
                name="video",
                modality="video",
                prompt="move {subject}",
                input_from="image",
            )
        )

    def materialize(
        self,
        assets: Sequence[Any],
        partitions: Sequence[str] | str | None = None,
        *,
        raise_on_error: bool = True,
        **options: Any,
    ) -> dg.ExecuteInProcessResult:
        """Run assets: unpartitioned, for one partition, or for a range given as [first, last]."""
        tags: dict[str, str] = options.pop("tags", {})
        if isinstance(partitions, str):
            options["partition_key"] = partitions
        elif partitions is not None:
            tags = {**tags, **partition_range_tags(partitions[0], partitions[-1])}
        return dg.materialize(
            assets,
            instance=self.instance,
            resources={**self.resources, **options.pop("resources", {})},
            tags=tags,
            raise_on_error=raise_on_error,
            **options,
        )

    def materialized(self, key: str) -> set[str]:
        """Partitions Dagster holds to be materialized."""
        return set(self.instance.get_materialized_partitions(dg.AssetKey(key.split("/"))))

    def events(self, key: str) -> list[dg.AssetMaterialization]:
        """Materializations of an asset, oldest first."""
        found = self.instance.fetch_materializations(dg.AssetKey(key.split("/")), limit=1000)
        events = [record.asset_materialization for record in found.records]
        return [event for event in reversed(events) if event is not None]

    def event(self, key: str, partition: str | None = None) -> dg.AssetMaterialization:
        """The latest materialization of a partition."""
        return [event for event in self.events(key) if event.partition == partition][-1]

    def ref(self, key: str, partition: str | None = None) -> MediaRef:
        """What the store says about a partition."""
        found = run_sync(read_ref(self.store, key, partition))
        assert found is not None, f"{key} [{partition}] is not stored"
        return found

    def checks(self, result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
        """Check evaluations of a run by asset; the result itself lacks those of failed steps."""
        found: dict[str, dg.AssetCheckEvaluation] = {}
        for entry in self.instance.all_logs(result.run_id):
            event = entry.dagster_event
            if event is not None and event.event_type_value == "ASSET_CHECK_EVALUATION":
                evaluation = event.asset_check_evaluation_data
                found[evaluation.asset_key.to_user_string()] = evaluation
        return found

    def failed_prompts(self, error: Exception, *prompts: str) -> None:
        """Make the vendor refuse these prompts."""
        self.provider.errors = dict.fromkeys(prompts, error)


def selection(*keys: str) -> list[dg.AssetKey]:
    return [dg.AssetKey(key.split("/")) for key in keys]


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    """Description of the only failed step's Failure, else the error it ended with."""
    (event,) = result.get_step_failure_events()
    data = event.step_failure_data
    if data.user_failure_data is None or data.user_failure_data.description is None:
        return str(data.error)
    return data.user_failure_data.description


def failure_metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the only failed step's Failure, as plain values."""
    (event,) = result.get_step_failure_events()
    user = event.step_failure_data.user_failure_data
    assert user is not None
    return {name: value.value for name, value in user.metadata.items()}


def failed_records(result: dg.ExecuteInProcessResult) -> list[Mapping[str, Any]]:
    """The rows of the table of failures."""
    return [record.data for record in failure_metadata(result)["failures"].records]
