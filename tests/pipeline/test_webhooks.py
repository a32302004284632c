import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import pytest

from genblaze_dagster.core.enums import RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.errors import ConfigError, WebhookError
from genblaze_dagster.net.webhooks import WebhookConfig, WebhookPoster
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType
from genblaze_dagster.pipeline.webhooks import WebhookEvent, WebhookNotifier, WebhookSink
from genblaze_dagster.providers.base import ProgressEvent
from genblaze_dagster.storage.store import MediaStore
from tests.pipeline.webhook_receiver import KEY, SECRET, Posted, Receiver

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for what is queued as long as a slow machine needs, unless told otherwise."""
    for close in (WebhookNotifier.close, WebhookNotifier.aclose):
        monkeypatch.setattr(close, "__defaults__", (60.0,))


quick = partial(WebhookPoster, uniform=lambda low, high: 0.01)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def a_run(run_id: str = "r", *, failed: bool = False) -> Run:
    status = StepStatus.FAILED if failed else StepStatus.SUCCEEDED
    step = Step(model="m", provider="p", run_id=run_id, prompt="foxes", status=status)
    ended = RunStatus.FAILED if failed else RunStatus.COMPLETED
    return Run(run_id=run_id, steps=[step], status=ended)


@dataclass(frozen=True)
class Finished:
    step_index: int
    total_steps: int
    step: Step
    elapsed_sec: float


def verified(posted: Posted, key: bytes = KEY) -> bool:
    """Check a signature as the Standard Webhooks specification says, with nothing of ours."""
    names = ("webhook-id", "webhook-timestamp")
    content = b".".join([*(posted.headers[name].encode() for name in names), posted.body])
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return posted.headers["webhook-signature"] == f"v1,{expected}"


def test_callbacks_send_genblazes_bodies_signed(receiver: Receiver, store: MediaStore) -> None:
    """The callbacks of a run post the documented bodies in order, each with a valid signature."""
    run = a_run()
    step = run.steps[0]
    manifest = Manifest.from_run(run)
    config = receiver.config(headers={"X-Team": "é media"})
    with WebhookNotifier(config, clock=lambda: MOMENT) as notifier:
        notifier.notify_pipeline_started("r", "film", 1)
        progress = notifier.make_on_progress()
        for status in ("submitted", "processing", "succeeded"):
            progress(ProgressEvent(step.step_id, "p", "m", status, None, 0.1))
        notifier.make_on_step_complete()(Finished(0, 1, step, 1.23456))
        result = PipelineResult(run, manifest, store)
        notifier.notify_pipeline_completed(result, canonical_hash=manifest.canonical_hash)
        notifier.close()
        assert (notifier.delivered_count, notifier.failed_count, notifier.dropped_count) == (
            4,
            0,
            0,
        )
    stamp = "2026-01-02T03:04:05+00:00"
    who = {"step_id": step.step_id, "provider": "p", "model": "m"}
    assert [one.event for one in receiver.posted] == [
        {
            "event": "pipeline.started",
            "run_id": "r",
            "pipeline_name": "film",
            "step_count": 1,
            "timestamp": stamp,
        },
        {"event": "step.started", **who, "timestamp": stamp},
        {
            "event": "step.completed",
            **who,
            "step_index": 0,
            "total_steps": 1,
            "status": "succeeded",
            "elapsed_sec": 1.23,
            "run_id": "r",
            "timestamp": stamp,
        },
        {
            "event": "pipeline.completed",
            "run_id": "r",
            "status": "completed",
            "step_count": 1,
            "canonical_hash": manifest.canonical_hash,
            "timestamp": stamp,
        },
    ]
    assert all(verified(one) for one in receiver.posted)
    assert not any(verified(one, os.urandom(32)) for one in receiver.posted)
    assert len({one.headers["webhook-id"] for one in receiver.posted}) == 4
    first = receiver.posted[0]
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < 60
    assert first.headers["content-type"] == "application/json"
    assert first.headers["x-team"] == "é media"
    assert first.body == json.dumps(first.event).encode()
    assert b"foxes" not in b"".join(one.body for one in receiver.posted)


def test_stream_events_become_webhooks(receiver: Receiver, store: MediaStore) -> None:
    """Fed with a stream, the notifier tells what webhooks know and passes over the rest."""
    where = {"run_id": "r", "step_id": "s", "provider": "p", "model": "m"}
    place = where | {"step_index": 0, "total_steps": 1}
    result = PipelineResult(a_run(failed=True), Manifest.from_run(a_run(failed=True)), store)
    events = [
        StreamEvent(type=StreamEventType.PIPELINE_STARTED, run_id="r", total_steps=1),
        StreamEvent(type=StreamEventType.STEP_QUEUED, **place, reason="serial"),
        StreamEvent(type=StreamEventType.STEP_STARTED, **place),
        StreamEvent(type=StreamEventType.STEP_PROGRESS, **where),
        StreamEvent(type=StreamEventType.STEP_FAILED, **place, elapsed_sec=2.0, error="foxes"),
        StreamEvent(
            type=StreamEventType.PIPELINE_FAILED,
            run_id="r",
            run_status="failed",
            manifest_hash="a" * 64,
            result=result,
        ),
    ]
    with WebhookNotifier(receiver.config()) as notifier:
        for event in events:
            notifier.on_event(event)
    assert receiver.events == ["pipeline.started", "step.started", "step.failed", "pipeline.failed"]
    ended = receiver.posted[-1].event
    assert (ended["step_count"], ended["canonical_hash"]) == (1, "a" * 64)
    assert ended["timestamp"] == events[-1].timestamp.isoformat()
    assert b"foxes" not in receiver.posted[2].body


def test_the_sink_posts_one_event_per_run(receiver: Receiver) -> None:
    """A sink tells the end of each run with its canonical hash, and closing delivers all."""
    runs = [a_run("a"), a_run("b", failed=True)]
    with WebhookSink(receiver.config()) as sink:
        for run in runs:
            sink.write_run(run, Manifest.from_run(run))
    by_run = {one.event["run_id"]: one.event for one in receiver.posted}
    assert [by_run[name]["event"] for name in "ab"] == ["pipeline.completed", "pipeline.failed"]
    assert by_run["a"]["canonical_hash"] == Manifest.from_run(runs[0]).canonical_hash


@pytest.mark.parametrize(
    "answers",
    [[500, 503], ["reset", 502], [429, (408, {"retry-after": "0"})]],
    ids=["5xx", "reset", "asked-to-wait"],
)
def test_transient_failures_are_tried_again(receiver: Receiver, answers: list[object]) -> None:
    """Server errors, resets and 429 are retried under one id, each attempt signed."""
    receiver.answers = answers
    with WebhookNotifier(receiver.config(), poster=quick) as notifier:
        notifier.enqueue({"event": "mine"})
    assert len(receiver.posted) == 3
    assert_delivered_once(receiver, notifier)


def test_a_silent_receiver_is_tried_again(receiver: Receiver) -> None:
    """What is not answered in its time is retried under the same id."""
    receiver.answers = [300.0, 500]
    # A slow machine may be as silent once more: there is room for further attempts.
    config = receiver.config(timeout=1, max_retries=20)
    with WebhookNotifier(config, poster=quick) as notifier:
        notifier.enqueue({"event": "mine"})
    assert len(receiver.posted) >= 3
    assert_delivered_once(receiver, notifier)


def assert_delivered_once(receiver: Receiver, notifier: WebhookNotifier) -> None:
    assert len({one.headers["webhook-id"] for one in receiver.posted}) == 1
    assert all(verified(one) for one in receiver.posted)
    assert (notifier.delivered_count, notifier.failed_count) == (1, 0)


def test_after_its_retries_an_event_is_given_up_and_the_next_has_its_turn(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """What the receiver never takes is counted, typed and logged without its URL."""
    receiver.answers = [500, 500, 500]
    with WebhookNotifier(receiver.config(), poster=quick) as notifier:
        notifier.enqueue({"event": "first"})
        notifier.enqueue({"event": "second"})
    assert receiver.events == ["first"] * 3 + ["second"]
    assert (notifier.delivered_count, notifier.failed_count) == (1, 1)
    error = notifier.last_error
    assert error is not None
    assert (error.http_status, error.transient) == (500, True)
    assert error.delivery_id == receiver.posted[0].headers["webhook-id"]
    assert "hidden-path" not in caplog.text + repr(error) + repr(receiver.config())
    assert SECRET not in caplog.text + repr(receiver.config())


@pytest.mark.parametrize("status", [400, 401, 404, 302, 307, 304])
def test_refusals_and_redirects_are_final(receiver: Receiver, status: int) -> None:
    """4xx and 3xx are not tried again, and a redirect to a private address leads nowhere."""
    receiver.answers = [(status, {"location": "http://10.0.0.1/inside"})]
    with WebhookNotifier(receiver.config(), poster=quick) as notifier:
        notifier.enqueue({"event": "mine"})
    assert len(receiver.posted) == 1
    assert notifier.failed_count == 1
    assert notifier.last_error is not None
    assert notifier.last_error.http_status == status


def test_a_receiver_that_is_gone_gets_nothing_more(receiver: Receiver) -> None:
    """After a 410 every further event is dropped and counted."""
    receiver.answers = [410]
    with WebhookNotifier(receiver.config()) as notifier:
        notifier.enqueue({"event": "first"})
        wait_until(lambda: notifier.failed_count == 1)
        notifier.enqueue({"event": "second"})
    assert receiver.events == ["first"]
    assert notifier.dropped_count == 1


def test_private_addresses_are_refused_when_connecting(receiver: Receiver) -> None:
    """A public name that resolves to a private address is not contacted and not tried again."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["8.8.8.8", "10.0.0.7"]

    config = WebhookConfig("https://hooks.example.com/T0/hidden-path")
    with WebhookNotifier(config, poster=partial(quick, resolve=resolve)) as notifier:
        notifier.enqueue({"event": "mine"})
    assert asked == ["hooks.example.com"]
    error = notifier.last_error
    assert error is not None
    assert not error.transient
    assert "hooks.example.com" in str(error)
    assert "10.0.0.7" not in str(error)
    assert "hidden-path" not in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/x",
        "https://localhost/x",
        "https://127.0.0.1/x",
        "https://169.254.169.254/latest",
        "https://[::1]/x",
        "https:///hidden-path",
        "https://user:hidden-path@hooks.example.com/",
        "https://hooks.example.com:99999/hidden-path",
        "https://[bad/hidden-path",
        "hidden-path",
        "",
    ],
)
def test_urls_that_are_not_public_https_are_refused_at_once(url: str) -> None:
    """A bad URL is a WebhookError when it is configured, and the message shows no path."""
    with pytest.raises(WebhookError, match=r"^WebhookConfig\.url") as caught:
        WebhookConfig(url)
    assert "hidden-path" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_retries": -1},
        {"secret": "short"},
        {"secret": "whsec_not base64!hidden"},
        {"secret": "whsec_aGlkZGVu"},
        {"headers": {"X-Key": "hidden\r\nHost: evil"}},
        {"headers": {"bad name": "hidden"}},
        {"headers": {"Webhook-Signature": "v1,hidden"}},
        {"headers": {"Content-Length": "1"}},
    ],
    ids=["none", "nan", "retries", "short", "no-base64", "few", "break", "name", "ours", "length"],
)
def test_unusable_settings_name_the_field(fields: dict) -> None:
    """Settings that cannot work are a ConfigError naming the field, without its secret value."""
    name = next(iter(fields))
    with pytest.raises(ConfigError, match=rf"WebhookConfig\.{name}") as caught:
        WebhookConfig("https://hooks.example.com/x", **fields)
    assert "hidden" not in str(caught.value)


