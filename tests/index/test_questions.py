"""The named questions: costs counted once, lineage that ends, prompts recognised."""

import asyncio

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.index.catalog import IndexCatalog
from genblaze_dagster.index.questions import cost_per_model, lineage, outputs_of_prompt
from genblaze_dagster.index.rows import prompt_sha256
from genblaze_dagster.index.segment import SegmentWriter
from tests.index.making import START, digest, generation, indexed, media


def test_upstream_steps_are_not_paid_again(store):
    """An image used by two videos costs once, though three manifests carry its step."""
    image = generation([media("i")], cost_usd=0.04)
    videos = [
        generation(
            [media(f"v{n}", "video/mp4")],
            upstream=[image],
            model="local-video",
            modality=Modality.VIDEO,
            cost_usd=0.5,
        )
        for n in range(2)
    ]
    catalog = indexed(store, image, *videos)
    assert catalog.query("select count(*) as n from steps").to_pylist() == [{"n": 5}]
    assert cost_per_model(catalog).to_pylist() == [
        {
            "provider": "local",
            "model": "local-video",
            "modality": "video",
            "generations": 2,
            "cost_usd": 1.0,
            "unknown_costs": 0,
        },
        {
            "provider": "local",
            "model": "local-image",
            "modality": "image",
            "generations": 1,
            "cost_usd": 0.04,
            "unknown_costs": 0,
        },
    ]
    assert catalog.query("select sum(cost_usd) as usd from runs").to_pylist() == [{"usd": 1.04}]


def test_a_manifest_over_finished_runs_costs_nothing_itself(store):
    """A pipeline's overall manifest repeats the steps of its runs and executed none of them."""
    parts = [generation([media(f"part {n}")], cost_usd=1.0) for n in range(2)]
    whole = Manifest.from_run(
        Run(run_id="whole", steps=[p.run.steps[-1] for p in parts], created_at=START)
    )
    catalog = indexed(store, *parts, whole)
    assert cost_per_model(catalog).column("cost_usd").to_pylist() == [2.0]
    (run,) = catalog.query("select cost_usd from runs where run_id = 'whole'").to_pylist()
    assert run["cost_usd"] is None


def test_manifests_of_other_writers_executed_all_their_steps(store):
    """genblaze leaves `step.run_id` null: every step of such a manifest is its own."""
    steps = [Step(provider="openai", model="m", cost_usd=cost) for cost in (0.25, 0.5)]
    foreign = Manifest.from_run(Run(steps=steps, created_at=START))
    catalog = indexed(store, foreign)
    assert cost_per_model(catalog).column("cost_usd").to_pylist() == [0.75]
    assert catalog.query("select cost_usd from runs").to_pylist() == [{"cost_usd": 0.75}]


def test_an_unknown_cost_is_counted_and_never_zero(store):
    """Unknown costs stay NULL; they are reported beside the sum of the known ones."""
    catalog = indexed(
        store,
        generation([media("1")], cost_usd=None),
        generation([media("2")], cost_usd=0.5),
        generation([media("3")], cost_usd=None, model="never-priced"),
    )
    answer = {row["model"]: row for row in cost_per_model(catalog).to_pylist()}
    assert (answer["local-image"]["cost_usd"], answer["local-image"]["unknown_costs"]) == (0.5, 1)
    assert answer["never-priced"]["cost_usd"] is None
    assert answer["never-priced"]["unknown_costs"] == 1


def test_lineage_of_a_video_leads_to_its_image_and_prompts(store):
    """image + audio → video: each ancestor once, with prompt, model and run."""
    image = generation([media("i")], prompt="a fox")
    audio = generation([media("a", "audio/wav")], prompt="wind", modality=Modality.AUDIO)
    video = generation(
        [media("v", "video/mp4")],
        upstream=[image, audio],
        prompt="the fox runs",
        modality=Modality.VIDEO,
    )
    unrelated = generation([media("other")])
    catalog = indexed(store, image, audio, video, unrelated)
    for about in (digest("v"), video.run.run_id):
        answer = lineage(catalog, about).to_pylist()
        assert [(r["depth"], r["relation"], r["prompt"], r["sha256"]) for r in answer] == [
            (0, "output", "the fox runs", digest("v")),
            (1, "input", "a fox", digest("i")),
            (1, "input", "wind", digest("a")),
        ]
        assert answer[1]["run_id"] == image.run.run_id
        assert answer[0]["created_at"] == video.run.created_at


def test_lineage_follows_the_run_that_was_used(store):
    """When two runs made the same bytes, the one recorded as the input's origin is the ancestor."""
    twins = [generation([media("same")], prompt=f"twin {n}") for n in range(2)]
    video = generation([media("v", "video/mp4")], upstream=[twins[1]])
    catalog = indexed(store, *twins, video)
    answer = lineage(catalog, digest("v")).to_pylist()
    assert [row["prompt"] for row in answer] == ["a fox", "twin 1"]
    makers = lineage(catalog, digest("same")).to_pylist()
    assert [row["prompt"] for row in makers] == ["twin 0", "twin 1"]


