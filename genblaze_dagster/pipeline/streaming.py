"""A run as a stream: its events when they happen, for async and for sync code."""

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

from genblaze_dagster.pipeline.announcing import StreamListener
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.execution import execute
from genblaze_dagster.pipeline.stream_events import StreamEvent


async def astream(
    pipeline: Pipeline, *, heartbeats: bool = True, **options: Any
) -> AsyncGenerator[StreamEvent]:
    """Run a pipeline and yield its events when they happen; see `Runs.astream`."""
    events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
    running = asyncio.ensure_future(execute(pipeline, **_listening(options, events.put_nowait)))
    running.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while (event := await events.get()) is not None:
            if heartbeats or not event.is_heartbeat:
                yield event
    finally:
        # Left before the end: what runs is cancelled, and cleans up before anybody goes on.
        running.cancel()
        await asyncio.wait({running})
        if not running.cancelled():
            # Whoever has left does not ask for it.
            running.exception()
    await running


def stream(
    pipeline: Pipeline, *, heartbeats: bool = True, **options: Any
) -> Generator[StreamEvent]:
    """Run a pipeline on a thread and yield its events when they happen; see `Runs.stream`."""
    events: queue.SimpleQueue[StreamEvent | BaseException | None] = queue.SimpleQueue()
    loop_of: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    left = threading.Event()

    async def body() -> None:
        running = asyncio.ensure_future(execute(pipeline, **_listening(options, events.put)))
        loop_of.append((asyncio.get_running_loop(), running))
        if left.is_set():
            running.cancel()
        await running

    def work() -> None:
        try:
            asyncio.run(body())
        except BaseException as exc:
            events.put(exc)
        else:
            events.put(None)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="genblaze-stream")
    thread.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            if heartbeats or not event.is_heartbeat:
                yield event
    finally:
        left.set()
        for loop, running in loop_of:
            _cancel(loop, running)
        thread.join()


def _cancel(loop: asyncio.AbstractEventLoop, running: "asyncio.Task[Any]") -> None:
    try:
        loop.call_soon_threadsafe(running.cancel)
    except RuntimeError:
        # It ended meanwhile, and its loop with it.
        return


def _listening(options: dict[str, Any], listener: StreamListener) -> dict[str, Any]:
    return {**options, "on_stream": [listener, *options.get("on_stream", ())]}
