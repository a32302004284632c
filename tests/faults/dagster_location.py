"""A code location whose runs live in the worlds of the harness.

A run names its world by a tag; the order of that world is a file, so that a retry of the run, in
whatever process, gets the order as it is by then. Every world has an asset of its own, a slot.
"""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path

import dagster as dg
from pydantic import PrivateAttr

from genblaze_dagster import Pipeline, PromptTable
from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.io_manager import StoreIOManager
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.provider_resources import ProviderResource
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.resources import LedgerResource
from genblaze_dagster.storage.store import MediaStore
from tests.faults import network
from tests.faults.order import PRIVATE_PROMPT, PROMPT, STEP, Order
from tests.faults.parking import Parking, ParkingLedger
from tests.faults.provider import JOB_MODEL, NAME, ONE_CALL_MODEL
from tests.faults.worker import RETRY, provider_of, store_of
from tests.support import event_log

WORLD_TAG = "faults/world"
ROOT_VARIABLE = "GENBLAZE_FAULTS_WORLDS"
IN_PROCESS = "in_process"
APART = "apart"
ORDER_FILE = "order.json"
PARKED_FILE = "parked.json"
PIDS_FOLDER = "pids"
REQUEST_FILE = "request.json"
BEFORE_EVENT = "before-event"

PRELOAD = ("tests.faults.dagster_location", "alembic.script", "dagster._core.storage.sql")
SLOTS_OF_A_KIND = 8
PER_RUN = 2
TABLE = PromptTable.from_rows([{"key": f"p{n}", "subject": f"p{n}"} for n in range(8)])
_EVENTS_WAIT_SECONDS = 20.0


def pipeline_name(slot: int, model: str, private: bool) -> str:
    """Return the first part of a slot's asset key."""
    kind = f"{model}_{'private' if private else 'public'}".replace("-", "_")
    return f"{kind}_{slot}"


class Place:
    """What the resources of one process know of the world its run belongs to."""

    _network: tuple[int, str] | None = None

    def __init__(self, world: str) -> None:
        self.folder = Path(os.environ[ROOT_VARIABLE], world)
        self.order = Order.loads((self.folder / ORDER_FILE).read_text())
        self.parking = Parking(self.order.park, self._tell)
        pids = self.folder / PIDS_FOLDER
        pids.mkdir(exist_ok=True)
        (pids / str(os.getpid())).touch()
        self._reach_vendor()
        event_log.before_materialization[:] = [self._before_event]

    def _reach_vendor(self) -> None:
        wanted = (self.order.tls_port, self.order.certificate)
        if Place._network is None:
            network.install(*wanted)
            Place._network = wanted
        elif Place._network != wanted:
            raise ConfigError("a process of the harness serves the worlds of one vendor")

    def _tell(self, point: str) -> None:
        # Written whole or not at all: the harness may look at any moment.
        file = self.folder / f"{PARKED_FILE}.{os.getpid()}"
        file.write_text(json.dumps({"at": point, "pid": os.getpid()}))
        file.rename(self.folder / PARKED_FILE)

    def _before_event(self, partition: str | None) -> None:
        park = self.order.park
        if park is None or park.point != BEFORE_EVENT or park.partition not in (None, partition):
            return
        # The batch goes on beside this thread: let it finish, index included.
        for thread in threading.enumerate():
            if thread.name == "genblaze-batch":
                thread.join(_EVENTS_WAIT_SECONDS)
        self._tell(BEFORE_EVENT)
        threading.Event().wait()


def _place(context: dg.InitResourceContext) -> Place:
    run = context.dagster_run
    assert run is not None
    return Place(run.tags[WORLD_TAG])


class WorldMedia(StoreIOManager):
    """The bucket of the run's world."""

    _place: Place | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._place = _place(context)

    def open_store(self) -> MediaStore:
        assert self._place is not None
        return store_of(self._place.order)


class WorldLedger(LedgerResource):
    """The ledger of the run's world, which stops the process where its order says."""

    _place: Place | None = PrivateAttr(default=None)
    _opened: Ledger | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._place = _place(context)

    def get_ledger(self) -> Ledger:
        assert self._place is not None
        if self._opened is None:
            self._opened = ParkingLedger(self._place.order.ledger_url, self._place.parking)
        return self._opened

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._opened is not None:
            self._opened.close()


class WorldVendor(ProviderResource):
    """The vendor account of the run's world."""

    _place: Place | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._place = _place(context)

    def get_provider(self) -> Provider:
        assert self._place is not None
        return provider_of(self._place.order)


@lru_cache
def assets() -> Sequence[dg.AssetsDefinition]:
    """Return the asset of every slot."""
    kinds = product((JOB_MODEL, ONE_CALL_MODEL), (False, True), range(SLOTS_OF_A_KIND))
    return [
        asset
        for model, private, slot in kinds
        for asset in Pipeline(pipeline_name(slot, model, private))
        .step(
            NAME,
            model=model,
            name=STEP,
            prompt=PRIVATE_PROMPT if private else PROMPT,
            prompt_visibility=PromptVisibility.PRIVATE if private else PromptVisibility.PUBLIC,
            retry=RETRY,
            timeout=150,
        )
        .to_assets(
            partitions=TABLE,
            backfill_policy=dg.BackfillPolicy.multi_run(PER_RUN),
            retry_policy=dg.RetryPolicy(max_retries=1),
            provider_resources=[NAME],
        )
    ]


@dg.sensor(
    name="asked",
    job_name=IN_PROCESS,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def asked(_context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
    """Ask for one run of every world that has a request file, again at every tick."""
    for file in sorted(Path(os.environ[ROOT_VARIABLE]).glob(f"*/{REQUEST_FILE}")):
        wanted = json.loads(file.read_text())
        yield dg.RunRequest(
            run_key=file.parent.name,
            asset_selection=[dg.AssetKey(wanted["asset"])],
            tags=wanted["tags"],
        )


@lru_cache
def _definitions() -> dg.Definitions:
    apart = dg.multiprocess_executor.configured(
        {"start_method": {"forkserver": {"preload_modules": [*PRELOAD]}}}
    )
    return dg.Definitions(
        assets=assets(),
        jobs=[
            dg.define_asset_job(IN_PROCESS, assets(), executor_def=dg.in_process_executor),
            dg.define_asset_job(APART, assets(), executor_def=apart),
        ],
        sensors=[asked],
        resources={"media": WorldMedia(), "ledger": WorldLedger(), NAME: WorldVendor()},
        executor=dg.in_process_executor,
    )


def in_process() -> dg.JobDefinition:
    """Return the job that runs its step where it is."""
    return _definitions().resolve_job_def(IN_PROCESS)


def apart() -> dg.JobDefinition:
    """Return the job that runs its step in a process of its own."""
    return _definitions().resolve_job_def(APART)


defs = _definitions()
