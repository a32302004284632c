"""Taking prompts, params and seeds out of a run, so that nothing of them is left in its bytes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast
from unicodedata import normalize

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.policy import EmbedPolicy

RECORD: Final = "redacted"
"""Key in `run.metadata` under which a redacted run says what is missing, and of which manifest."""

REPLACEMENT: Final = "[redacted]"

_HIDDEN: Final = (PromptVisibility.PRIVATE, PromptVisibility.REDACTED)
# Below that a text is as likely to stand somewhere by chance; only whole values are taken out.
_SHORTEST_QUOTE: Final = 4


def redacted_run(run: Run, policy: EmbedPolicy, *, canonical_hash: str) -> Run | None:
    """Return a copy of a run without what a policy, or a step itself, keeps from readers.

    A step whose own visibility is private or redacted loses its prompts under every policy. A
    policy of private or redacted takes those of all steps; encrypted takes those that are not
    encrypted already. With a prompt go its copies: in params, metadata, payloads and errors, and
    the words a speech model was timed on.

    Args:
        run: stays as it is.
        policy: what to leave out; its mode is not looked at.
        canonical_hash: of the whole manifest, recorded so that who has it can connect the two.

    Returns:
        The copy, or None when nothing had to be taken out.
    """
    fields: set[str] = set()
    steps = [_redacted_step(step, policy, fields) for step in run.steps]
    if not fields:
        return None
    hidden = [
        text
        for old, new in zip(run.steps, steps, strict=True)
        for text in _prompts(old)
        if text not in _prompts(new)
    ]
    if hidden:
        # A later step may quote the prompt of an earlier one.
        clean = _cleaner(hidden)
        steps = [_without_quotes(step, clean) for step in steps]
        run = run.model_copy(update={"metadata": clean(run.metadata), "name": clean(run.name)})
    record = {"canonical_hash": canonical_hash, "fields": sorted(fields)}
    return run.model_copy(update={"steps": steps, "metadata": {**run.metadata, RECORD: record}})


def _redacted_step(step: Step, policy: EmbedPolicy, fields: set[str]) -> Step:
    changes: dict[str, Any] = {}
    if _hides_prompt(step.prompt_visibility, policy) and _prompts(step):
        fields.add("prompt")
        changes |= {"prompt": None, "negative_prompt": None}
        if step.prompt_visibility is not PromptVisibility.PRIVATE:
            changes["prompt_visibility"] = PromptVisibility.REDACTED
    if not policy.include_params and step.params:
        fields.add("params")
        changes["params"] = {}
    elif not policy.include_seed and "seed" in step.params:
        fields.add("seed")
        changes["params"] = {k: v for k, v in step.params.items() if k != "seed"}
    if not policy.include_seed and step.seed is not None:
        fields.add("seed")
        changes["seed"] = None
    return step.model_copy(update=changes) if changes else step


def _hides_prompt(own: PromptVisibility, policy: EmbedPolicy) -> bool:
    if own is PromptVisibility.ENCRYPTED:
        return policy.prompt_visibility in _HIDDEN
    return own in _HIDDEN or policy.prompt_visibility is not PromptVisibility.PUBLIC


def _prompts(step: Step) -> list[str]:
    return [text for text in (step.prompt, step.negative_prompt) if text]


def _without_quotes(step: Step, clean: Callable[[Any], Any]) -> Step:
    return step.model_copy(
        update={
            "params": clean(without_echoes(step.params)),
            "metadata": clean(step.metadata),
            "provider_payload": clean(without_echoes(step.provider_payload)),
            "error": clean(step.error),
            "prompt": clean(step.prompt),
            "negative_prompt": clean(step.negative_prompt),
            "assets": [_unspoken(asset, clean) for asset in step.assets],
            "inputs": [_unspoken(asset, clean) for asset in step.inputs],
        }
    )


def without_echoes(payload: Any) -> Any:
    """Return JSON content without the keys under which vendors echo or rewrite a prompt.

    `revised_prompt` and its kin; token counts such as `prompt_tokens` say nothing about the text.
    """
    if isinstance(payload, dict):
        items = cast(dict[str, Any], payload)
        return {k: without_echoes(v) for k, v in items.items() if not _is_echo(k)}
    if isinstance(payload, list):
        return [without_echoes(entry) for entry in cast(list[Any], payload)]
    return payload


def _is_echo(key: str) -> bool:
    return "prompt" in key.lower() and "token" not in key.lower()


def _unspoken(asset: Asset, clean: Callable[[Any], Any]) -> Asset:
    changes: dict[str, Any] = {"metadata": clean(asset.metadata)}
    if asset.audio is not None and asset.audio.word_timings:
        changes["audio"] = asset.audio.model_copy(update={"word_timings": None})
    return asset.model_copy(update=changes)


def _cleaner(hidden: Iterable[str]) -> Callable[[Any], Any]:
    texts = {normalize("NFC", text) for text in hidden}
    by_start: dict[str, list[str]] = {}
    # The longest first: a prompt may be the start of another.
    for text in sorted(texts, key=len, reverse=True):
        if len(text) >= _SHORTEST_QUOTE:
            by_start.setdefault(text[:_SHORTEST_QUOTE], []).append(text)

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            items = cast(dict[Any, Any], value)
            return {clean(key): clean(item) for key, item in items.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in cast(list[Any] | tuple[Any, ...], value)]
        if not isinstance(value, str):
            return value
        # A manifest is written in this form, whatever the strings are in.
        value = normalize("NFC", value)
        return REPLACEMENT if value in texts else _without(value, by_start)

    return clean


def _without(value: str, by_start: Mapping[str, Sequence[str]]) -> str:
    """Return a text with the hidden ones in it replaced, in one pass over it."""
    kept: list[str] = []
    done = at = 0
    while at <= len(value) - _SHORTEST_QUOTE:
        found = by_start.get(value[at : at + _SHORTEST_QUOTE], ())
        text = next((text for text in found if value.startswith(text, at)), None)
        if text is None:
            at += 1
            continue
        kept += (value[done:at], REPLACEMENT)
        done = at = at + len(text)
    return "".join((*kept, value[done:]))
