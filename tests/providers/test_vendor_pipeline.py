import asyncio
from pathlib import Path
from typing import Any

from genblaze_dagster import Pipeline
from genblaze_dagster.providers.lmnt import LMNTProvider
from genblaze_dagster.providers.vendor.provider import VendorProvider
from tests.support.wire import API_KEY, Scenario, replay


def test_a_vendors_answer_becomes_a_run_with_its_record(vectors: Path, tmp_path: Path) -> None:
    """A golden speech goes through a whole pipeline: bytes, word timings, hash and account."""
    scenario = Scenario.load(vectors / "wire" / "lmnt" / "tts_timestamps.json")

    async def main() -> Any:
        async with wire.client() as client:
            provider = LMNTProvider(API_KEY, client=client)
            pipeline = Pipeline("talk", preflight=False).step(
                provider,
                model="blizzard",
                name="voice",
                modality="audio",
                prompt="Hello world.",
                voice="leah",
                output_format="mp3",
                return_timestamps=True,
            )
            return await pipeline.arun(
                store=(tmp_path / "store").as_uri(), ledger=f"sqlite:///{tmp_path / 'ledger.db'}"
            )

    with replay(scenario) as wire:
        result = asyncio.run(main())
    (outcome,) = result.outcomes.values()
    (asset,) = outcome.manifest.run.steps[-1].assets
    assert asset.sha256 == scenario.expect["output_sha256"]
    assert asset.media_type == "audio/mpeg"
    assert asset.audio is not None
    assert [timing.word for timing in asset.audio.word_timings or ()] == ["Hello", "world."]
    # What the bytes prove stands beside what the vendor said.
    assert asset.audio.codec == "mp3"
    assert outcome.ref.cost_usd is None
    assert API_KEY not in outcome.manifest.to_canonical_json()


def test_an_account_never_shows_its_key() -> None:
    """The fingerprint that limits are kept under is stable, and gives nothing away."""
    first, second = LMNTProvider("k" * 40), LMNTProvider("k" * 40)
    assert isinstance(first, VendorProvider)
    assert first.account == second.account
    assert "k" * 5 not in first.account
    assert LMNTProvider("other" * 8).account != first.account
