import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from genblaze_dagster import Manifest, MediaStore, Pipeline, Run, Step, parse_manifest
from genblaze_dagster.core.enums import PromptVisibility, StepStatus, StepType
from genblaze_dagster.core.models import Asset
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.errors import (
    ConfigError,
    GenblazeError,
    IntegrityError,
    ManifestError,
    ModelError,
    PipelineError,
)
from genblaze_dagster.index.catalog import IndexCatalog
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.estimate import estimated_cost
from genblaze_dagster.pipeline.external import ExternalInput
from genblaze_dagster.pipeline.outcome import Origin
from genblaze_dagster.pipeline.replay import Replay
from genblaze_dagster.pipeline.restoring import ProblemKind
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.storage.refs import list_refs
from tests.support.scripted import ScriptedProvider
from tests.support.steps import everything

SECRET = "a prompt that nobody but its author may read"


def film(provider: object = "local") -> Pipeline:
    """Picture and sound into a video, with every field a step can have."""
    local = {} if provider == "local" else {"n": 1}
    return (
        Pipeline("film", tenant_id="acme", project_id="p7")
        .step(
            provider,  # type: ignore[arg-type]
            model="local-image",
            name="still",
            prompt="dunes at {dusk}, literally",
            negative_prompt="people",
            seed=3,
            params={"width": 128, "height": 128, **local},
            metadata={"shot": 1, "nested": {"take": [1, 2.0]}},
        )
        .step(
            provider,  # type: ignore[arg-type]
            model="local-audio",
            name="sound",
            modality="audio",
            prompt="wind",
            seed=3,
            params={"duration": 1.0},
        )
        .step(
            provider,  # type: ignore[arg-type]
            model="local-video",
            name="clip",
            modality="video",
            step_type=StepType.MIX,
            prompt="slow pan",
            params={"duration": 1.0, "fps": 8},
            input_from=["still", "sound"],
        )
    )


def replayed(
    replay: Replay, store: MediaStore, ledger: Ledger, **options: object
) -> PipelineResult:
    return replay.run(store=store, ledger=ledger, **options)  # type: ignore[arg-type]


def reread(manifest: Manifest) -> Manifest:
    """The manifest as another process reads it."""
    return parse_manifest(manifest.to_canonical_json())


def test_a_chain_gives_the_same_bytes_and_the_same_hash(store: MediaStore, ledger: Ledger) -> None:
    """Real picture, sound and video: nothing but ids and times differs from the recorded run."""
    first = film().run(store=store, ledger=ledger)
    replay = Replay.from_manifest(reread(first.manifest))
    assert replay.problems == ()
    again = replayed(replay, MediaStore("memory://somewhere-else"), ledger)
    assert again.manifest.canonical_hash == first.manifest.canonical_hash
    assert again.run.run_id != first.run.run_id
    assert again.run.parent_run_id == first.run.run_id
    assert (again.run.name, again.run.tenant_id, again.run.project_id) == ("film", "acme", "p7")
    outcomes = again.outcomes
    assert {name: outcome.origin for name, outcome in outcomes.items()} == dict.fromkeys(
        ("still", "sound", "clip"), Origin.GENERATED
    )
    assert all(step.is_repeated_by(outcomes[step.spec.name]) for step in replay.steps)


def test_the_restored_pipeline_is_declared_as_the_first(store: MediaStore, ledger: Ledger) -> None:
    """Steps, names, fields, edges and visibility are those of the declaration."""
    declared = film()
    manifest = reread(declared.run(store=store, ledger=ledger).manifest)
    restored = Replay.from_manifest(manifest).pipeline
    for old, new in zip(declared.steps, restored.steps, strict=True):
        for field in (
            "name",
            "provider",
            "model",
            "prompt",
            "negative_prompt",
            "seed",
            "params",
            "modality",
            "step_type",
            "prompt_visibility",
            "metadata",
            "fallback_models",
        ):
            assert getattr(new, field) == getattr(old, field), field
        assert new.inputs == old.inputs
    types = [type(value) for value in restored.steps[0].metadata["nested"]["take"]]
    assert types == [int, float]


