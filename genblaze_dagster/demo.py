"""The demo: a picture, a sound and a video for each of twelve prompts, without key or network.

`definitions.py` opens it in the Dagster UI and `genblaze-dagster demo` runs it; copy it as the start
of your own code location.
"""

from typing import TYPE_CHECKING

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.environment import default_ledger_url, default_store_url
from genblaze_dagster.pipeline.template import Column

if TYPE_CHECKING:
    import dagster as dg

# Dagster is imported inside the functions that need it: a second run of the demo only looks at what
# is stored, and must not wait two seconds for an import.

_SCENES = (
    ("aurora", "northern lights over a frozen fjord", "cold, airy", 11),
    ("dunes", "wind-carved dunes at first light", "warm, wide", 12),
    ("reef", "a coral reef in shallow water", "floating", 13),
    ("forest", "mist between tall cedars", "quiet, deep", 14),
    ("city", "rain on neon streets at midnight", "restless", 15),
    ("nebula", "a nebula seen through a small window", "vast, slow", 16),
    ("harvest", "wheat fields under a storm front", "tense, golden", 17),
    ("glacier", "blue ice inside a glacier cave", "crystalline", 18),
    ("lanterns", "paper lanterns drifting down a river", "tender", 19),
    ("volcano", "lava meeting the sea at dusk", "heavy, glowing", 20),
    ("orchard", "plum blossom in a walled orchard", "light, bright", 21),
    ("harbour", "fishing boats in morning fog", "still, grey", 22),
)


def demo_rows() -> list[dict[str, object]]:
    """Return the twelve prompt rows; each becomes a partition named by its `key`."""
    return [
        {"key": key, "subject": subject, "mood": mood, "seed": seed}
        for key, subject, mood, seed in _SCENES
    ]


def demo_pipeline() -> Pipeline:
    """Return the demo's steps: image and audio from the prompt, video from both."""
    return (
        Pipeline("demo")
        .step(
            "local",
            model="local-image",
            name="image",
            prompt="{subject}, painted light",
            seed=Column("seed"),
            params={"width": 512, "height": 512},
        )
        .step(
            "local",
            model="local-audio",
            name="audio",
            modality=Modality.AUDIO,
            prompt="ambient chords, {mood}",
            seed=Column("seed"),
            params={"duration": 3.0},
        )
        .step(
            "local",
            model="local-video",
            name="video",
            modality=Modality.VIDEO,
            prompt="slow camera move over {subject}",
            seed=Column("seed"),
            params={"duration": 3.0, "fps": 12},
            input_from=["image", "audio"],
        )
    )


def demo_assets(*, reuse: bool = False) -> "list[dg.AssetsDefinition]":
    """Return the demo's Dagster assets: one run does all twelve partitions.

    Args:
        reuse: take equal media an earlier run has stored instead of making it again.
    """
    import dagster as dg

    from genblaze_dagster.partitions import PromptTable

    return demo_pipeline().to_assets(
        partitions=PromptTable.from_rows(demo_rows()),
        group_name="demo",
        owners=["team:media"],
        backfill_policy=dg.BackfillPolicy.single_run(),
        reuse=reuse,
    )


def demo_definitions() -> "dg.Definitions":
    """Return the demo as a code location; store and ledger come from the environment."""
    import dagster as dg

    from genblaze_dagster.resources import genblaze_resources

    return dg.Definitions(
        assets=demo_assets(),
        resources=genblaze_resources(store=default_store_url(), ledger=default_ledger_url()),
        executor=dg.in_process_executor,
    )
