import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from genblaze_dagster import Manifest, MediaStore, Pipeline
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.media import embed
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.providers import register_provider
from genblaze_dagster.storage.integrity import check_refs
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.refs import list_refs
from tests.support.scripted import ScriptedProvider

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a prompt that nobody but its author may read"
PAID = ScriptedProvider(name="paid-in-tests", cost_usd=0.25)


@dataclass(frozen=True)
class Film:
    """A recorded run: its folder, store, manifest and manifest file."""

    folder: Path
    store: MediaStore
    manifest: Manifest
    path: Path

    def env(self, folder: Path) -> dict[str, str]:
        """Where a replay keeps what it makes, when nothing is said."""
        return {
            "GENBLAZE_STORE": (folder / "new").as_uri(),
            "GENBLAZE_LEDGER": f"sqlite:///{folder / 'new.db'}",
        }


def record(folder: Path, pipeline: Pipeline) -> Film:
    store = MediaStore((folder / "store").as_uri())
    result = pipeline.run(store=store, ledger=f"sqlite:///{folder / 'ledger.db'}")
    path = folder / "manifest.json"
    path.write_text(result.manifest.to_canonical_json(), encoding="utf-8")
    return Film(folder, store, result.manifest, path)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Film:
    """Picture and sound into a video, by the local provider."""
    pipeline = (
        Pipeline("film")
        .step(
            "local",
            model="local-image",
            prompt="dunes\x1b[31m",
            negative_prompt="people",
            seed=3,
            params={"width": 96, "height": 96},
        )
        .step("local", model="local-audio", modality="audio", params={"duration": 1.0})
        .step(
            "local",
            model="local-video",
            modality="video",
            prompt="slow pan",
            params={"duration": 1.0, "fps": 6},
            input_from=["image", "audio"],
        )
    )
    return record(tmp_path_factory.mktemp("film"), pipeline)


@pytest.fixture
def secret(tmp_path: Path) -> Film:
    """One picture by a private prompt."""
    folder = tmp_path / "secret"
    folder.mkdir()
    pipeline = Pipeline("secret").step(
        "local",
        model="local-image",
        prompt=SECRET,
        prompt_visibility="private",
        params={"width": 64, "height": 64},
    )
    return record(folder, pipeline)


@pytest.fixture
def paid(tmp_path: Path) -> Film:
    """One picture by a provider that is paid."""
    register_provider(PAID.name, lambda: PAID)
    folder = tmp_path / "paid"
    folder.mkdir()
    return record(folder, Pipeline("paid").step(PAID.name, model="m", prompt="x"))


def test_a_preview_shows_what_would_be_run(film: Film, invoke) -> None:
    """Steps with provider, model, parameters, inputs and price; prompts only when asked for."""
    ended = invoke("replay", film.path)
    assert ended.status == 0
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["run", film.manifest.run.run_id]
    assert "video  local/local-video  generate video" in lines
    for line in ("  prompt    [redacted]", "  seed      3", "  inputs    image, audio"):
        assert line in lines
    assert '  params    {"height": 96, "width": 96}' in lines
    assert "dunes" not in ended.stdout
    shown = invoke("replay", film.path, "--show-prompts")
    assert "  prompt    dunes\\x1b[31m" in shown.stdout.splitlines()
    assert "slow pan" in shown.stdout


def test_a_preview_is_one_json_document(film: Film, invoke) -> None:
    """With --json every fact is a field."""
    document = invoke("replay", film.path, "--json", "--with", "image.seed=7").document
    assert document["hash_ok"] is True
    assert document["canonical_hash"] == film.manifest.canonical_hash
    assert (document["estimated_cost_usd"], document["problems"]) == (0.0, [])
    still, _, clip = document["steps"]
    assert (still["seed"], still["changed"], still["prompt"]) == (7, ["seed"], "[redacted]")
    assert clip["inputs"] == [{"step": "image"}, {"step": "audio"}]
    assert still["recorded_sha256"] == [film.manifest.run.steps[0].assets[0].sha256]