def test_steps_without_a_usable_name_are_called_by_what_they_make() -> None:
    """A recorded name is taken for a name only: unique, short, of letters, digits and _."""
    recorded: list[dict[str, object]] = [
        {"step_name": "hero"},
        {"step_name": "hero"},
        {"step_name": "a.b"},
        {"step_name": ["x"]},
        {"step_name": "x" * 101},
        {"step_name": "image_5"},
        {},
    ]
    steps = [Step(provider="local", model="local-image", provider_payload=p) for p in recorded]
    replay = Replay.from_manifest(Manifest.from_run(Run(steps=steps)))
    names = [step.spec.name for step in replay.steps]
    assert names == ["hero", "image", "image_2", "image_3", "image_4", "image_5", "image_6"]


def test_current_media_is_left_alone(store: MediaStore, ledger: Ledger) -> None:
    """A replay is referenced by itself, under the run it repeats; what was current stays so."""

    async def refs() -> dict[tuple[str, str | None], str]:
        found = [ref async for ref in list_refs(store)]
        return {(ref.asset_key, ref.partition_key): ref.run_id for ref in found}

    first = film().run(store=store, ledger=ledger)
    before = run_sync(refs())
    replayed(Replay.from_manifest(first.manifest), store, ledger)
    after = run_sync(refs())
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {
        (f"replay/film/{name}", first.run.run_id) for name in ("still", "sound", "clip")
    }


def test_a_refinement_is_linked_to_what_it_refines(store: MediaStore, ledger: Ledger) -> None:
    """Changes of any field make other media, whose run has the old one as its parent."""
    first = film().run(store=store, ledger=ledger)
    changes = {"still.seed": 4, "still.prompt": "reef", "sound.duration": 2.0}
    replay = Replay.from_manifest(first.manifest, changes=changes)
    assert [step.changed for step in replay.steps] == [("seed", "prompt"), ("duration",), ()]
    again = replayed(replay, store, ledger, index=SegmentWriter(store))
    still, sound, clip = again.run.steps
    assert (still.seed, still.prompt, sound.params["duration"]) == (4, "reef", 2.0)
    assert clip.inputs[0].sha256 == still.assets[0].sha256
    assert again.run.parent_run_id == first.run.run_id
    assert not any(step.is_repeated_by(again.outcomes[step.spec.name]) for step in replay.steps)

    async def parents() -> list[dict[str, object]]:
        catalog = IndexCatalog(store)
        await catalog.load()
        return catalog.query(
            "SELECT parent_run_id FROM runs WHERE run_id = ?", [again.run.run_id]
        ).to_pylist()

    assert run_sync(parents()) == [{"parent_run_id": first.run.run_id}]


def test_a_second_replay_resumes_nothing_and_pays_again(store: MediaStore, ledger: Ledger) -> None:
    """Each replay is a wish of its own; retries of one meet the same ledger rows by its scope."""
    provider = ScriptedProvider()
    first = film(provider).run(store=store, ledger=ledger)
    replay = Replay.from_manifest(first.manifest, providers={"scripted": provider})
    replayed(replay, store, ledger, scope="one")
    replayed(replay, store, ledger, scope="one")
    assert provider.submits == 6
    replayed(replay, store, ledger, scope="two")
    assert provider.submits == 9


def test_a_private_prompt_is_asked_for_and_recognised(store: MediaStore, ledger: Ledger) -> None:
    """Only its hash is recorded: running names the step, and the right text gives the same run."""
    provider = ScriptedProvider()
    pipeline = Pipeline("secret").step(
        provider, model="m", prompt=SECRET, negative_prompt="no", prompt_visibility="private"
    )
    first = pipeline.run(store=store, ledger=ledger)
    given = {"providers": {"scripted": provider}}
    bare = Replay.from_manifest(reread(first.manifest), **given)
    assert [p.kind for p in bare.problems] == [ProblemKind.PROMPT] * 2
    with pytest.raises(ConfigError, match=r"only its SHA-256 is recorded; give image\.prompt"):
        replayed(bare, store, ledger)
    told = {"prompt": SECRET, "negative_prompt": "no"}
    right = Replay.from_manifest(reread(first.manifest), changes=told, **given)
    assert (right.problems, right.notes) == ((), ())
    again = replayed(right, store, ledger)
    assert again.manifest.canonical_hash == first.manifest.canonical_hash
    assert again.run.steps[0].prompt_visibility is PromptVisibility.PRIVATE
    assert SECRET.encode() not in run_sync(everything(store))
    # The scripted provider itself remembers what it was asked.
    spec = replace(right.steps[0].spec, provider="scripted")
    assert SECRET not in repr([right, spec, right.problems, list(ledger.rows())])


