"""What an agent asset keeps of its iterations, so that no attempt does one of them again."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

import orjson

from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, NotFoundError, SchemaError
from genblaze_dagster.pipeline.agent.evaluation import EvaluationResult
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome, Target
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.store import MediaStore

FOLDER = "agents"
_VERSION = 1
_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished run of an iteration; `evaluation` is None when it was never judged."""

    result: PipelineResult
    cost_usd: float | None
    evaluation: EvaluationResult | None


class IterationRecords:
    """The iterations of one asset, partition and scope, as small objects in the store.

    `agents/<hash of the three>/<iteration>.json`. Written once when the run is durable and again
    when it is judged: feedback decides the next prompt, and an evaluator may not say the same twice.

    Args:
        store: where they are.
        target: whose iterations.
        judge: the version of the evaluator; what another version said is not taken.
    """

    def __init__(self, store: MediaStore, target: Target, *, judge: str) -> None:
        self._store = store
        self._judge = judge
        named = orjson.dumps([target.asset_key, target.partition_key, target.scope])
        self._folder = f"{FOLDER}/{sha256(named).hexdigest()[:32]}"

    async def write(self, index: int, kept: Kept) -> None:
        """Keep an iteration all of whose steps succeeded.

        Raises:
            ConfigError: the evaluation's metadata is not JSON, or too large.
            StorageError: it could not be stored.
        """
        evaluation = kept.evaluation
        document = {
            "version": _VERSION,
            "cost_usd": kept.cost_usd,
            "judge": self._judge,
            "steps": {name: one.ref.to_dict() for name, one in kept.result.outcomes.items()},
            "evaluation": None
            if evaluation is None
            else {
                "passed": evaluation.passed,
                "score": evaluation.score,
                "feedback": evaluation.feedback,
                "metadata": dict(evaluation.metadata),
            },
        }
        try:
            body = orjson.dumps(document)
        except TypeError as exc:
            raise ConfigError(
                f"the evaluation of iteration {index} cannot be kept: it is not JSON ({exc}); "
                "put plain values into its metadata"
            ) from exc
        if len(body) > _MAX_BYTES:
            raise ConfigError(
                f"the evaluation of iteration {index} cannot be kept: it has {len(body)} bytes; "
                "shorten its feedback or metadata"
            )
        await self._store.put(self._key(index), body, media_type="application/json")

    async def read(self, index: int) -> Kept | None:
        """Return what an earlier attempt kept; None when there is nothing, or its media is gone.

        Raises:
            SchemaError: the record is damaged.
            StorageError: it cannot be read.
        """
        key = self._key(index)
        try:
            document = _document(await self._store.get(key, max_bytes=_MAX_BYTES))
            refs = {name: MediaRef.from_dict(ref) for name, ref in document["steps"].items()}
            evaluation = document["evaluation"]
            if document["judge"] != self._judge:
                evaluation = None
            judged = None if evaluation is None else EvaluationResult(**evaluation)
            cost_usd = document["cost_usd"]
        except NotFoundError:
            return None
        except (KeyError, TypeError, AttributeError, ValueError, ConfigError) as exc:
            raise SchemaError(
                f"{self._store.url}: {key} is not a record of an iteration "
                f"({type(exc).__name__}); delete it to have the iteration run again"
            ) from exc
        result = await self._restored(refs)
        return None if result is None else Kept(result, cost_usd, judged)

    def _key(self, index: int) -> str:
        return f"{self._folder}/{index}.json"

    async def _restored(self, refs: Mapping[str, MediaRef]) -> PipelineResult | None:
        media = [media.key for ref in refs.values() for media in ref.media]
        if not media or not all(await asyncio.gather(*(self._store.head(key) for key in media))):
            return None
        outcomes: dict[str, StepOutcome] = {}
        for name, ref in refs.items():
            try:
                manifest = await Media(ref, self._store).amanifest()
            except NotFoundError:
                return None
            outcomes[name] = StepOutcome(ref, manifest, Origin.FINISHED, 0.0, 0)
        manifest = list(outcomes.values())[-1].manifest
        return PipelineResult(manifest.run, manifest, self._store, outcomes)


def _document(body: bytes) -> dict[str, Any]:
    document: object = orjson.loads(body)
    if not isinstance(document, dict):
        raise TypeError("no object")
    fields = cast(dict[str, Any], document)
    if fields.get("version") != _VERSION:
        raise ValueError("of another version")
    return fields