def test_a_run_gives_the_recorded_bytes_again(film: Film, tmp_path: Path, invoke) -> None:
    """In this process, into the store of the environment, linked to the recorded run."""
    ended = invoke("replay", film.path, "--run", "--json", env=film.env(tmp_path))
    assert ended.status == 0
    document = ended.document
    assert document["parent_run_id"] == film.manifest.run.run_id
    assert document["canonical_hash_repeated"] is True
    assert [step["bytes_repeated"] for step in document["steps"]] == [True] * 3
    assert [step["origin"] for step in document["steps"]] == ["generated"] * 3

    async def verified() -> bool:
        store = MediaStore((tmp_path / "new").as_uri())
        manifest = await read_manifest(store, document["run_id"])
        refs = [ref async for ref in list_refs(store)]
        checks = await check_refs(store, refs)
        linked = manifest.run.parent_run_id == film.manifest.run.run_id
        return linked and len(checks) == 3 and all(check.ok for check in checks)

    assert run_sync(verified())


def test_a_refinement_says_what_differs(film: Film, tmp_path: Path, invoke) -> None:
    """--with changes any field; the report tells new bytes from recorded ones."""
    arguments = ("--run", "--store", tmp_path / "other", "--ledger", tmp_path / "other.db")
    changes = ("--with", 'image.prompt="blue dunes"', "--with", "image.width=64")
    ended = invoke("replay", film.path, *arguments, *changes)
    assert ended.status == 0
    told = {line.split()[0]: line for line in ended.stdout.splitlines() if "by local/" in line}
    assert told["image"].endswith("other bytes")
    assert told["audio"].endswith("the recorded bytes")
    assert told["video"].endswith("other bytes")
    run_id = next(line for line in ended.stdout.splitlines() if line.startswith("run ")).split()[1]
    made = run_sync(read_manifest(MediaStore((tmp_path / "other").as_uri()), run_id))
    assert made.run.parent_run_id == film.manifest.run.run_id
    assert made.run.steps[0].prompt == "blue dunes"
    assert made.run.steps[0].params["width"] == 64


def test_media_with_a_manifest_inside_is_a_target(film: Film, tmp_path: Path, invoke) -> None:
    """A video that carries its manifest, a file of the store, and one the store must explain."""
    clip = tmp_path / "clip.mp4"
    made = film.manifest.run.steps[-1].assets[0]
    key = film.store.key_from_url(made.url)
    assert key is not None
    clip.write_bytes(run_sync(film.store.get(key)))
    by_store = invoke("replay", clip, "--store", film.store.url, "--json")
    assert by_store.document["run_id"] == film.manifest.run.run_id
    assert invoke("replay", clip).status == 3
    embed(clip, film.manifest)
    assert invoke("replay", clip, "--json").document["run_id"] == film.manifest.run.run_id
    in_store = f"{film.store.url}/{key}"
    assert invoke("replay", in_store, "--json").document["run_id"] == film.manifest.run.run_id


def test_a_redacted_copy_is_previewed_and_not_run(film: Film, tmp_path: Path, invoke) -> None:
    """What the embedded copy lacks is said; the store has the whole manifest."""
    part = film.manifest.redacted(EmbedPolicy(include_seed=False))
    path = tmp_path / "part.json"
    path.write_text(part.to_canonical_json())
    ended = invoke("replay", path)
    assert ended.status == 0
    assert "problem: the manifest is a redacted copy without seed" in ended.stdout
    run = invoke("replay", path, "--run", env=film.env(tmp_path))
    assert run.status == 4
    assert "redacted copy" in run.stderr
    assert not (tmp_path / "new").exists()