def test_another_prompt_than_the_recorded_one_is_noticed(store: MediaStore, ledger: Ledger) -> None:
    """An otherwise unchanged step says that the text is another; a changed one is a refinement."""
    pipeline = Pipeline("secret").step(
        ScriptedProvider(), model="m", prompt="e\u0301tude", prompt_visibility="private"
    )
    manifest = pipeline.run(store=store, ledger=ledger).manifest

    def notes(**changes: object) -> tuple[str, ...]:
        return Replay.from_manifest(manifest, changes=changes).notes

    assert notes(prompt="\u00e9tude") == ()
    assert [note.split(": ")[1][:50] for note in notes(prompt="other")] == [
        "the prompt given is not the recorded one, its SHA-"
    ]
    assert notes(prompt="other", seed=3) == ()
    assert "other" not in str(notes(prompt="other"))


def test_a_prompt_that_genblaze_left_in_clear_is_used_and_stays_private(vectors: Path) -> None:
    """genblaze writes private prompts out; the replay has them and keeps their visibility."""
    path = vectors / "genblaze" / "manifests" / "036_visibility_private.json"
    manifest = parse_manifest(path.read_bytes())
    replay = Replay.from_manifest(manifest)
    assert replay.steps[0].spec.prompt == manifest.run.steps[0].prompt is not None
    assert replay.steps[0].spec.prompt_visibility is PromptVisibility.PRIVATE
    assert replay.has_private_prompts


def test_a_redacted_copy_leads_to_the_whole_manifest(store: MediaStore, ledger: Ledger) -> None:
    """What was taken out cannot be guessed; the problem names what and which manifest has it."""
    first = film().run(store=store, ledger=ledger).manifest
    policy = EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE, include_seed=False)
    replay = Replay.from_manifest(reread(first.redacted(policy)))
    (problem,) = replay.problems
    assert problem.kind is ProblemKind.REDACTED
    assert "without prompt, seed" in problem.fact
    assert first.canonical_hash in problem.remedy
    with pytest.raises(ConfigError, match="redacted copy"):
        replayed(replay, store, ledger)


def one_step(*, run_id: str = "run-1", **fields: object) -> Manifest:
    given = {"provider": "local", "model": "local-image", "prompt": "x", **fields}
    return Manifest.from_run(Run(run_id=run_id, steps=[Step(**given)]))  # type: ignore[arg-type]


INPUT = Asset(url="https://cdn.example.com/a.png?sig=feedface", media_type="image/png")


@pytest.mark.parametrize(
    ("manifest", "kind", "words"),
    [
        (Manifest.from_run(Run()), ProblemKind.NOTHING, "no step"),
        (one_step(status=StepStatus.FAILED), ProblemKind.FAILED_STEP, "it failed when"),
        (one_step(provider="acme"), ProblemKind.PROVIDER, "'acme' of image is not installed"),
        (one_step(provider="dagster"), ProblemKind.PROVIDER, "'dagster'"),
        (one_step(inputs=[INPUT]), ProblemKind.INPUT, "has no sha256"),
        (
            one_step(params={"api_key": "sk-proj-" + "a1B2" * 10}),
            ProblemKind.DECLARATION,
            "looks like a secret at",
        ),
        (one_step(params={"inputs": []}), ProblemKind.DECLARATION, "hold 'inputs'"),
        (
            one_step(metadata={"_fallback_models": ["m2", "m2"]}),
            ProblemKind.DECLARATION,
            "repeat a model",
        ),
        (one_step(run_id=""), ProblemKind.DECLARATION, "run id"),
        (one_step(run_id="x" * 300), ProblemKind.DECLARATION, "run id"),
        (one_step(run_id="a\nb"), ProblemKind.DECLARATION, "run id"),
    ],
    ids=[
        "no steps",
        "failed step",
        "unknown provider",
        "own function",
        "unhashed input",
        "secret",
        "reserved parameter",
        "broken fallback",
        "no run id",
        "long run id",
        "unprintable run id",
    ],
)
def test_what_cannot_be_restored_is_named(
    manifest: Manifest, kind: ProblemKind, words: str, store: MediaStore, ledger: Ledger
) -> None:
    """Each problem has a remedy, running raises with it, and no secret is in its text."""
    replay = Replay.from_manifest(manifest)
    problem = replay.problems[0]
    assert problem.kind is kind
    assert words in problem.fact
    assert problem.remedy
    assert "sk-proj" not in str(problem)
    assert "feedface" not in str(problem)
    with pytest.raises(ConfigError, match="cannot be replayed"):
        replayed(replay, store, ledger)


