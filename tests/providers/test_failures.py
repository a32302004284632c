import socket
import subprocess
import urllib.error
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import ProviderErrorCode
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.failures import Phase, error_for_code, typed_error
from genblaze_dagster.providers.retry import is_ambiguous


def classify(error: BaseException, **options: Any) -> ProviderError:
    options = {"phase": Phase.SUBMIT, "provider": "vendor", **options}
    typed = typed_error(error, **options)
    assert isinstance(typed, ProviderError)
    return typed


def carrying(text: str = "failed", **attributes: Any) -> Exception:
    error = Exception(text)
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    "text",
    [
        "the author timed out of 429 images",
        "took 1400 ms for 15000 tokens",
        "invalid api_key, unauthorized 401",
        "404 not found",
    ],
)
def test_words_decide_nothing(text: str) -> None:
    """A message full of status codes is an unknown, ambiguous error."""
    typed = classify(RuntimeError(text))
    assert (type(typed), typed.code, typed.sent) == (ProviderError, ProviderErrorCode.UNKNOWN, None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, AuthError),
        (402, QuotaError),
        (403, AuthError),
        (408, ProviderTimeoutError),
        (410, ModelError),
        (422, InvalidRequestError),
        (429, RateLimitError),
        (500, ProviderUnavailableError),
        (503, ProviderUnavailableError),
        (504, ProviderTimeoutError),
    ],
)
def test_a_status_decides_wherever_it_stands(status: int, kind: type[ProviderError]) -> None:
    """SDKs keep the status on the error or on its response."""
    for error in (
        carrying(status_code=status),
        carrying(http_status=status),
        carrying(code=status),
        carrying(response=SimpleNamespace(status_code=status, headers={})),
    ):
        typed = classify(error)
        assert (type(typed), typed.http_status, typed.sent) == (kind, status, True)


def test_a_vendor_code_goes_before_the_status() -> None:
    """A 400 for a refused prompt is a matter of policy."""
    typed = classify(carrying(code="content_policy_violation", status_code=400))
    assert isinstance(typed, ContentPolicyError)
    assert typed.vendor_code == "content_policy_violation"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7.0), ({"retry-after-ms": "1500"}, 1.5), ({}, None)],
    ids=["seconds", "milliseconds", "none"],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    """What the vendor asks to wait comes from its headers, whatever their case."""
    response = SimpleNamespace(status_code=429, headers=headers)
    assert classify(carrying(response=response)).retry_after == seconds


REQUEST = httpx.Request("POST", "https://vendor.test")


def _wrapped(inner: Exception) -> Exception:
    try:
        raise RuntimeError("connection error") from inner
    except RuntimeError as exc:
        return exc


