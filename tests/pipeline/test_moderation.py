import asyncio
import threading
import traceback
from typing import Any

import pytest

from genblaze_dagster.core.enums import ModerationStage, PromptVisibility, ProviderErrorCode
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import (
    ContentPolicyError,
    InvalidRequestError,
    ModerationRejectedError,
    ProviderError,
    RateLimitError,
)
from genblaze_dagster.pipeline.moderation import (
    MAX_PART_BYTES,
    ModerationHook,
    ModerationResult,
    moderate_outputs,
    moderate_request,
    moderated_text,
)
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia

ASSET = Asset(url="https://x/a.png", media_type="image/png", sha256="a" * 64)
REFUSED = ModerationResult(allowed=False, reason="too much fox", flagged_categories=["animals"])


class Scripted(ModerationHook):
    """Answers with the same result to everything, or raises it."""

    def __init__(self, answer: Any = ModerationResult(allowed=True)) -> None:  # noqa: B008 - frozen
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []
        self.threads: list[int] = []

    def check_prompt(self, prompt: str | None, params: dict[str, Any]) -> ModerationResult:
        self.asked.append((prompt, dict(params)))
        self.threads.append(threading.get_ident())
        params["changed"] = True
        return self._answer()

    def check_output(self, assets: list[Asset]) -> ModerationResult:
        self.asked.append((assets,))
        assets[0].metadata["changed"] = True
        return self._answer()

    def _answer(self) -> ModerationResult:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def with_text(*texts: object, **fields: Any) -> GenerationRequest:
    async def read() -> bytes:
        raise AssertionError("bytes of inputs are not read")

    def media(text: object) -> InputMedia:
        asset = ASSET.model_copy(update={"metadata": {"text": text}})
        return InputMedia(asset, read=read, stream=None, public_url=lambda: None)  # type: ignore[arg-type]

    return GenerationRequest("m", inputs=tuple(media(text) for text in texts), **fields)


def moderate(hook: ModerationHook, request: GenerationRequest, **options: Any) -> None:
    asyncio.run(moderate_request(hook, request, **options))


def test_a_hook_sees_all_text_and_a_copy_of_the_parameters() -> None:
    """Prompt, negative prompt and texts of inputs come in order, with blank lines between."""
    hook, params = Scripted(), {"size": 4}
    request = with_text("one", 5, " ", "two", prompt="a fox", negative_prompt="rain", params=params)
    moderate(hook, request)
    assert hook.asked == [("a fox\n\nrain\n\none\n\ntwo", {"size": 4})]
    assert params == {"size": 4}
    assert hook.threads != [threading.get_ident()]


def test_a_hook_is_not_asked_about_nothing() -> None:
    """Without any text there is nothing to look at."""
    hook = Scripted(REFUSED)
    moderate(hook, with_text(prompt="  ", params={"size": 4}))
    assert hook.asked == []


def test_a_refusal_says_when_why_and_what() -> None:
    """It is a content error with genblaze's code and message, final, and nothing was sent."""
    with pytest.raises(ModerationRejectedError) as refused:
        moderate(Scripted(REFUSED), with_text(prompt="a fox"))
    error = refused.value
    assert isinstance(error, ContentPolicyError)
    assert str(error) == "Moderation rejected prompt/input: too much fox (animals)"
    assert (error.code, error.transient, error.sent) == (
        *(ProviderErrorCode.INVALID_INPUT, False, False),
    )
    assert error.record == {
        "stage": "pre",
        "reason": "too much fox",
        "flagged_categories": ["animals"],
    }


def test_outputs_can_be_refused() -> None:
    """The stage is post, the media was made, and the hook cannot change its records."""
    hook = Scripted(REFUSED)
    with pytest.raises(ModerationRejectedError, match=r"^Moderation rejected output") as refused:
        asyncio.run(moderate_outputs(hook, [ASSET]))
    assert (refused.value.stage, refused.value.sent) == (ModerationStage.POST, True)
    assert ASSET.metadata == {}


def test_allowed_outputs_pass() -> None:
    """Nothing is raised, and the hook was asked."""
    hook = Scripted()
    asyncio.run(moderate_outputs(hook, [ASSET]))
    assert len(hook.asked) == 1


@pytest.mark.parametrize("visibility", ["private", "redacted", "encrypted"])
def test_words_about_a_prompt_that_is_not_public_are_not_kept(visibility: str) -> None:
    """A hook may quote the prompt; categories stay, the reason goes."""
    answer = ModerationResult(False, "it says 'my secret plan'", ["plans"])
    with pytest.raises(ModerationRejectedError) as refused:
        moderate(
            Scripted(answer),
            with_text(prompt="my secret plan"),
            visibility=PromptVisibility(visibility),
        )
    assert str(refused.value) == "Moderation rejected prompt/input: no reason given (plans)"
    assert refused.value.record["reason"] is None