def test_an_encrypted_prompt_needs_its_text(vectors: Path) -> None:
    """The recorded text is a cipher: with the real one, and another visibility, it can be run."""
    path = vectors / "genblaze" / "manifests" / "035_encrypted_with_scheme.json"
    manifest = parse_manifest(path.read_bytes())
    assert Replay.from_manifest(manifest).problems[0].kind is ProblemKind.ENCRYPTED
    only_visibility = {"prompt_visibility": "private"}
    assert Replay.from_manifest(manifest, changes=only_visibility).problems
    local = {"provider": "local", "model": "local-image"}
    told = {"prompt": "x", "negative_prompt": "y", **only_visibility, **local}
    assert Replay.from_manifest(manifest, changes=told).problems == ()


def test_imported_media_becomes_an_input_with_its_record(vectors: Path) -> None:
    """A step without a provider is not run; what it brought in is external input, and said."""
    path = vectors / "genblaze" / "manifests" / "007_import_and_edit.json"
    manifest = parse_manifest(path.read_bytes())
    replay = Replay.from_manifest(manifest)
    (edit,) = replay.steps
    assert edit.spec.sources == (ExternalInput(asset=manifest.run.steps[1].inputs[0]),)
    assert "is not made again" in replay.notes[0]


def test_generated_and_imported_inputs_keep_their_order(store: MediaStore, ledger: Ledger) -> None:
    """A mix that no call of step() can declare is restored all the same, and runs."""
    provider = ScriptedProvider()
    first = (
        Pipeline("mix")
        .step(provider, model="m", name="still")
        .run(store=store, ledger=ledger)
        .manifest
    )
    made = first.run.steps[0].assets[0]
    data = b"brought in from outside"
    stored = run_sync(
        store.put_media(data, media_type="audio/wav", extension=".wav", placement=_nowhere())
    )
    sound = Asset(url=stored.url, media_type="audio/wav", sha256=stored.sha256)
    steps = [
        Step(model="rss", step_type=StepType.INGEST, assets=[sound]),
        *first.run.steps,
        Step(provider="scripted", model="m", inputs=[sound, made], modality="video"),
    ]
    manifest = Manifest.from_run(Run(steps=steps))
    replay = Replay.from_manifest(manifest, providers={"scripted": provider})
    assert replay.steps[1].spec.sources == (ExternalInput(asset=sound), "still")
    again = replayed(replay, store, ledger)
    assert [a.sha256 for a in again.run.steps[1].inputs] == [sound.sha256, made.sha256]
    assert again.run.steps[1].inputs[0] == sound


def _nowhere():
    from genblaze_dagster.storage.keys import Placement

    return Placement(run_id=None, asset_id="5" * 8)


def test_fallback_models_are_restored(store: MediaStore, ledger: Ledger, vectors: Path) -> None:
    """The declared model is asked first again, whichever ran; of genblaze's manifests as well."""
    provider = ScriptedProvider(submit_errors=[ModelError("overloaded")])
    pipeline = Pipeline("p").step(provider, model="m1", fallback_models=["m2", "m3"])
    first = pipeline.run(store=store, ledger=ledger)
    assert first.run.steps[0].model == "m2"
    given = {"scripted": provider}
    replay = Replay.from_manifest(reread(first.manifest), providers=given)
    spec = replay.steps[0].spec
    assert (spec.model, spec.fallback_models, dict(spec.metadata)) == ("m1", ("m2", "m3"), {})
    assert replayed(replay, store, ledger).run.steps[0].model == "m1"
    other = Replay.from_manifest(first.manifest, changes={"model": "m3"}, providers=given)
    assert other.steps[0].spec.fallback_models == ("m2",)

    path = vectors / "genblaze" / "manifests" / "014_multi_step_chain.json"
    theirs = Replay.from_manifest(parse_manifest(path.read_bytes()))
    still = theirs.steps[0].spec
    assert (still.model, still.fallback_models) == ("model-0", ("m2", "m3"))
    # The job id of the old run would be untrue of the new one.
    assert dict(still.metadata) == {}
    assert "upstream_id" in theirs.notes[0]
    assert [step.spec.name for step in theirs.steps] == ["image", "video", "video_2"]


