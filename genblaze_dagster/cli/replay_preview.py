"""What a replay would do, for people and as JSON. No prompt that is not public is ever in it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from genblaze_dagster.cli.output import print_lines, printable
from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.redaction import redacted_run
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.pipeline.estimate import estimated_cost
from genblaze_dagster.pipeline.external import ExternalInput, Source, StepOutput
from genblaze_dagster.pipeline.replay import Replay, ReplayStep

REDACTED = "[redacted]"


def preview(replay: Replay, *, show_prompts: bool) -> dict[str, Any]:
    """Return what would be run; prompts only when they are public and `show_prompts`."""
    shown = _shown(replay)
    steps = [
        _step(step, record, show_prompts=show_prompts)
        for step, record in zip(replay.steps, shown.steps, strict=True)
    ]
    costs = [step["estimated_cost_usd"] for step in steps]
    run = replay.manifest.run
    return {
        "run_id": replay.run_id,
        "name": shown.name,
        "tenant_id": run.tenant_id,
        "project_id": run.project_id,
        "canonical_hash": replay.manifest.canonical_hash,
        "hash_ok": replay.hash_ok,
        "steps": steps,
        "estimated_cost_usd": None if None in costs else sum(costs),
        "problems": [
            {"kind": p.kind.value, "step": p.step, "fact": p.fact, "remedy": p.remedy}
            for p in replay.problems
        ],
        "notes": list(replay.notes),
    }


def _shown(replay: Replay) -> Run:
    """Return the run as it would be made, without prompts that are not public and their quotes."""
    steps = [
        step.recorded.model_copy(
            update={
                "prompt": step.spec.prompt,
                "negative_prompt": step.spec.negative_prompt,
                "prompt_visibility": _strictest(step),
                "params": dict(step.spec.params),
            }
        )
        for step in replay.steps
    ]
    run = replay.manifest.run.model_copy(update={"steps": steps})
    return redacted_run(run, EmbedPolicy(), canonical_hash="") or run


def _strictest(step: ReplayStep) -> PromptVisibility:
    # What was private stays so in a preview, even when it is about to be made public.
    public = PromptVisibility.PUBLIC
    found = (step.recorded.prompt_visibility, step.spec.prompt_visibility)
    return public if all(one is public for one in found) else PromptVisibility.PRIVATE


def _step(step: ReplayStep, shown: Step, *, show_prompts: bool) -> dict[str, Any]:
    spec = step.spec

    def prompt(declared: object, public: str | None) -> str | None:
        if declared is None:
            return None
        return public if show_prompts and public is not None else REDACTED

    return {
        "name": spec.name,
        "provider": spec.provider_name,
        "model": spec.model,
        "fallback_models": list(spec.fallback_models),
        "step_type": spec.step_type.value,
        "modality": spec.modality.value,
        "prompt_visibility": spec.prompt_visibility.value,
        "prompt": prompt(spec.prompt, shown.prompt),
        "negative_prompt": prompt(spec.negative_prompt, shown.negative_prompt),
        "seed": spec.seed,
        "params": shown.params,
        "inputs": [_input(source) for source in spec.sources],
        "changed": list(step.changed),
        "estimated_cost_usd": estimated_cost(step),
        "recorded_sha256": list(step.recorded_sha256),
    }


def _input(source: Source) -> dict[str, Any]:
    match source:
        case str():
            return {"step": source}
        case StepOutput():
            return {"step": source.step, "output": source.index}
        case ExternalInput(asset=asset):
            recorded = asset.sha256 if asset is not None else None
            media_type = asset.media_type if asset is not None else None
            url = strip_url(source.address)
            return {"external": recorded, "media_type": media_type, "url": url}


def print_preview(document: Mapping[str, Any]) -> None:
    """Print what would be run."""
    print_lines(list(_lines(document)))


def _lines(document: Mapping[str, Any]) -> Iterator[Text]:
    hash_ok = document["hash_ok"]
    yield _fact("run", document["run_id"])
    if document["name"]:
        yield _fact("name", document["name"])
    verdict = ("matches", "green") if hash_ok else ("does not match the content", "red")
    yield Text.assemble("hash        ", verdict)
    for step in document["steps"]:
        yield from _step_lines(step)
    yield _fact("cost", _usd(document["estimated_cost_usd"]))
    for note in document["notes"]:
        yield Text.assemble(("note: ", "yellow"), printable(note))
    for problem in document["problems"]:
        where = f"step {problem['step']}: " if problem["step"] else ""
        told = f"{where}{problem['fact']}; {problem['remedy']}"
        yield Text.assemble(("problem: ", "red"), printable(told))


def _step_lines(step: Mapping[str, Any]) -> Iterator[Text]:
    asked = f"{step['provider']}/{step['model']}"
    made = f"{step['step_type']} {step['modality']}"
    yield Text.assemble((printable(step["name"]), "bold"), f"  {printable(asked)}  {made}")
    for name in ("prompt", "negative_prompt"):
        if step[name] is not None:
            yield _fact(f"  {name.replace('_', ' ')}", step[name])
    if step["seed"] is not None:
        yield _fact("  seed", step["seed"])
    if step["params"]:
        yield _fact("  params", json.dumps(step["params"], ensure_ascii=False, default=str))
    if step["inputs"]:
        yield _fact("  inputs", ", ".join(map(_source, step["inputs"])))
    if step["fallback_models"]:
        yield _fact("  fallback", ", ".join(step["fallback_models"]))
    if step["changed"]:
        yield _fact("  changed", ", ".join(step["changed"]))
    yield _fact("  cost", _usd(step["estimated_cost_usd"]))


def _source(source: Mapping[str, Any]) -> str:
    if "step" in source:
        output = f"[{source['output']}]" if "output" in source else ""
        return f"{source['step']}{output}"
    return f"external {(source['external'] or 'without sha256')[:12]} {source['url']}"


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else f"about ${amount:.4f}"


def _fact(name: str, value: object) -> Text:
    return Text(f"{name:<12}{printable(str(value))}")
