"""Hooks that look at what is asked of a model, and at what it gave."""

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from genblaze_dagster.core.enums import ModerationStage, PromptVisibility
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import InvalidRequestError, ModerationRejectedError, ProviderError
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.protocol import GenerationRequest

MAX_PART_BYTES = 8 * 1024
MAX_TEXT_BYTES = 32 * 1024

_LONGEST_REASON = 500
_MOST_CATEGORIES = 32
_LONGEST_CATEGORY = 100


@dataclass(frozen=True, slots=True)
class ModerationResult:
    """What a hook found; `reason` and `flagged_categories` say why something is not allowed."""

    allowed: bool
    reason: str | None = None
    flagged_categories: Sequence[str] = field(default_factory=list[str])


class ModerationHook:
    """Base of hooks: override what you check, sync or async; what is not overridden allows all.

    A sync check runs in a thread, so it may block. A check that raises, or returns anything but a
    `ModerationResult`, fails the step.
    """

    def check_prompt(
        self, prompt: str | None, params: dict[str, Any]
    ) -> ModerationResult | Awaitable[ModerationResult]:
        """Look at a request before it is sent: prompts and texts of inputs in one, and parameters.

        `params` is a copy; changing it changes nothing.
        """
        return ModerationResult(allowed=True)

    def check_output(self, assets: list[Asset]) -> ModerationResult | Awaitable[ModerationResult]:
        """Look at the stored outputs of a step."""
        return ModerationResult(allowed=True)

    async def acheck_prompt(self, prompt: str | None, params: dict[str, Any]) -> ModerationResult:
        """Look at a request in async code; calls `check_prompt` unless it is overridden."""
        return await _called(self.check_prompt, prompt, params)

    async def acheck_output(self, assets: list[Asset]) -> ModerationResult:
        """Look at outputs in async code; calls `check_output` unless it is overridden."""
        return await _called(self.check_output, assets)


async def moderate_request(
    hook: ModerationHook,
    request: GenerationRequest,
    *,
    visibility: PromptVisibility = PromptVisibility.PUBLIC,
) -> None:
    """Ask a hook about a request; return when it is allowed. Without text it is not asked.

    The hook's words may repeat a prompt. They are kept only when the prompt is public, and without
    secrets. How long the hook may take is up to the caller.

    Raises:
        ModerationRejectedError: the hook refuses; nothing was sent.
        InvalidRequestError: a text is too long to be looked at.
        ProviderError: the hook failed, code `unknown`; nothing was sent.
    """
    text = moderated_text(request)
    if text is None:
        return
    params = copy.deepcopy(dict(request.params))
    result = await _answer(
        hook, hook.acheck_prompt(text, params), ModerationStage.PRE, visibility=visibility
    )
    _refuse(result, ModerationStage.PRE, visibility)


async def moderate_outputs(
    hook: ModerationHook,
    assets: Sequence[Asset],
    *,
    visibility: PromptVisibility = PromptVisibility.PUBLIC,
) -> None:
    """Ask a hook about the outputs of a step; return when they are allowed.

    Outputs that are refused are made, stored and paid for: the step fails and keeps them.

    Raises:
        ModerationRejectedError: the hook refuses.
        ProviderError: the hook failed, code `unknown`.
    """
    result = await _answer(
        hook,
        hook.acheck_output([asset.model_copy(deep=True) for asset in assets]),
        ModerationStage.POST,
        visibility=visibility,
    )
    _refuse(result, ModerationStage.POST, visibility)


def moderated_text(request: GenerationRequest) -> str | None:
    """Return the text a hook sees: prompt, negative prompt and the inputs' texts, None when empty.

    A part is at most 8 KiB of UTF-8, all of it at most 32 KiB: what a hook would cut off unseen is
    refused instead.

    Raises:
        InvalidRequestError: a part or the whole is too long.
    """
    named: list[tuple[str, object]] = [
        ("prompt", request.prompt),
        ("negative prompt", request.negative_prompt),
    ]
    named += [
        (f"text of input {number}", media.asset.metadata.get("text"))
        for number, media in enumerate(request.inputs)
    ]
    parts: list[str] = []
    for name, part in named:
        if not isinstance(part, str) or not part.strip():
            continue
        # The length first: a hostile text is not encoded to find out.
        if len(part) > MAX_PART_BYTES or _bytes(part) > MAX_PART_BYTES:
            raise _too_long(name, MAX_PART_BYTES)
        parts.append(part)
    text = "\n\n".join(parts)
    if _bytes(text) > MAX_TEXT_BYTES:
        raise _too_long("text of prompts and inputs together", MAX_TEXT_BYTES)
    return text or None


async def _called(
    check: Callable[..., ModerationResult | Awaitable[ModerationResult]], *arguments: Any
) -> ModerationResult:
    if inspect.iscoroutinefunction(check):
        return await cast(Awaitable[ModerationResult], check(*arguments))
    result = await asyncio.to_thread(check, *arguments)
    return await result if inspect.isawaitable(result) else result


async def _answer(
    hook: ModerationHook,
    call: Awaitable[object],
    stage: ModerationStage,
    *,
    visibility: PromptVisibility,
) -> ModerationResult:
    """Wait for a hook; whatever goes wrong in it counts as not allowed."""
    sent = stage is ModerationStage.POST
    try:
        result = await call
    except Exception as exc:
        error = ProviderError(
            f"moderation hook {type(hook).__name__} raised {type(exc).__name__}; the step is not "
            "run past it, correct the hook",
            sent=sent,
        )
        # A traceback shows the cause, whose words may hold the prompt.
        raise error from (exc if visibility is PromptVisibility.PUBLIC else None)
    if not isinstance(result, ModerationResult):
        raise ProviderError(
            f"moderation hook {type(hook).__name__} returned a {type(result).__name__}; it must "
            "return a ModerationResult",
            sent=sent,
        )
    return result


def _refuse(result: ModerationResult, stage: ModerationStage, visibility: PromptVisibility) -> None:
    # Not `not result.allowed`: None and other answers that mean nothing allow nothing.
    if result.allowed is True:
        return
    reason = None
    if result.reason and visibility is PromptVisibility.PUBLIC:
        reason = redact(str(result.reason), max_chars=_LONGEST_REASON)
    categories = tuple(
        redact(str(category), max_chars=_LONGEST_CATEGORY)
        for category in list(result.flagged_categories or ())[:_MOST_CATEGORIES]
    )
    raise ModerationRejectedError(stage, reason, categories)


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _too_long(name: str, limit: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"{name} has more than {limit} bytes, the most that is moderated; shorten it", sent=False
    )