def test_reasons_are_bounded_and_redacted() -> None:
    """What a hook returns cannot flood a manifest or put a key into it."""
    key = "sk-" + "a1B2" * 8
    answer = ModerationResult(False, f"{key} " + "x" * 9000, [f"{key}", *map(str, range(999))])
    with pytest.raises(ModerationRejectedError) as refused:
        moderate(Scripted(answer), with_text(prompt="a fox"))
    assert key not in str(refused.value)
    assert len(refused.value.reason or "") < 600
    assert len(refused.value.flagged_categories) == 32


@pytest.mark.parametrize(
    "failure", [ValueError("boom"), RateLimitError("later")], ids=["bug", "vendor"]
)
def test_a_hook_that_fails_stops_the_step(failure: Exception) -> None:
    """Whatever it raises is the code unknown, final, and nothing was sent."""
    with pytest.raises(ProviderError, match=f"Scripted raised {type(failure).__name__}") as failed:
        moderate(Scripted(failure), with_text(prompt="a fox"))
    assert (failed.value.code, failed.value.transient, failed.value.sent) == (
        *(ProviderErrorCode.UNKNOWN, False, False),
    )


def test_a_failing_hook_does_not_show_a_private_prompt() -> None:
    """Neither message nor traceback has the words of what the hook raised."""
    with pytest.raises(ProviderError) as failed:
        moderate(
            Scripted(ValueError("cannot judge 'my plan'")),
            with_text(prompt="my plan"),
            visibility=PromptVisibility.PRIVATE,
        )
    shown = "".join(traceback.format_exception(failed.value))
    assert "my plan'" not in shown


@pytest.mark.parametrize("answer", [None, True, "ok"], ids=str)
def test_only_a_result_allows(answer: object) -> None:
    """A hook that forgets to return something is not taken for one that allows."""
    with pytest.raises(ProviderError, match="must return a ModerationResult"):
        moderate(Scripted(answer), with_text(prompt="a fox"))


@pytest.mark.parametrize("allowed", [None, 1, "yes"], ids=str)
def test_only_true_allows(allowed: Any) -> None:
    """What merely looks like yes is a no."""
    with pytest.raises(ModerationRejectedError):
        moderate(Scripted(ModerationResult(allowed)), with_text(prompt="a fox"))


def test_async_hooks_run_on_the_loop() -> None:
    """Both ways to write one work: an async check, and the method for async code."""
    seen: list[int] = []

    class AsyncCheck(ModerationHook):
        async def check_prompt(self, prompt: str | None, params: dict[str, Any]) -> Any:
            seen.append(threading.get_ident())
            return REFUSED

    class AsyncMethod(ModerationHook):
        async def acheck_prompt(self, prompt: str | None, params: dict[str, Any]) -> Any:
            seen.append(threading.get_ident())
            return REFUSED

    for hook in (AsyncCheck(), AsyncMethod()):
        with pytest.raises(ModerationRejectedError):
            moderate(hook, with_text(prompt="a fox"))
        asyncio.run(moderate_outputs(hook, [ASSET]))
    assert seen == [threading.get_ident()] * 2


def test_cancelling_is_no_verdict() -> None:
    """A cancelled step is cancelled, not failed by its hook."""

    class Waiting(ModerationHook):
        async def acheck_prompt(self, prompt: str | None, params: dict[str, Any]) -> Any:
            await asyncio.sleep(60)

    async def body() -> None:
        task = asyncio.create_task(moderate_request(Waiting(), with_text(prompt="a fox")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (with_text(prompt="x" * (MAX_PART_BYTES + 1)), "prompt has"),
        (with_text(prompt="é" * (MAX_PART_BYTES // 2 + 1)), "prompt has"),
        (with_text("x" * (MAX_PART_BYTES + 1), prompt="a"), "text of input 0 has"),
        (with_text(*["x" * MAX_PART_BYTES] * 4), "together has"),
    ],
    ids=["prompt", "bytes", "input", "together"],
)
def test_too_much_text_is_refused(request_: GenerationRequest, named: str) -> None:
    """A hook that would only see the beginning is not asked."""
    hook = Scripted()
    with pytest.raises(InvalidRequestError, match=named):
        moderate(hook, request_)
    assert hook.asked == []


def test_text_up_to_the_limits_is_moderated() -> None:
    """8 KiB in a part, 32 KiB in all, separators included."""
    request = with_text(*["x" * MAX_PART_BYTES] * 2, prompt="é" * (MAX_PART_BYTES // 2))
    assert len((moderated_text(request) or "").encode()) == 3 * MAX_PART_BYTES + 4
