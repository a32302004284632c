"""Questions people ask of the index: what models cost, where media came from, what a prompt gave."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genblaze_dagster.core.models import is_valid_sha256
from genblaze_dagster.index.catalog import IndexCatalog
from genblaze_dagster.index.rows import prompt_sha256
from genblaze_dagster.index.schema import arrow_types

if TYPE_CHECKING:
    import pyarrow as pa

_COST_PER_MODEL = """
    SELECT provider, model, modality,
           count(*) AS generations,
           sum(cost_usd) AS cost_usd,
           count(*) - count(cost_usd) AS unknown_costs
    FROM steps
    WHERE executed
    GROUP BY ALL
    ORDER BY cost_usd DESC NULLS LAST, provider, model, modality
"""

_OUTPUTS_OF_PROMPT = """
    SELECT r.asset_key, r.partition_key, s.provider, s.model, s.modality, a.sha256, a.media_type,
           a.size_bytes, a.url, s.cost_usd, r.created_at, a.run_id
    FROM steps s
    JOIN runs r USING (run_id)
    JOIN assets a USING (run_id, step_index)
    WHERE s.executed AND s.prompt_sha256 = ?
    ORDER BY r.created_at, a.run_id, a.step_index, a.position
"""

_MADE_BY_RUN = "SELECT run_id, step_index FROM steps WHERE run_id = ? AND executed"

_MAKERS = """
    SELECT DISTINCT run_id, step_index, executed FROM assets WHERE sha256 = ? ORDER BY run_id
"""

_STEP = """
    SELECT s.run_id, s.step_id, r.asset_key, r.partition_key, s.provider, s.model, s.modality,
           s.prompt, a.sha256, a.media_type, s.cost_usd, r.created_at
    FROM steps s
    JOIN runs r USING (run_id)
    LEFT JOIN assets a USING (run_id, step_index)
    WHERE s.run_id = ? AND s.step_index = ? AND (? IS NULL OR a.sha256 = ?)
    ORDER BY a.position
"""

_INPUTS = """
    SELECT sha256, media_type, from_run_id FROM inputs
    WHERE run_id = ? AND step_index = ? ORDER BY position
"""

_PARENT = "SELECT parent_run_id FROM runs WHERE run_id = ? AND parent_run_id IS NOT NULL"

_LINEAGE_COLUMNS = (
    ("depth", "int64"),
    ("relation", "string"),
    ("run_id", "string"),
    ("step_id", "string"),
    ("asset_key", "string"),
    ("partition_key", "string"),
    ("provider", "string"),
    ("model", "string"),
    ("modality", "string"),
    ("prompt", "string"),
    ("sha256", "string"),
    ("media_type", "string"),
    ("cost_usd", "double"),
    ("created_at", "timestamp"),
)


def cost_per_model(catalog: IndexCatalog) -> "pa.Table":
    """Return what each model has cost, the dearest first.

    Each generation counts once, however many later manifests carry it. `cost_usd` is the sum of the
    known costs, NULL when none is known; `unknown_costs` counts the generations without one.

    Raises:
        IndexQueryError: the index is not loaded.
    """
    return catalog.query(_COST_PER_MODEL)


def outputs_of_prompt(catalog: IndexCatalog, text: str) -> "pa.Table":
    """Return the outputs generated from exactly this prompt, oldest first.

    A prompt that is not public is found as well, by who knows its text.

    Raises:
        IndexQueryError: the index is not loaded.
    """
    return catalog.query(_OUTPUTS_OF_PROMPT, [prompt_sha256(text)])


def lineage(catalog: IndexCatalog, about: str) -> "pa.Table":
    """Return where media came from: a row per output, and per input of each step before it.

    `relation` is `output` for what was asked about (depth 0), `input` for what it was made from,
    `source` for an input no indexed step made, and `previous` for the runs that the asked one
    refines. An unknown id gives no rows.

    Args:
        catalog: the loaded index.
        about: SHA-256 of an output, or a run id.

    Raises:
        IndexQueryError: the index is not loaded.
    """
    import pyarrow as pa

    types = arrow_types()
    schema = pa.schema([(name, types[kind]) for name, kind in _LINEAGE_COLUMNS])
    return pa.Table.from_pylist(list(_Lineage(catalog).rows(about)), schema=schema)


@dataclass(frozen=True, slots=True)
class _Visit:
    """A step to look at; `sha256` is the output that led to it, None for all of its outputs."""

    depth: int
    relation: str
    run_id: str
    step_index: int
    sha256: str | None


class _Lineage:
    """Point look-ups, one step at a time: every step is expanded once, so cycles end."""

    def __init__(self, catalog: IndexCatalog) -> None:
        self._catalog = catalog
        self._seen: set[tuple[str, int, str | None]] = set()
        self._expanded: set[tuple[str, int]] = set()

    def _ask(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        return self._catalog.query(sql, parameters).to_pylist()

    def rows(self, about: str) -> Iterator[dict[str, Any]]:
        start = list(self._start(about))
        yield from self._walk(start)
        yield from self._previous([visit.run_id for visit in start])

    def _start(self, about: str) -> Iterator[_Visit]:
        if is_valid_sha256(about):
            for run_id, step_index in self._makers(about, None):
                yield _Visit(0, "output", run_id, step_index, about)
        else:
            for step in self._ask(_MADE_BY_RUN, about):
                yield _Visit(0, "output", step["run_id"], step["step_index"], None)

    def _walk(self, start: list[_Visit]) -> Iterator[dict[str, Any]]:
        waiting = deque(start)
        while waiting:
            visit = waiting.popleft()
            if (visit.run_id, visit.step_index, visit.sha256) in self._seen:
                continue
            self._seen.add((visit.run_id, visit.step_index, visit.sha256))
            yield from self._described(visit)
            if (visit.run_id, visit.step_index) in self._expanded:
                continue
            self._expanded.add((visit.run_id, visit.step_index))
            for found in self._ask(_INPUTS, visit.run_id, visit.step_index):
                makers = self._makers(found["sha256"], found["from_run_id"])
                waiting.extend(
                    _Visit(visit.depth + 1, "input", run_id, step_index, found["sha256"])
                    for run_id, step_index in makers
                )
                if not makers:
                    yield {
                        "depth": visit.depth + 1,
                        "relation": "source",
                        "sha256": found["sha256"],
                        "media_type": found["media_type"],
                    }

    def _described(self, visit: _Visit) -> Iterator[dict[str, Any]]:
        sha256 = visit.sha256
        for row in self._ask(_STEP, visit.run_id, visit.step_index, sha256, sha256):
            yield {"depth": visit.depth, "relation": visit.relation, **row}

    def _makers(self, sha256: str | None, run_id: str | None) -> list[tuple[str, int]]:
        """Return the steps that made these bytes: in that run, else wherever, else as recorded."""
        found = self._ask(_MAKERS, sha256)
        executed = [maker for maker in found if maker["executed"]]
        there = [maker for maker in executed if maker["run_id"] == run_id]
        best = there or executed or found
        return [(maker["run_id"], maker["step_index"]) for maker in best]

    def _previous(self, run_ids: list[str]) -> Iterator[dict[str, Any]]:
        waiting, seen = deque(run_ids), set(run_ids)
        while waiting:
            for parent in self._ask(_PARENT, waiting.popleft()):
                run_id = parent["parent_run_id"]
                if run_id in seen:
                    continue
                seen.add(run_id)
                waiting.append(run_id)
                for step in self._ask(_MADE_BY_RUN, run_id):
                    visit = _Visit(0, "previous", run_id, step["step_index"], None)
                    yield from self._described(visit)
