"""From a declared step and a row to one concrete request, and the key that identifies it."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.core.canonical import canonical_hash
from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import check_json
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.redact import find_secret
from genblaze_dagster.pipeline.declaration import (
    FALLBACK_FROM,
    FALLBACK_MODEL,
    FALLBACK_MODELS,
    StepSpec,
)
from genblaze_dagster.pipeline.template import render_value
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Provider
from genblaze_dagster.providers.registry import resolve_provider


@dataclass(frozen=True, slots=True)
class Generation:
    """One request, rendered and identified.

    `key` is a SHA-256 over everything that decides the output: two generations with the same key
    ask the same of the same model with the same input bytes.
    """

    spec: StepSpec
    provider: Provider
    request: GenerationRequest
    metadata: Mapping[str, Any]
    key: str


def provider_of(spec: StepSpec) -> Provider:
    """Return the provider of a step, looked up by its name if need be.

    Raises:
        UnknownProviderError: none of that name is registered.
    """
    return resolve_provider(spec.provider) if isinstance(spec.provider, str) else spec.provider


def render(
    spec: StepSpec,
    provider: Provider,
    *,
    variables: Mapping[str, object],
    inputs: Sequence[InputMedia],
) -> Generation:
    """Fill a declaration from a row and check it, before anything is paid.

    Raises:
        PromptTemplateError: the row lacks a variable.
        ManifestError: a parameter cannot stand in a manifest (depth, type, lone surrogate).
        ConfigError: a parameter looks like a secret, or the seed is not an integer.
        ProviderError: the provider refuses the request.
    """
    params = render_value(dict(spec.params), variables)
    metadata = {**render_value(dict(spec.metadata), variables), **_fallback(spec)}
    prompt = render_value(spec.prompt, variables)
    negative_prompt = render_value(spec.negative_prompt, variables)
    check_json(params, where=f"params of step {spec.name!r}")
    check_json(metadata, where=f"metadata of step {spec.name!r}")
    check_json([prompt, negative_prompt], where=f"prompt of step {spec.name!r}")
    secret = find_secret(params)
    if secret is not None:
        raise ConfigError(
            f"params of step {spec.name!r} hold what looks like a secret at {secret}; "
            "give keys to the provider or its resource"
        )
    seed = _seed(render_value(spec.seed, variables), spec.name)
    key = canonical_hash(
        {
            "provider": provider.name,
            "provider_version": provider.version,
            "model": spec.model,
            "modality": spec.modality,
            "step_type": spec.step_type,
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "prompt_visibility": spec.prompt_visibility,
            "seed": seed,
            "params": params,
            "metadata": metadata,
            "inputs": [item.asset.sha256 for item in inputs],
        }
    )
    request = GenerationRequest(
        model=spec.model,
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        modality=spec.modality,
        step_type=spec.step_type,
        params=params,
        inputs=tuple(inputs),
        timeout=spec.timeout,
    )
    provider.validate(request)
    return Generation(spec, provider, request, metadata, key)


def _fallback(spec: StepSpec) -> dict[str, Any]:
    """Return what a manifest says of the models that may stand in, and of the one that does."""
    if not spec.fallback_models:
        return {}
    declared = {FALLBACK_MODELS: list(spec.fallback_models)}
    if spec.fallback_from is None:
        return declared
    return {**declared, FALLBACK_FROM: spec.fallback_from, FALLBACK_MODEL: spec.model}


def _seed(value: object, step: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    # CSV rows hold text; a seed column is meant as a number.
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    raise ConfigError(f"seed of step {step!r} is not an integer; correct the column or the value")


def recorded_prompts(generation: Generation) -> tuple[str | None, str | None, dict[str, Any]]:
    """Return prompt, negative prompt and metadata as they may stand in a manifest.

    A prompt that is not public is replaced by its SHA-256 (of the NFC text) in the metadata: it
    can be recognised by who has it, and read by nobody.
    """
    request = generation.request
    metadata = dict(generation.metadata)
    if generation.spec.prompt_visibility is PromptVisibility.PUBLIC:
        return request.prompt, request.negative_prompt, metadata
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        if text is not None:
            metadata[f"{name}_sha256"] = fingerprint(text)
    return None, None, metadata


def fingerprint(prompt: str) -> str:
    """Return the SHA-256 of a prompt's NFC text, by which it is recognised without being kept."""
    text = unicodedata.normalize("NFC", prompt)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