def test_events_of_a_run_keep_their_order_and_runs_do_not_wait_for_each_other(
    receiver: Receiver,
) -> None:
    """A silent answer holds back its own run only; within every run the order is kept."""
    receiver.answers = [300.0]
    with WebhookNotifier(receiver.config(timeout=300)) as notifier:
        notifier.notify_pipeline_started("stuck", None, 1)
        wait_until(lambda: len(receiver.posted) == 1)
        notifier.enqueue({"event": "behind", "run_id": "stuck"})
        for index in range(40):
            notifier.enqueue({"event": str(index), "run_id": f"run-{index % 4}"})
        wait_until(lambda: len(receiver.posted) == 41)
        receiver.released.set()
    assert receiver.events[-1] == "behind"
    for lane in range(4):
        mine = [e for e in receiver.events[1:-1] if int(e) % 4 == lane]
        assert mine == [str(index) for index in range(lane, 40, 4)]


def test_a_full_queue_drops_the_newest_and_never_waits(receiver: Receiver) -> None:
    """With the receiver silent, putting takes no time and what does not fit is counted."""
    receiver.answers = [300.0]
    notifier = WebhookNotifier(receiver.config(timeout=300), queue_maxsize=3)
    started = time.monotonic()
    for index in range(10):
        notifier.enqueue({"event": str(index)})
    assert time.monotonic() - started < 60
    assert notifier.dropped_count == 7
    receiver.released.set()
    notifier.close()
    assert receiver.events == ["0", "1", "2"]


