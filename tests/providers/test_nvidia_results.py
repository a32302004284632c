import base64
import io
import json
import zipfile

import pytest

from genblaze_dagster.net.client import HttpAnswer
from genblaze_dagster.providers.nvidia.results import UnreadableError, read_files

MP4 = b"\0\0\0\x18ftypmp42" + bytes(12)
TEXT = base64.b64encode(MP4).decode()


def answer(content: bytes | dict[str, object]) -> HttpAnswer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HttpAnswer(200, {}, body)


def archive(**members: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name.replace("_", "."), data)
    return whole.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        {"b64_video": TEXT},
        {"video": TEXT},
        {"artifacts": [{"base64": TEXT, "finishReason": "SUCCESS", "seed": 1}]},
        {"image": f"data:video/mp4;base64,{TEXT}", "finish_reason": "SUCCESS"},
        archive(readme_txt=b"x", video_mp4=MP4),
        archive(other_mp4=MP4, notes_txt=b"x"),
        MP4,
    ],
    ids=["b64_video", "video", "artifacts", "data-uri", "zip", "zip-other-name", "raw"],
)
def test_every_form_of_a_result_is_read(content: bytes | dict[str, object]) -> None:
    """The file is the same, whatever it is wrapped in."""
    assert read_files(answer(content)).data == [MP4]


def test_pictures_that_are_missing_do_not_cost_those_that_are_there() -> None:
    """One filtered picture among others is told, and the others are kept."""
    files = read_files(
        answer({"artifacts": [{"base64": TEXT, "seed": 7}, {"finishReason": "CONTENT_FILTERED"}]})
    )
    assert (files.data, files.seeds, files.reasons) == ([MP4], [7], ["CONTENT_FILTERED"])


def test_a_picture_that_is_broken_does_not_cost_the_others() -> None:
    """All of them are paid, so those that can be read are kept."""
    good = base64.b64encode(b"one").decode()
    found = read_files(answer({"artifacts": [{"base64": "%"}, {"base64": good, "seed": 7}]}))
    assert (found.data, found.seeds, found.reasons) == ([b"one"], [7], ["UNREADABLE"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "neither JSON nor"),
        (b"<html>busy</html>", "neither JSON nor"),
        (b"[]", "neither JSON nor"),
        ({}, "no file"),
        ({"artifacts": []}, "no file"),
        ({"artifacts": ["x", None, {"base64": 5}]}, "no file"),
        ({"video": "not base64!"}, "broken base64"),
        (b"PK\x03\x04 torn", "archive cannot be read"),
        (archive(video_mp4=MP4)[:60], "archive cannot be read"),
        (archive(notes_txt=b"x"), "no media file"),
        (archive(video_mp4=b""), "empty"),
    ],
    ids=[
        "empty",
        "html",
        "list",
        "object",
        "no-artifact",
        "odd-artifacts",
        "base64",
        "torn",
        "cut",
        "no-media",
        "empty-member",
    ],
)
def test_what_holds_no_file_says_so(content: bytes | dict[str, object], says: str) -> None:
    """Whatever the answer is, the reason is one sentence and the same error."""
    with pytest.raises(UnreadableError, match=says):
        read_files(answer(content))