@pytest.mark.parametrize(
    ("error", "kind", "sent"),
    [
        (httpx.ConnectError("no", request=REQUEST), ProviderUnavailableError, False),
        (httpx.ConnectTimeout("no", request=REQUEST), ProviderTimeoutError, False),
        (httpx.PoolTimeout("no", request=REQUEST), ProviderTimeoutError, False),
        (httpx.ReadTimeout("no", request=REQUEST), ProviderTimeoutError, None),
        (httpx.ReadError("no", request=REQUEST), ProviderUnavailableError, None),
        (_wrapped(httpx.ConnectError("no", request=REQUEST)), ProviderUnavailableError, False),
        (_wrapped(httpx.ReadTimeout("no", request=REQUEST)), ProviderTimeoutError, None),
        (ConnectionRefusedError(), ProviderUnavailableError, False),
        (ConnectionResetError(), ProviderUnavailableError, None),
        (socket.gaierror(), ProviderUnavailableError, False),
        (urllib.error.URLError(ConnectionRefusedError()), ProviderUnavailableError, False),
        (TimeoutError(), ProviderTimeoutError, None),
        (SystemExit(1), ProviderError, None),
        (StopIteration(), ProviderError, None),
        (subprocess.CalledProcessError(429, "x"), ProviderError, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exception_classes_say_whether_it_was_sent(
    error: BaseException, kind: type[ProviderError], sent: bool | None
) -> None:
    """Only what is raised before a connection stands proves that nothing was sent."""
    typed = classify(error)
    assert (type(typed), typed.sent) == (kind, sent)


def test_requests_connect_failures_are_known_by_their_reason() -> None:
    """requests wraps urllib3, which says whether the connection ever stood."""
    requests = pytest.importorskip("requests")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(requests.ConnectionError) as refused:
        requests.post(f"http://127.0.0.1:{port}/", timeout=60)
    assert classify(refused.value).sent is False
    assert classify(requests.ConnectionError("broken pipe")).sent is None
    assert isinstance(classify(requests.ReadTimeout("slow")), ProviderTimeoutError)


def test_what_merely_happened_before_is_no_cause() -> None:
    """An error raised while another is handled is judged by itself."""
    error = RuntimeError("the second host hung up")
    error.__context__ = ConnectionRefusedError()
    assert classify(error).sent is None


def _meaning(code: ProviderErrorCode, cause: BaseException | None, **details: Any) -> Exception:
    """What an adapter raises on purpose, having read an error of its SDK."""
    try:
        raise ProviderError("as the adapter sees it", code=code, **details) from cause
    except ProviderError as exc:
        return exc


_SERVER, _TIMEOUT = ProviderErrorCode.SERVER_ERROR, ProviderErrorCode.TIMEOUT
_UNKNOWN, _INVALID = ProviderErrorCode.UNKNOWN, ProviderErrorCode.INVALID_INPUT


@pytest.mark.parametrize(
    ("error", "sent", "ambiguous"),
    [
        (_meaning(_SERVER, None), None, True),
        (_meaning(_TIMEOUT, None), None, True),
        (_meaning(_SERVER, None, sent=False), False, False),
        (_meaning(_SERVER, None, http_status=503), True, True),
        (_meaning(_SERVER, httpx.ConnectError("no", request=REQUEST)), False, False),
        (_meaning(_SERVER, httpx.ReadError("no", request=REQUEST)), None, True),
        (_meaning(_SERVER, carrying(status_code=503)), True, True),
        (_meaning(_SERVER, carrying(status_code=400)), True, False),
        (_meaning(_TIMEOUT, ConnectionRefusedError()), False, False),
        (_meaning(_TIMEOUT, TimeoutError()), None, True),
        (_meaning(_UNKNOWN, None), True, False),
        (_meaning(_UNKNOWN, TimeoutError()), None, True),
        (_meaning(_UNKNOWN, ConnectionResetError()), None, True),
        (_meaning(_UNKNOWN, ConnectionRefusedError()), False, False),
        (_meaning(_UNKNOWN, carrying(status_code=502)), True, True),
        (_meaning(_UNKNOWN, carrying(status_code=422)), True, False),
        (_meaning(_INVALID, TimeoutError()), True, False),
        (ProviderUnavailableError("down"), None, True),
        (carrying(error_code="server_error"), None, True),
        (carrying(error_code="timeout"), None, True),
        (carrying(error_code="invalid_input"), True, False),
    ],
)
def test_a_failed_submit_is_a_refusal_only_if_the_vendor_has_said_something(
    error: Exception, sent: bool | None, ambiguous: bool
) -> None:
    """That the vendor failed, or took too long, does not say that it took nothing on."""
    typed = classify(error)
    assert (typed.sent, is_ambiguous(typed)) == (sent, ambiguous)


def test_a_submit_of_several_requests_proves_nothing() -> None:
    """After the paid request a failure to connect, or a 429, may come from a later one."""
    for error in (ConnectionRefusedError(), RateLimitError("429")):
        assert classify(error, one_request=False).sent is None
    assert classify(AuthError("no key"), one_request=False).sent is True


def test_plain_errors_with_a_code_get_their_class() -> None:
    """`ProviderError(code=...)` behaves as its code says; a class of its own is kept."""
    for code in ProviderErrorCode:
        typed = classify(ProviderError("x", code=code, retry_after=3.0))
        assert (typed.code, typed.transient) == (code, code.retryable)
        assert typed.retry_after == 3.0
    own = QuotaError("empty")
    assert classify(own) is own


def test_an_unclear_error_raised_on_purpose_by_a_poll_ends_the_job() -> None:
    """A poll that raises ProviderError says that the job failed; a bug in it says nothing."""
    assert isinstance(classify(ProviderError("failed"), phase=Phase.POLL), ModelError)
    assert classify(ProviderError("failed"), phase=Phase.POLL).code is ProviderErrorCode.UNKNOWN
    assert type(classify(KeyError("state"), phase=Phase.POLL)) is ProviderError


def test_errors_of_other_packages_keep_their_code() -> None:
    """An error with genblaze's `error_code` and `retry_after` is understood without an import."""
    typed = classify(carrying(error_code="rate_limit", retry_after=2))
    assert isinstance(typed, RateLimitError)
    assert (typed.retry_after, typed.sent) == (2.0, True)


def test_prompts_and_keys_stay_out_of_messages() -> None:
    """The text of a stranger's error is quoted without the prompt, without keys, and shortened."""
    step = Step(provider="v", model="m", prompt="the secret fox", negative_prompt="wolves")
    key = "sk-proj-" + "a1" * 20
    text = f"refused 'the secret fox' without wolves, key {key} " + "x" * 5000
    said = str(classify(RuntimeError(text), step=step))
    assert "secret fox" not in said
    assert "wolves" not in said
    assert key not in said
    assert len(said) < 500


def test_a_broken_property_of_an_error_hides_nothing() -> None:
    """An exception whose attributes raise is classified all the same."""

    class Rude(Exception):
        @property
        def response(self) -> object:
            raise RuntimeError("no response yet")

    assert classify(Rude("x")).sent is None


def test_cyclic_causes_end() -> None:
    """A chain of causes that bites its tail is followed a few links."""
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert type(classify(first)) is ProviderError


def test_unknown_codes_are_unknown() -> None:
    """A code that genblaze does not have is no reason to fail differently."""
    assert error_for_code("nonsense", "x").code is ProviderErrorCode.UNKNOWN


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        (ProviderErrorCode.TIMEOUT, True),
        (ProviderErrorCode.RATE_LIMIT, True),
        (ProviderErrorCode.SERVER_ERROR, True),
        (ProviderErrorCode.AUTH_FAILURE, False),
        (ProviderErrorCode.UNKNOWN, False),
    ],
)
def test_a_code_says_whether_to_try_again(code: ProviderErrorCode, transient: bool) -> None:
    """The guides' `error_code` decides about a retry as `code` does, unless that is said."""
    for error in (ProviderError("x", error_code=code), ProviderError("x", code=code)):
        assert (error.code, error.transient) == (code, transient)
    assert ProviderError("x", error_code=code, transient=not transient).transient is not transient
