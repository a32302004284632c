import asyncio
import os
import time
import uuid
from pathlib import Path

import pytest

from genblaze_dagster.errors import (
    ConfigError,
    InvalidRequestError,
    ProviderError,
    ProviderTimeoutError,
)
from genblaze_dagster.providers.ffmpeg import FFmpegTransform
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from tests.providers.ffmpeg_media import given, make

VERSION = "ffmpeg version 7.1 Copyright\nlibavcodec     61. 19.100 / 61. 19.100\n"


@pytest.fixture
def picture() -> InputMedia:
    return given(b"\x89PNG\r\n\x1a\n what follows is not looked at", "image/png")


def script(folder: Path, body: str, version: str = VERSION) -> str:
    """A program that calls itself ffmpeg and does something else."""
    program = folder / f"ffmpeg-{uuid.uuid4().hex[:8]}"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -version ]; then cat <<END\n{version}END\nexit; fi\n'
        f'here="{folder}"\nfor last; do :; done\nout="${{last#file:}}"\n{body}\n'
    )
    program.chmod(0o755)
    return str(program)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A killed child that nobody has waited for yet still has its number.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _alive(pid)


HANGS = 'sleep 600 & echo $! > "$here/child"; mv "$here/child" "$here/pid"; wait'


def test_what_takes_too_long_is_killed_with_its_children(
    tmp_path: Path, picture: InputMedia
) -> None:
    """The whole process group ends at the time limit; the error is final and typed."""
    program = script(tmp_path, HANGS)
    # On a busy machine it may be killed before it has any children.
    for limit in (0.5, 5.0, 50.0):
        slow = FFmpegTransform(ffmpeg_path=program, timeout=limit)
        with pytest.raises(ProviderTimeoutError, match=rf"within {limit:g} s") as late:
            make(slow, picture, operation="resize", width=8, height=8)
        assert not late.value.transient
        assert late.value.sent is False
        if (tmp_path / "pid").exists():
            break
    assert _gone(int((tmp_path / "pid").read_text()))


def test_cancelling_kills(tmp_path: Path, picture: InputMedia) -> None:
    """A cancelled submit leaves no process and no folder."""
    provider = FFmpegTransform(ffmpeg_path=script(tmp_path, f'pwd > "$here/cwd"; {HANGS}'))
    params = {"operation": "resize", "width": 8, "height": 8}

    async def body() -> None:
        request = GenerationRequest("ffmpeg", inputs=(picture,), params=params)
        task = asyncio.create_task(provider.submit(request))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    assert _gone(int((tmp_path / "pid").read_text()))
    assert not Path((tmp_path / "cwd").read_text().strip()).exists()


def test_ffmpeg_sees_files_only(
    tmp_path: Path, picture: InputMedia, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets names of its own folder, one allowed protocol, and no key of this process."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-ffmpeg")
    body = 'env > "$here/env"; echo "$@" > "$here/args"; echo x > "$out"'
    provider = FFmpegTransform(ffmpeg_path=script(tmp_path, body))
    make(provider, picture, operation="resize", width=8, height=8)
    assert "sk-not-for-ffmpeg" not in (tmp_path / "env").read_text()
    arguments = (tmp_path / "args").read_text()
    assert "-protocol_whitelist file" in arguments
    assert "-f png_pipe -i file:input0" in arguments
    assert "http" not in arguments


def test_what_ffmpeg_says_is_cut_and_redacted(tmp_path: Path, picture: InputMedia) -> None:
    """An error quotes little of it, and no secret."""
    secret = "sk-" + "a1B2" * 8
    body = f'echo "api_key={secret}" >&2; yes flood | head -c 300000 >&2; echo {secret} >&2; exit 1'
    provider = FFmpegTransform(ffmpeg_path=script(tmp_path, body))
    with pytest.raises(InvalidRequestError, match="could not resize the image") as refused:
        make(provider, picture, operation="resize", width=8, height=8)
    assert secret not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("exit 0", "wrote nothing"),
        ("kill -9 $$", "killed by signal 9"),
    ],
    ids=["nothing", "killed"],
)
def test_other_ends(body: str, said: str, tmp_path: Path, picture: InputMedia) -> None:
    """A missing file and a kill from outside are typed errors that nobody was paid for."""
    provider = FFmpegTransform(ffmpeg_path=script(tmp_path, body))
    with pytest.raises(ProviderError, match=said) as failed:
        make(provider, picture, operation="resize", width=8, height=8)
    assert failed.value.sent is False


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (
            "ffmpeg version 4.2.7\nlibavcodec     58. 54.100 / 58. 54.100\n",
            "4.2.7, which is too old",
        ),
        ("something else\n", "does not call itself ffmpeg"),
    ],
    ids=["old", "other"],
)
def test_an_unusable_ffmpeg_is_refused(
    version: str, said: str, tmp_path: Path, picture: InputMedia
) -> None:
    """Before anything runs, with both ways to get a usable one."""
    provider = FFmpegTransform(ffmpeg_path=script(tmp_path, "exit 0", version))
    with pytest.raises(ConfigError, match=said) as refused:
        make(provider, picture, operation="resize", width=8, height=8)
    assert "pip install 'genblaze-dagster[ffmpeg]'" in str(refused.value)
    assert "PATH" in str(refused.value)


def test_a_missing_ffmpeg_is_named(tmp_path: Path, picture: InputMedia) -> None:
    """A path that leads nowhere is a ConfigError, not a crash."""
    provider = FFmpegTransform(ffmpeg_path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="is not found"):
        make(provider, picture, operation="resize", width=8, height=8)
