"""Under a policy, what is hidden is nowhere in the bytes, and the rest still verifies."""

import unicodedata

import pytest

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, AudioMetadata, Run, Step, WordTiming
from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.core.policy import EmbedPolicy

PROMPT = "the café launch nobody knows of"
NEGATIVE = "blurry competitor logos"
SHA256 = "ab" * 32


def run(visibility: PromptVisibility = PromptVisibility.PUBLIC) -> Run:
    """Two steps that quote the first one's prompt everywhere a writer may put it."""
    words = [WordTiming(word=word, start=0.0, end=1.0) for word in PROMPT.split()]
    spoken = Asset(
        url="https://a.test/x.wav",
        media_type="audio/wav",
        sha256=SHA256,
        metadata={"text": PROMPT},
        audio=AudioMetadata(word_timings=words),
    )
    first = Step(
        provider="acme",
        model="m",
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        prompt_visibility=visibility,
        seed=77123,
        params={"style": "secret-style", "seed": 77123, "prompt_2": "more of it"},
        metadata={"nested": [{f"about {PROMPT}": unicodedata.normalize("NFD", PROMPT)}]},
        provider_payload={"revised_prompt": "a rewritten version", "prompt_tokens": 7},
        error=f"refused: {PROMPT}",
        assets=[spoken],
    )
    second = Step(
        provider="acme", model="m", prompt=f"again, {PROMPT}!", inputs=[spoken], assets=[spoken]
    )
    return Run(name=f"run for {PROMPT}", steps=[first, second], metadata={"title": PROMPT})


@pytest.mark.parametrize(
    "policy",
    [
        EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE),
        EmbedPolicy(prompt_visibility=PromptVisibility.REDACTED),
        EmbedPolicy(prompt_visibility=PromptVisibility.ENCRYPTED),
    ],
    ids=str,
)
def test_hidden_prompts_are_nowhere_in_the_bytes(policy: EmbedPolicy) -> None:
    """Prompts, their copies, echoes and spoken words are gone; the rest verifies."""
    manifest = Manifest.from_run(run())
    text = manifest.to_embed_json(policy)
    for secret in ("launch", "café", "competitor", "rewritten", "more of it"):
        assert secret not in unicodedata.normalize("NFC", text)
    shown = parse_manifest(text)
    assert shown.verify()
    assert shown.canonical_hash != manifest.canonical_hash
    assert shown.run.metadata["redacted"] == {
        "canonical_hash": manifest.canonical_hash,
        "fields": ["prompt"],
    }
    assert shown.run.steps[0].assets[0].sha256 == SHA256
    assert shown.run.steps[0].prompt_visibility is PromptVisibility.REDACTED
    assert shown.run.steps[0].provider_payload == {"prompt_tokens": 7}
    assert shown.run.steps[0].params["style"] == "secret-style"


def test_params_and_seed_are_nowhere_in_the_bytes() -> None:
    """Left out params take their seed with them; a left out seed leaves other params."""
    manifest = Manifest.from_run(run())
    bare = manifest.to_embed_json(EmbedPolicy(include_params=False, include_seed=False))
    assert "secret-style" not in bare
    assert "77123" not in bare
    seedless = parse_manifest(manifest.to_embed_json(EmbedPolicy(include_seed=False)))
    assert seedless.run.steps[0].params == {"style": "secret-style", "prompt_2": "more of it"}
    assert seedless.run.steps[0].prompt == PROMPT
    assert seedless.run.metadata["redacted"]["fields"] == ["seed"]
    assert seedless.verify()


@pytest.mark.parametrize("own", [PromptVisibility.PRIVATE, PromptVisibility.REDACTED])
def test_a_private_step_stays_private_under_a_public_policy(own: PromptVisibility) -> None:
    """A step's own visibility counts, and reaches quotes of it in public steps."""
    text = Manifest.from_run(run(own)).to_embed_json(EmbedPolicy())
    assert "launch" not in text
    shown = parse_manifest(text)
    assert shown.run.steps[0].prompt_visibility is own
    assert shown.run.steps[1].prompt == "again, [redacted]!"


def test_an_encrypted_prompt_stays_unless_it_is_to_be_hidden() -> None:
    """Ciphertext may be shown under the policies public and encrypted, not under the others."""
    encrypted = run(PromptVisibility.ENCRYPTED)
    encrypted.steps = encrypted.steps[:1]
    manifest = Manifest.from_run(encrypted)
    manifest.encryption_scheme = "age"
    for visibility in (PromptVisibility.PUBLIC, PromptVisibility.ENCRYPTED):
        policy = EmbedPolicy(prompt_visibility=visibility)
        assert manifest.to_embed_json(policy) == manifest.to_canonical_json()
    shown = manifest.redacted(EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE))
    assert shown.run.steps[0].prompt is None


def test_the_whole_manifest_is_untouched() -> None:
    """Redaction works on a copy, and gives the very same manifest when nothing is hidden."""
    manifest = Manifest.from_run(run())
    before = manifest.to_canonical_json()
    manifest.redacted(EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE, include_params=False))
    assert manifest.to_canonical_json() == before
    assert manifest.redacted(EmbedPolicy()) is manifest


def test_a_short_prompt_does_not_tear_other_words_apart() -> None:
    """A prompt of a few letters is only taken out where it is the whole value."""
    step = Step(provider="p", model="m", prompt="a", params={"style": "grainy", "copy": "a"})
    policy = EmbedPolicy(prompt_visibility=PromptVisibility.PRIVATE)
    shown = Manifest.from_run(Run(steps=[step])).redacted(policy)
    assert shown.run.steps[0].params == {"style": "grainy", "copy": "[redacted]"}
