import base64
import hashlib
import random
import string
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.net.redact import REDACTED, find_secret, redact, strip_url

ALNUM = string.ascii_letters + string.digits


def token(length: int, alphabet: str = ALNUM, seed: int = 7) -> str:
    picked = random.Random(seed)  # noqa: S311
    return "aA1" + "".join(picked.choice(alphabet) for _ in range(length - 3))


SHAPED = {
    "openai": "sk-" + token(48),
    "openai project": "sk-proj-" + token(60, ALNUM + "-_"),
    "openai service account": "sk-svcacct-" + token(60),
    "anthropic": "sk-ant-api03-" + token(60, ALNUM + "-_"),
    "elevenlabs": "sk_" + token(48, "0123456789abcdef"),
    "runway": "key_" + "0123456789abcdef" * 8,
    "luma": "luma-" + str(uuid.UUID(int=5)) + "-" + str(uuid.UUID(int=6)),
    "nvidia": "nvapi-" + token(64, ALNUM + "-_"),
    "replicate": "r8_" + token(37),
    "hugging face": "hf_" + token(34),
    "github": "ghp_" + token(36),
    "github oauth": "gho_" + token(36),
    "github fine-grained": "github_pat_" + token(60),
    "slack": "xoxb-123456789012-" + token(24),
    "google": "AIza" + token(35, ALNUM + "-_"),
    "google oauth": "ya29." + token(40, ALNUM + "-_"),
    "aws key id": "AKIA" + "ABCDEFGH12345678",
    "aws temporary key id": "ASIA" + "ABCDEFGH12345678",
    "aws secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLE90",
    "b2 key 1": "K001" + token(27),
    "b2 key 3": "K003" + token(27, ALNUM + "+/"),
    "b2 key 5": "K005" + token(27),
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + token(40) + "." + token(43, ALNUM + "-_"),
    "fal": str(uuid.UUID(int=9)) + ":" + "0123456789abcdef" * 2,
}


@pytest.mark.parametrize("secret", SHAPED.values(), ids=SHAPED.keys())
@pytest.mark.parametrize("text", ["{}", "call failed: key {}.", "'{}'", "x={}&y=1", "path/{} end"])
def test_a_token_with_a_known_shape_is_removed_wherever_it_stands(secret: str, text: str) -> None:
    """Keys of every vendor and store are recognised by their own shape."""
    if text.startswith("path/") and secret.startswith(("AIza", "AKIA", "ASIA", "K0", "wJ")):
        text = text.replace("path/", "path ")
    cleaned = redact(text.format(secret))
    assert secret not in cleaned
    assert secret[8:24] not in cleaned
    assert REDACTED in cleaned


@pytest.mark.parametrize("secret", SHAPED.values(), ids=SHAPED.keys())
def test_parameters_that_hold_a_key_are_found(secret: str) -> None:
    """A key anywhere in nested parameters, also as bytes or in a key, is found with its path."""
    assert find_secret({"a": [{"b": secret}]}) == "a[0].b"
    assert find_secret({"raw": secret.encode()}) == "raw"
    assert find_secret(secret) == "value"
    path = find_secret({"outer": {secret: 1}})
    assert path is not None
    assert secret not in path


