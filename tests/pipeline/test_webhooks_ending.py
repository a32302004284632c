"""Programs that end, or fork, with events still queued."""

import os
import subprocess
import sys

import pytest

from genblaze_dagster.pipeline.webhook_queue import EXIT_SECONDS
from tests.pipeline.webhook_receiver import Receiver

ENDING = """
import sys
from genblaze_dagster.net.ssrf import UrlPolicy
from genblaze_dagster.net.webhooks import WebhookConfig
from genblaze_dagster.pipeline import webhook_queue
from genblaze_dagster.pipeline.webhooks import WebhookNotifier
webhook_queue.EXIT_SECONDS = float(sys.argv[2])
config = WebhookConfig(sys.argv[1], policy=UrlPolicy(allow_loopback=True), timeout=300)
notifier = WebhookNotifier(config)
for index in range(5):
    notifier.enqueue({"event": str(index)})
"""


def test_what_is_queued_when_the_program_ends_is_delivered(receiver: Receiver) -> None:
    """A script that forgets to close still delivers, also when the host must be resolved then."""
    url = receiver.url.replace("127.0.0.1", "localhost")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", ENDING, url, "60"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert receiver.events == ["0", "1", "2", "3", "4"]


def test_a_program_that_ends_does_not_wait_for_a_silent_receiver(receiver: Receiver) -> None:
    """At the end of the interpreter a receiver that says nothing has three seconds."""
    receiver.answers = [300.0]
    command = [sys.executable, "-c", ENDING, receiver.url, str(EXIT_SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "closed; events are dropped" in done.stderr
    assert EXIT_SECONDS == 3


FORKING = """
import os, sys, time
from genblaze_dagster.net.ssrf import UrlPolicy
from genblaze_dagster.net.webhooks import WebhookConfig
from genblaze_dagster.pipeline.webhooks import WebhookNotifier
config = WebhookConfig(sys.argv[1], policy=UrlPolicy(allow_loopback=True))
notifier = WebhookNotifier(config)
notifier.enqueue({"event": "parent-0"})
# What the thread imports is imported; a fork in the middle of an import would hang any program.
while not notifier.delivered_count:
    time.sleep(0.01)
for index in range(1, 20):
    notifier.enqueue({"event": f"parent-{index}"})
pid = os.fork()
notifier.enqueue({"event": f"after-{pid == 0}"})
notifier.close(60)
if pid == 0:
    os._exit(0 if notifier.delivered_count == 1 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_every_event_is_delivered_once(receiver: Receiver) -> None:
    """The child delivers its own events and leaves those queued before to its parent."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, receiver.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    mine = [f"parent-{index}" for index in range(20)]
    assert sorted(receiver.events) == sorted([*mine, "after-True", "after-False"])
