"""A code location for the backfill daemon: prompts whose video or image the vendor refuses."""

import os

import dagster as dg

from genblaze_dagster import Media, Pipeline, genblaze_resources
from genblaze_dagster.errors import ContentPolicyError
from genblaze_dagster.providers.protocol import GenerationRequest, Submission
from tests.support.providers import CountingProvider
from tests.support.world import prompts

KEYS = "abcdefgh"


class Refusing(CountingProvider):
    """Refuses the prompts of REFUSED_PROMPTS, which a test changes between runs."""

    async def submit(self, request: GenerationRequest) -> Submission:
        if request.prompt in os.environ.get("REFUSED_PROMPTS", "").split(","):
            raise ContentPolicyError("refused")
        return await super().submit(request)


provider = Refusing()
table = prompts(*KEYS)


@dg.asset(
    ins={"video": dg.AssetIn(dg.AssetKey(["story", "video"]))},
    partitions_def=table.static_partitions(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="media",
)
def poster(video: dict[str, Media]) -> dict[str, bytes]:
    """With a policy of its own it is launched for what succeeded before it."""
    return {key: media.bytes()[:32] for key, media in video.items()}


pipeline = (
    Pipeline("story")
    .step(provider, model="m", name="image", prompt="draw {subject}")
    .step(
        provider,
        model="m",
        name="video",
        modality="video",
        prompt="move {subject}",
        input_from="image",
    )
)

defs = dg.Definitions(
    assets=[*pipeline.to_assets(partitions=table), poster],
    resources=genblaze_resources(),
    executor=dg.in_process_executor,
)