HINTED = {
    "bearer": ("Authorization: Bearer {}", token(24)),
    "lower-case bearer": ("bearer {}", token(24)),
    "token scheme": ("Token {}", token(40)),
    "key scheme": ("authorization: Key {}", token(20)),
    "basic": ("Authorization: Basic {}", base64.b64encode(b"me:pw12").decode()),
    "bare authorization": ("authorization={}", "0123456789abcdef" * 2),
    "json header": ('{{"Authorization": "Bearer {}"}}', token(24)),
    "api_key": ("api_key={}", token(24)),
    "apikey": ("apikey={}", token(24)),
    "api-key": ("api-key: {}", token(24)),
    "xi-api-key": ("'xi-api-key': '{}'", "0123456789abcdef" * 2),
    "aws secret, letters and digits only": ("aws_secret_access_key = {}", token(40)),
    "aws secret behind words": ("the AWS secret used was {}", token(40)),
    "aws session token": ("AWS_SESSION_TOKEN={}", token(80, ALNUM + "+/")),
    "b2 application key": ("applicationKey={}", token(24)),
    "client secret": ("client_secret: {}", token(24)),
    "password": ("password={}", "pa55-w0rd"),
    "signature": ("https://s3.test/b/k?X-Amz-Date=1&X-Amz-Signature={}&a=b", "abcdef012345"),
    "credential": ("https://s3.test/b/k?X-Amz-Credential={}&a=b", "user1%2F2026%2Fs3"),
    "security token": ("https://s3.test/b/k?X-Amz-Security-Token={}", "short1"),
    "gcs signature": ("https://g.test/b/k?X-Goog-Signature={}", "abcd1234"),
    "azure signature": ("https://a.test/k?sp=r&sig={}", "abc"),
    "aws v2 signature": ("https://s3.test/k?Signature={}&Expires=1", "abc%3D"),
    "escaped ampersand": ("https://a.test/k?sp=r&amp;sig={}", "abcd12"),
    "google key in a query": ("https://g.test/v1/models?key={}", "abcdef-ghijk"),
    "url password": ("https://user:{}@host.test/x", "pw1"),
    "url user and empty password": ("https://{}:@host.test/x", "token0123"),
}


@pytest.mark.parametrize(("text", "secret"), HINTED.values(), ids=HINTED.keys())
def test_a_value_beside_the_name_of_a_secret_is_removed(text: str, secret: str) -> None:
    """What has no shape of its own is recognised by what stands beside it."""
    cleaned = redact(f"before {text.format(secret)} after")
    assert secret not in cleaned
    assert cleaned.startswith("before ")
    assert REDACTED in cleaned


def test_the_rest_of_the_text_stays() -> None:
    """Only the secret goes; names, hosts and the parameters around it stay."""
    text = "GET https://u:pw@s3.test/b/k?X-Amz-Signature=abc&x=1 failed, api_key=" + token(20)
    assert redact(text) == (
        f"GET https://{REDACTED}@s3.test/b/k?X-Amz-Signature={REDACTED}&x=1 failed, "
        f"api_key={REDACTED}"
    )


INNOCENT = {
    "sha256": hashlib.sha256(b"x").hexdigest(),
    "sha1": hashlib.sha1(b"x", usedforsecurity=False).hexdigest(),
    "sha1 near aws": "aws etag " + hashlib.sha1(b"y", usedforsecurity=False).hexdigest(),
    "uuid": str(uuid.UUID(int=2**100)),
    "uuid7 run": "run 0199b5f0-7c1e-7d3a-9c58-4a1d6a6c2f11 of step 3",
    "prompt": "a skating fox, token of friendship, bearer of good news, on a key lime pie",
    "prompt with basics": "basic photography; secret garden: roses, password-protected diary",
    "limits": "max_tokens=32000000 is larger than the context_length of 128000",
    "s3 key": "genblaze/assets/ab/cd/" + hashlib.sha256(b"z").hexdigest() + ".png",
    "url": "https://cdn.example.com/a/b.png?width=1024&height=1024&fit=crop#top",
    "b2 url": "https://s3.us-west-004.backblazeb2.com/my-bucket/a%20b/x",
    "time": "2026-01-01T00:00:00.000000+00:00",
    "png": "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGM4IScHAAK2AQU0pnWqAAAAAElFTkSuQmCC",
    "python": "genblaze_dagster.providers.openai.images.DalleProvider.submit",
    "path": "/srv/Media1/projects/genblaze/outputs/partition-07/final.png",
    "kebab": "sk-learn task-management-with-many-words risk-assessment-of-everything-else",
    "model": "gpt-image-1.5 eleven_multilingual_v2 black-forest-labs/flux-1.1-pro-ultra",
    "port": "http://localhost:8080/path@2x.png",
    "ffmpeg": "-vf scale=1280:720,format=yuv420p -c:v libx264 -crf 23",
}


