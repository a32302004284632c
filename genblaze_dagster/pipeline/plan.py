"""What of a pipeline is stored already, without asking anybody for anything."""

import asyncio
from collections.abc import Mapping, Sequence

from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import NotFoundError
from genblaze_dagster.pipeline.declaration import Pipeline, StepSpec
from genblaze_dagster.pipeline.fallback import models_of
from genblaze_dagster.pipeline.generation import render
from genblaze_dagster.pipeline.inputs import Consumed, Inputs
from genblaze_dagster.pipeline.lineage import Upstream
from genblaze_dagster.providers.registry import resolve_provider
from genblaze_dagster.storage.refs import read_ref
from genblaze_dagster.storage.store import MediaStore


async def stored_steps(
    pipeline: Pipeline,
    store: MediaStore,
    *,
    partition_key: str | None,
    variables: Mapping[str, object],
    key_prefix: Sequence[str] = (),
) -> dict[str, MediaRef]:
    """Return, by step name, the stored references that equal what would be generated now.

    A step is left out when nothing is stored for it, when its prompt, model, parameters or inputs
    have changed since, or when its bytes are gone.

    Raises:
        PromptTemplateError: the row lacks a variable.
        StorageError: the store cannot be read.
    """
    found: dict[str, MediaRef] = {}
    inputs = Inputs(store, Upstream(store))
    for spec in pipeline.steps:
        if any(name not in found for name in spec.inputs):
            continue
        asset_key = "/".join((*key_prefix, spec.name))
        ref = await read_ref(store, asset_key, partition_key)
        if ref is None:
            continue
        # The model that delivered may be one of the step's fallbacks.
        asked = next((model for model in models_of(spec) if model.model == ref.model), None)
        if asked is None:
            continue
        refs = [found[name] for name in spec.inputs]
        try:
            consumed = await inputs.consumed(spec, refs, download=False)
        except NotFoundError:
            continue
        key = _generation_key(asked, consumed, variables)
        if key == ref.generation_key and await _is_there(store, ref):
            found[spec.name] = ref
    return found


def _generation_key(spec: StepSpec, consumed: Consumed, variables: Mapping[str, object]) -> str:
    provider = resolve_provider(spec.provider) if isinstance(spec.provider, str) else spec.provider
    return render(spec, provider, variables=variables, inputs=consumed.media).key


async def _is_there(store: MediaStore, ref: MediaRef) -> bool:
    keys = [ref.manifest_key, *(media.key for media in ref.media)]
    return all(await asyncio.gather(*(store.head(key) for key in keys)))