def test_a_changed_manifest_is_not_run(store: MediaStore, ledger: Ledger) -> None:
    """Unless forced, a manifest has to be what was written."""
    manifest = film().run(store=store, ledger=ledger).manifest
    manifest.run.steps[0].prompt = "something else"
    replay = Replay.from_manifest(manifest)
    with pytest.raises(IntegrityError, match="changed after it was written"):
        replayed(replay, store, ledger)
    assert replayed(replay, store, ledger, force=True).run.steps[0].prompt == "something else"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "names no step"),
        ({"movie.seed": 1}, "names no step"),
        ({"still.": 1}, "names no step"),
        ({"still.seed": "one"}, "give an integer"),
        ({"still.seed": True}, "give an integer"),
        ({"still.prompt": 7}, "give a text"),
        ({"still.prompt_visibility": "hidden"}, "give one of public"),
    ],
)
def test_a_wrong_change_says_what_is_right(
    changes: dict[str, object], words: str, store: MediaStore, ledger: Ledger
) -> None:
    """Nothing that is misspelt goes to a vendor as a parameter."""
    manifest = film(ScriptedProvider()).run(store=store, ledger=ledger).manifest
    with pytest.raises(ConfigError, match=words):
        Replay.from_manifest(manifest, changes=changes)


def test_a_failed_step_leaves_a_record_with_its_parent(store: MediaStore, ledger: Ledger) -> None:
    """What succeeded is stored; the failed run is written and linked too."""
    provider = ScriptedProvider()
    first = film(provider).run(store=store, ledger=ledger)
    provider.submit_errors = [ModelError("gone")]
    replay = Replay.from_manifest(first.manifest, providers={"scripted": provider})
    with pytest.raises(PipelineError) as caught:
        replayed(replay, store, ledger)
    result = caught.value.result
    assert result is not None
    assert result.run.parent_run_id == first.run.run_id


def test_run_metadata_is_kept(store: MediaStore, ledger: Ledger) -> None:
    """It is hashed, so that a run with it is repeated with an equal hash."""
    first = film().run(store=store, ledger=ledger).manifest
    first.run.metadata = {"campaign": {"id": 7}}
    first.compute_hash()
    again = replayed(Replay.from_manifest(first), store, ledger)
    assert again.run.metadata == {"campaign": {"id": 7}}
    assert again.manifest.canonical_hash == first.canonical_hash


def test_costs_are_estimated_without_reading_anything() -> None:
    """A provider says what it expects; for an unknown one nobody knows."""
    local = Replay.from_manifest(one_step(inputs=[INPUT]))
    assert estimated_cost(local.steps[0]) == 0.0
    unknown = Replay.from_manifest(one_step(provider="acme"))
    assert estimated_cost(unknown.steps[0]) is None
    paid = Replay.from_manifest(
        one_step(provider="acme"), providers={"acme": ScriptedProvider(cost_usd=0.25)}
    )
    assert estimated_cost(paid.steps[0]) == 0.25


def test_every_manifest_of_genblaze_is_read_to_its_end(vectors: Path) -> None:
    """Each valid one gives its steps in order; no invalid one gives anything but a typed error."""
    restored = 0
    for path in sorted((vectors / "genblaze" / "manifests").glob("*.json")):
        try:
            manifest = parse_manifest(path.read_bytes())
        except ManifestError:
            continue
        replay = Replay.from_manifest(manifest)
        run_by_provider = [s for s in manifest.run.steps if s.provider is not None]
        assert [step.recorded for step in replay.steps] == run_by_provider
        for step in replay.steps:
            assert step.spec.params == step.recorded.params
            assert step.spec.prompt == step.recorded.prompt
            assert len(step.spec.sources) <= len(step.recorded.inputs)
        assert replay.hash_ok == _hash_ok(manifest)
        restored += 1
    assert restored > 40


def _hash_ok(manifest: Manifest) -> bool:
    try:
        return manifest.verify_hash()
    except GenblazeError:
        return False


def test_the_hash_of_a_prompt_is_that_of_its_normal_form() -> None:
    """What is recorded of a private prompt can be computed with any tool."""
    from genblaze_dagster.pipeline.generation import fingerprint

    assert fingerprint("e\u0301") == hashlib.sha256("\u00e9".encode()).hexdigest()