def test_a_changed_manifest_is_not_run_unless_forced(film: Film, tmp_path: Path, invoke) -> None:
    """The preview ends with 1, running is refused, and --force runs what is there."""
    path = tmp_path / "changed.json"
    path.write_text(film.path.read_text().replace("slow pan", "fast pan"))
    looked = invoke("replay", path, "--show-prompts")
    assert looked.status == 1
    assert "does not match the content" in looked.stdout
    refused = invoke("replay", path, "--run", env=film.env(tmp_path))
    assert (refused.status, refused.stdout) == (1, "")
    assert "changed after it was written" in refused.stderr
    assert not (tmp_path / "new").exists()
    forced = invoke("replay", path, "--run", "--force", "--json", env=film.env(tmp_path))
    assert forced.status == 0
    assert forced.document["canonical_hash_repeated"] is False


def test_a_private_prompt_is_given_in_a_file_and_shown_nowhere(
    secret: Film, tmp_path: Path, invoke
) -> None:
    """The recorded hash recognises it; no output, log, store or ledger ever holds the text."""
    bare = invoke("replay", secret.path, "--run", env=secret.env(tmp_path))
    assert bare.status == 4
    assert "give image.prompt" in bare.stderr
    text = tmp_path / "prompt.txt"
    text.write_text(f"{SECRET}\n")
    looked = invoke("replay", secret.path, "--prompt-file", text, "--show-prompts")
    assert looked.status == 0
    assert "  prompt    [redacted]" in looked.stdout
    assert "note" not in looked.stdout
    run = invoke(
        "replay", secret.path, "--prompt-file", f"image={text}", "--run", env=secret.env(tmp_path)
    )
    assert run.status == 0
    assert "the recorded bytes" in run.stdout
    other = invoke("replay", secret.path, "--with", "prompt=another text", "--json")
    assert "not the recorded one" in other.document["notes"][0]
    for ended in (bare, looked, run, other):
        for private in (SECRET, "another text"):
            assert private not in ended.stdout + ended.stderr
    made = [p for p in tmp_path.rglob("*") if p.is_file() and p != text]
    assert len(made) > 3
    assert not [path for path in made if SECRET.encode() in path.read_bytes()]


def test_a_private_prompt_in_clear_is_kept_out_of_a_preview(
    vectors: Path, tmp_path: Path, invoke
) -> None:
    """genblaze writes it into the manifest; parameters that quote it are cleaned as well."""
    document = json.loads(
        (vectors / "genblaze" / "manifests" / "036_visibility_private.json").read_text()
    )
    step = document["run"]["steps"][0]
    step["prompt"] = SECRET
    step["params"] = {"text": f"say: {SECRET}", "revised_prompt": SECRET, "steps": 4}
    path = tmp_path / "private.json"
    path.write_text(json.dumps(document))
    for options in (["--show-prompts"], ["--show-prompts", "--json"]):
        ended = invoke("replay", path, "--force", *options)
        assert ended.status == 0
        assert SECRET not in ended.stdout + ended.stderr
        assert "steps" in ended.stdout


def test_nobody_is_paid_unasked(paid: Film, tmp_path: Path, invoke) -> None:
    """Without a terminal a paid provider must be allowed; a free one never needs to be."""
    env = paid.env(tmp_path)
    before = PAID.submits
    refused = invoke("replay", paid.path, "--run", env=env)
    assert refused.status == 2
    assert "--allow-provider paid-in-tests or --yes" in refused.stderr
    assert invoke("replay", paid.path, "--run", "--allow-provider", "x", env=env).status == 2
    assert PAID.submits == before
    allowed = ("--allow-provider", "paid-in-tests", "--json")
    ended = invoke("replay", paid.path, "--run", *allowed, env=env)
    assert (ended.status, ended.document["steps"][0]["cost_usd"]) == (0, 0.25)
    assert invoke("replay", paid.path, "--run", "--yes", env=env).status == 0
    assert PAID.submits == before + 2