def test_closing_takes_no_longer_than_it_may(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not delivered in time is dropped and counted, and the thread is gone."""
    receiver.answers = [300.0]
    notifier = WebhookNotifier(receiver.config(timeout=300))
    for name in ("first", "second"):
        notifier.enqueue({"event": name})
    wait_until(lambda: len(receiver.posted) == 1)
    started = time.monotonic()
    notifier.close(timeout=0.1)
    notifier.close()
    notifier.enqueue({"event": "third"})
    assert time.monotonic() - started < 50
    assert notifier.dropped_count == 3
    assert "closed" in caplog.text
    wait_until(lambda: "genblaze-webhooks" not in [t.name for t in threading.enumerate()])


def test_the_thread_rests_when_idle_and_comes_back(receiver: Receiver) -> None:
    """Without work there is no thread; the next event starts another."""
    notifier = WebhookNotifier(receiver.config())
    for count in (1, 2):
        notifier.enqueue({"event": str(count)})
        wait_until(lambda count=count: notifier.delivered_count == count)
        wait_until(lambda: "genblaze-webhooks" not in [t.name for t in threading.enumerate()])
    notifier.close()
    assert receiver.events == ["1", "2"]


def test_only_wanted_events_are_sent(receiver: Receiver) -> None:
    """`include_events` lets through what it names, enum members or text."""
    config = receiver.config(include_events={WebhookEvent.PIPELINE_FAILED, "mine"})
    with WebhookNotifier(config) as notifier:
        for event in ("pipeline.started", "pipeline.failed", "mine"):
            notifier.enqueue({"event": event})
    assert sorted(receiver.events) == ["mine", "pipeline.failed"]


def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    """Unsigned deliveries still carry id and timestamp; a plain text secret signs with itself."""
    with WebhookNotifier(receiver.config(secret=None)) as notifier:
        notifier.enqueue({"event": "mine"})
    headers = receiver.posted[0].headers
    assert "webhook-signature" not in headers
    assert headers["webhook-id"].startswith("msg_")
    plain = "correct horse battery"
    with WebhookNotifier(receiver.config(secret=plain)) as notifier:
        notifier.enqueue({"event": "mine"})
    assert verified(receiver.posted[1], plain.encode())


@pytest.mark.parametrize(
    "payload",
    [{"event": object()}, {"event": "x", "n": float("nan")}, {"event": "x", "t": "a" * 300_000}],
    ids=["object", "nan", "huge"],
)
def test_payloads_without_a_json_form_are_refused(payload: dict) -> None:
    """A payload of the caller's that cannot be sent is told at once, and nothing is started."""
    notifier = WebhookNotifier(WebhookConfig("https://hooks.example.com/x"))
    with pytest.raises(ConfigError, match="webhook payload"):
        notifier.enqueue(payload)
    notifier.close()


def test_closing_in_async_code_delivers_too(receiver: Receiver) -> None:
    """`aclose` waits for the queue while the loop goes on."""

    async def use() -> None:
        sink = WebhookSink(receiver.config(), poster=quick)
        await sink.awrite_run(a_run(), Manifest.from_run(a_run()))
        closing = asyncio.create_task(sink.aclose())
        while len(receiver.posted) < 3 and not closing.done():
            await asyncio.sleep(0.01)
        # Only a loop that goes on comes here before the last answer.
        assert not closing.done()
        receiver.released.set()
        await closing

    receiver.answers = [500, 500, 300.0]
    asyncio.run(use())
    assert receiver.events == ["pipeline.completed"] * 3


def test_nothing_of_a_delivery_is_in_the_logs(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Even at level debug neither path, token, secret nor body is logged."""
    caplog.set_level(logging.DEBUG)
    config = receiver.config(headers={"Authorization": "Bearer tok-hidden-1234567890"})
    with WebhookNotifier(config) as notifier:
        notifier.enqueue({"event": "mine", "text": "body-hidden"})
    assert len(receiver.posted) == 1
    assert "hidden" not in caplog.text
    assert SECRET not in caplog.text
