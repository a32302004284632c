"""How a replay is asked of a Dagster deployment: names both sides know, and what must stay out.

Run configuration is kept and shown by Dagster, so no private prompt and no secret may get there.
"""

from typing import Any, Final

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.redact import find_secret
from genblaze_dagster.pipeline.replay import Replay

REPLAY_TAG: Final = "genblaze/replay"
"""Job tag by which the job that replays runs is found."""

REPLAY_OF_TAG: Final = "genblaze/replay_of"
"""Run tag with the id of the recorded run."""

_PROMPTS: Final = frozenset({"prompt", "negative_prompt"})


def op_name(job: str) -> str:
    """Return the name of the replay job's only op, which its configuration is for."""
    return f"{job}_run"


def run_config(job: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the run configuration of a replay job."""
    return {"ops": {op_name(job): {"config": config}}}


def check_changes(replay: Replay) -> None:
    """Refuse changes that may not stand in run configuration.

    Raises:
        ConfigError: one of them is a prompt that is not public.
    """
    for step in replay.steps:
        visibilities = {step.spec.prompt_visibility, step.recorded.prompt_visibility}
        if _PROMPTS & set(step.changed) and visibilities != {PromptVisibility.PUBLIC}:
            raise ConfigError(
                f"the prompt of step {step.spec.name!r} is not public and run configuration can be "
                "read by everyone in Dagster; run it in process with --run"
            )


def check_inline(replay: Replay, manifest: Manifest) -> None:
    """Refuse a manifest that may not stand in run configuration itself.

    Raises:
        ConfigError: it holds prompts that are not public, or what looks like a secret.
    """
    if replay.has_private_prompts:
        reason = "has prompts that are not public"
    elif where := find_secret(manifest.model_dump(mode="json")):
        reason = f"holds what looks like a secret or a signed URL at {where}"
    else:
        return
    raise ConfigError(
        f"manifest of run {replay.run_id} {reason}, and run configuration can be read by everyone "
        "in Dagster; put it in the deployment's store, and name that store and the run"
    )