def test_lineage_works_from_the_last_manifest_alone(store):
    """When upstream runs are not indexed, the steps carried by the manifest answer."""
    image = generation([media("i")], prompt="a fox")
    video = generation([media("v", "video/mp4")], upstream=[image], prompt="it runs")
    answer = lineage(indexed(store, video), digest("v")).to_pylist()
    assert [(row["relation"], row["prompt"]) for row in answer] == [
        ("output", "it runs"),
        ("input", "a fox"),
    ]


def test_an_input_from_outside_is_a_source(store):
    """Media that no indexed step made ends the lineage with its hash and type."""
    step = Step(
        provider="local",
        model="m",
        inputs=[media("uploaded", "image/jpeg")],
        assets=[media("edited")],
    )
    catalog = indexed(store, Manifest.from_run(Run(steps=[step], created_at=START)))
    source = lineage(catalog, digest("edited")).to_pylist()[-1]
    assert (source["relation"], source["depth"]) == ("source", 1)
    assert (source["sha256"], source["media_type"]) == (digest("uploaded"), "image/jpeg")
    assert source["run_id"] is None


def test_lineage_shows_the_runs_an_output_refines(store):
    """Materialising again refines: the chain of parents follows, newest first."""
    first = generation([media("1")])
    second = generation([media("2")], parent_run_id=first.run.run_id)
    third = generation([media("3")], parent_run_id=second.run.run_id)
    answer = lineage(indexed(store, first, second, third), digest("3")).to_pylist()
    assert [(row["relation"], row["sha256"]) for row in answer] == [
        ("output", digest("3")),
        ("previous", digest("2")),
        ("previous", digest("1")),
    ]


def test_cycles_end(store):
    """Manifests that name each other, as inputs and as parents, are each visited once."""
    a = generation([media("a")], parent_run_id="b", run_id="a")
    b = generation([media("b")], parent_run_id="a", run_id="b", upstream=[a])
    a.run.steps[-1].inputs = list(b.run.steps[-1].assets)
    a.run.steps[-1].inputs.append(media("a"))
    a.compute_hash()
    answer = lineage(indexed(store, a, b), digest("a")).to_pylist()
    assert [(row["relation"], row["sha256"]) for row in answer] == [
        ("output", digest("a")),
        ("input", digest("b")),
        ("previous", digest("b")),
    ]


def test_a_deep_chain_is_followed_to_its_root(store):
    """Lineage is iterated, so its depth is not limited by recursion."""
    chain = [generation([media("0")])]
    for n in range(1, 60):
        previous = chain[-1]
        slim = generation([media(str(n))], upstream=[previous])
        slim.run.steps = slim.run.steps[-1:]
        slim.compute_hash()
        chain.append(slim)
    answer = lineage(indexed(store, *chain), digest("59")).to_pylist()
    assert [row["depth"] for row in answer] == list(range(60))


def test_an_unknown_id_gives_an_empty_table(store):
    """Nothing found is an answer with the right columns."""
    catalog = indexed(store, generation([media("1")]))
    for about in (digest("nothing"), "no-such-run", "'; drop table runs"):
        answer = lineage(catalog, about)
        assert answer.num_rows == 0
        assert "relation" in answer.column_names


def test_outputs_of_a_prompt(store):
    """Every output of exactly that prompt, oldest first, and none of steps that only used it."""
    first = generation([media("1")], prompt="café")
    second = generation([media("2"), media("3")], prompt="cafe\u0301", model="other")
    video = generation([media("v", "video/mp4")], upstream=[first], prompt="it moves")
    catalog = indexed(store, second, first, video)
    answer = outputs_of_prompt(catalog, "café").to_pylist()
    assert [row["sha256"] for row in answer] == [digest("1"), digest("2"), digest("3")]
    assert [row["model"] for row in answer] == ["local-image", "other", "other"]
    assert answer[0]["asset_key"] == "media/image"
    assert outputs_of_prompt(catalog, "caf").num_rows == 0


def test_a_private_prompt_is_found_by_who_knows_it(store):
    """The text is nowhere, its hash is: in the column, from the prompt or as the Runner left it."""
    kept = generation([media("1")], prompt="secret plan", prompt_visibility="private")
    recorded = generation(
        [media("2")],
        prompt=None,
        prompt_visibility="private",
        metadata={"prompt_sha256": prompt_sha256("secret plan")},
    )
    answer = outputs_of_prompt(indexed(store, kept, recorded), "secret plan").to_pylist()
    assert [row["sha256"] for row in answer] == [digest("1"), digest("2")]


def test_questions_to_an_empty_index(store):
    """No rows, right columns, no error."""

    async def load() -> IndexCatalog:
        catalog = IndexCatalog(store)
        assert await SegmentWriter(store).flush() == []
        await catalog.load()
        return catalog

    catalog = asyncio.run(load())
    assert cost_per_model(catalog).num_rows == 0
    assert outputs_of_prompt(catalog, "x").num_rows == 0
