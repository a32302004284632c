"""Dagster's SQLite event log, which lets a test stop the process before it stores an event."""

from collections.abc import Callable
from typing import Any

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage
from sqlalchemy.sql.dml import Insert

before_materialization: list[Callable[[str | None], None]] = []
"""Called with the partition of every materialization that is about to be stored."""


class ObservedEventLog(SqliteEventLogStorage):
    """Named in a `dagster.yaml`; every process of the instance uses it."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "ObservedEventLog":
        return cls(inst_data=inst_data, **config_value)

    def prepare_insert_event(self, event: dg.EventLogEntry) -> Insert:
        dagster_event = event.dagster_event
        if dagster_event is not None and dagster_event.is_step_materialization:
            for observe in before_materialization:
                observe(dagster_event.partition)
        return super().prepare_insert_event(event)