@pytest.mark.parametrize(("answer", "status", "made"), [("y", 0, True), ("n", 130, False)])
def test_a_terminal_is_asked_before_anything_is_paid(
    answer: str, status: int, made: bool, paid: Film, tmp_path: Path
) -> None:
    """The question names provider, number and price; no means that nothing is sent."""
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "from genblaze_dagster.providers import register_provider;"
        "from tests.support.scripted import ScriptedProvider;"
        "register_provider('paid-in-tests', lambda: ScriptedProvider(cost_usd=0.25));"
        "from genblaze_dagster.cli import main; main()"
    )
    ours, theirs = os.openpty()
    os.write(ours, f"{answer}\n".encode())
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, ROOT, "replay", paid.path, "--run"],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **paid.env(tmp_path)},
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == status, done.stderr
    assert "Ask paid-in-tests for 1 generation(s), at about $0.2500?" in done.stderr
    assert (tmp_path / "new").exists() is made


def test_a_failed_step_ends_with_1(paid: Film, tmp_path: Path, invoke) -> None:
    """The report says which step failed and why; what was written is a run all the same."""
    from genblaze_dagster.errors import ContentPolicyError

    PAID.submit_errors = [ContentPolicyError("refused by moderation")]
    env = paid.env(tmp_path)
    ended = invoke("replay", paid.path, "--run", "--yes", "--json", env=env)
    assert ended.status == 1
    assert ended.document["status"] == "failed"
    (step,) = ended.document["steps"]
    assert step["error"]["type"] == "ContentPolicyError"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--run", "--launch", "http://127.0.0.1:1"), "--run and --launch"),
        (("--yes",), "--yes belongs to --run"),
        (("--allow-provider", "x"), "--allow-provider belongs to --run"),
        (("--ledger", "x"), "--ledger belongs to --run"),
        (("--wait",), "--wait belongs to --launch"),
        (("--location", "x"), "--location belongs to --launch"),
        (("--with", "seed"), "has no value"),
        (("--with", "image.seed=1", "--with", "image.seed=2"), "changed twice"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, tuple) else None,
)
def test_options_that_make_no_sense_are_usage_errors(
    arguments: tuple[str, ...], words: str, film: Film, invoke
) -> None:
    """Each names what is wrong, before anything is read or run."""
    ended = invoke("replay", film.path, *arguments)
    assert (ended.status, ended.stdout) == (2, "")
    assert words in ended.stderr


def test_a_folder_is_no_run(film: Film, invoke) -> None:
    """A store holds many runs; one has to be named."""
    ended = invoke("replay", film.folder / "store")
    assert ended.status == 2
    assert "name one manifest" in ended.stderr


def test_genblaze_manifests_are_previewed(vectors: Path, invoke) -> None:
    """Chains, fallback and external inputs of another program's files are shown."""
    folder = vectors / "genblaze" / "manifests"
    chain = invoke("replay", folder / "014_multi_step_chain.json", "--json")
    assert chain.status == 0
    first, second, third = chain.document["steps"]
    assert (first["model"], first["fallback_models"]) == ("model-0", ["m2", "m3"])
    assert second["inputs"] == [{"step": "image", "output": 0}]
    made, brought_in = third["inputs"]
    assert made == {"step": "video"}
    assert brought_in["external"].startswith("085098b9")
    assert "'acme' of image, video, video_2" in chain.document["problems"][0]["fact"]
    edited = invoke("replay", folder / "007_import_and_edit.json", "--json")
    assert edited.document["steps"][0]["inputs"][0]["external"]
    assert invoke("replay", folder / "022_tampered_prompt.json").status == 1


def test_a_preview_imports_no_dagster_and_no_codec(film: Film) -> None:
    """Looking at a run is quick."""
    program = (
        "import sys; from click.testing import CliRunner; from genblaze_dagster.cli.app import cli;"
        f"ended = CliRunner().invoke(cli, ['replay', {str(film.path)!r}]);"
        "heavy = {'dagster', 'dagster_aws', 'boto3', 'av', 'numpy', 'PIL', 'duckdb', 'pyarrow'};"
        "print(ended.exit_code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("0 []\n", "")