@pytest.mark.parametrize("text", INNOCENT.values(), ids=INNOCENT.keys())
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Hashes, ids, prompts, URLs, paths and base64 of images are not secrets."""
    assert redact(text) == text
    assert find_secret({"value": text}) is None


def test_random_base64_images_are_left_alone() -> None:
    """Base64 of binary data does not look like a key by chance."""
    picked = random.Random(3)  # noqa: S311
    for size in (60, 300, 3_000, 60_000):
        for _ in range(20):
            assert find_secret(base64.b64encode(picked.randbytes(size)).decode()) is None


@pytest.mark.parametrize(
    "params",
    [
        {"headers": {"x-api-key": "abcd"}},
        {"api_key": "abcdefgh"},
        {"openai_api_key": "abcdefgh"},
        {"aws": {"secret_access_key": "abcdefgh"}},
        {"Authorization": "abcdefgh"},
        {"password": "hunter2"},
    ],
)
def test_a_parameter_named_like_a_secret_is_found(params: dict[str, object]) -> None:
    """The name alone is enough, whatever the value looks like."""
    assert find_secret(params) is not None


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"max_tokens": 5, "keywords": ["a"], "key_frames": 3, "secretary": "Ann Example"},
        {"api_key": None},
        {"seed": 7, "loop": True, "nested": [[], {}, None, 1.5]},
    ],
)
def test_ordinary_parameters_pass(params: dict[str, object]) -> None:
    """Numbers, empty values and similar names are not secrets."""
    assert find_secret(params) is None


def test_parameters_that_contain_themselves_end() -> None:
    """A cycle or a very deep nesting is searched once and to its end."""
    loop: list[object] = []
    loop.append(loop)
    assert find_secret(loop) is None
    deep: object = "sk-" + token(40)
    for _ in range(5_000):
        deep = [deep]
    assert find_secret(deep) is not None


@given(st.integers(min_value=0, max_value=120), st.sampled_from(sorted(SHAPED)))
def test_a_secret_across_the_cut_is_never_half_shown(offset: int, name: str) -> None:
    """Wherever the cut falls, no piece of a secret longer than its public prefix remains."""
    secret = SHAPED[name]
    text = "x" * 99 + " " + secret + " tail" * 50
    cleaned = redact(text, max_chars=100 + offset)
    assert not any(secret[i : i + 12] in cleaned for i in range(len(secret) - 12))


def test_a_long_text_is_cut_and_says_so() -> None:
    """The result has at most the asked length and a note."""
    assert redact("word " * 100, max_chars=10) == "word word ...(truncated)"
    assert redact("word", max_chars=4) == "word"


HOSTILE = {
    "letters": "a",
    "colons": "://:",
    "login": "://a:",
    "at": "://a:b@",
    "jwt": "eyJaaaaaaa.",
    "dots": "aaaaaaaaaa.",
    "hints": "api_key=",
    "aws": "aws ",
    "secret": "secret",
    "slashes": "/aA1/",
    "bearer": "bearer ",
    "query": "?sig=",
    "spaces": " ",
    "password": "password=",
    "authorization": "authorization:" + " " * 3,
    "uuid": "01234567-",
    "dashes": "sk-proj-",
    "base64": "aB1+",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_takes_linear_time(unit: str) -> None:
    """Repeating any fragment of a pattern does not make the scan explode."""
    text = unit * (120_000 // len(unit))
    started = time.thread_time()
    redact(text, max_chars=len(text))
    find_secret(text)
    assert time.thread_time() - started < 5.0


@given(st.text(max_size=300))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    """Any text is accepted, and the result holds nothing left to remove."""
    once = redact(text)
    assert redact(once).replace(REDACTED, "") == once.replace(REDACTED, "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@Host.test:8443/a/b.png?sig=1#f", "https://host.test:8443/a/b.png"),
        ("https://host.test", "https://host.test"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("https://host.test:99999/x", "an unreadable URL"),
        ("https://[bad/x?key=1", "an unreadable URL"),
        ("data:image/png;base64,AAAA", "a data: URL"),
        ("file:///tmp/a.png?x=1", "file:///tmp/a.png"),
        ("plain/path?x=1", "plain/path"),
    ],
)
def test_a_shown_url_has_no_user_query_or_fragment(url: str, shown: str) -> None:
    """Messages name a URL without the parts that carry credentials."""
    assert strip_url(url) == shown
