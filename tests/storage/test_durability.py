"""A process that is killed leaves whole objects or none."""

import asyncio
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genblaze_dagster.storage.store import MediaStore

# Writes objects whose name is the hash of their content, as fast as it can, and says when one is
# acknowledged. Small ones go in one request, every third is large and goes in parts.
WRITER = """
import asyncio, hashlib, itertools, os, sys
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.options import StoreOptions
from genblaze_dagster.storage.store import MediaStore

store = MediaStore(sys.argv[1], options=StoreOptions(single_put_bytes=500_000))

async def pieces(data):
    for start in range(0, len(data), 300_000):
        yield data[start : start + 300_000]

async def main():
    for number in itertools.count():
        data = os.urandom(2_000_000 if number % 3 == 2 else 400_000)
        stored = await store.put_media(
            pieces(data), media_type=None, extension=None, placement=Placement("r", f"a{number}")
        )
        print(stored.key, flush=True)

asyncio.run(main())
"""


def _write_and_kill(url: str, after: float) -> list[str]:
    """Run the writer, kill -9 it after some seconds of writing, return what it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        first = process.stdout.readline()
        time.sleep(after)
        process.kill()
        rest = process.stdout.read()
    process.wait()
    lines = (first + rest).splitlines(keepends=True)
    return [line.strip() for line in lines if line.endswith("\n")]


def _check(url: str, acknowledged: list[str]) -> None:
    store = MediaStore(url)

    async def body() -> None:
        found = {info.key async for info in store.list("assets")}
        visible = {key for key in found if "/.tmp/" not in key}
        assert set(acknowledged) <= visible
        for key in visible:
            assert hashlib.sha256(await store.get(key)).hexdigest() == Path(key).name

    asyncio.run(body())


@pytest.mark.parametrize("after", [0.0, 0.05])
def test_kill_leaves_no_half_object(tmp_path: Path, after: float) -> None:
    """After kill -9 in the middle of writing every visible object is whole, all acknowledged are there."""
    acknowledged = _write_and_kill(tmp_path.as_uri(), after)
    assert acknowledged
    _check(tmp_path.as_uri(), acknowledged)


@pytest.mark.slow
def test_kill_leaves_no_half_object_many_times(tmp_path: Path) -> None:
    """Thirty kills at different moments, into the same directory."""
    for number in range(30):
        acknowledged = _write_and_kill(tmp_path.as_uri(), number * 0.011)
        _check(tmp_path.as_uri(), acknowledged)


def test_a_process_may_end_right_after_an_error(tmp_path: Path) -> None:
    """The interpreter waits for obstore's threads: no abort on exit, several times in a row."""
    code = (
        "import asyncio, sys\n"
        "from genblaze_dagster.errors import StorageError\n"
        "from genblaze_dagster.storage.options import StoreOptions\n"
        "from genblaze_dagster.storage.store import MediaStore\n"
        "store = MediaStore('s3://b', endpoint_url='http://127.0.0.1:9', access_key_id='a',\n"
        "                   secret_access_key='b', options=StoreOptions(max_retries=0))\n"
        "try:\n"
        "    asyncio.run(store.get('k'))\n"
        "except StorageError:\n"
        "    pass\n"
    )
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
