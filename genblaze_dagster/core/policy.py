"""How much of a manifest goes into a media file."""

from enum import StrEnum

from pydantic import BaseModel

from genblaze_dagster.core.enums import PromptVisibility


class EmbedMode(StrEnum):
    """The whole manifest, a pointer to where it is stored, or nothing."""

    FULL = "full"
    POINTER = "pointer"
    NONE = "none"


class EmbedPolicy(BaseModel):
    """What an embedded manifest may show. It is never part of a manifest.

    What is left out is really gone: the embedded manifest is then one of its own, with its own
    hash, that names the `canonical_hash` of the whole one; see `Manifest.redacted`. Prompts of
    steps that are private or redacted themselves never go into a file.

    `prompt_visibility` other than public leaves out all prompts (encrypted keeps those that are
    encrypted already), `include_params` and `include_seed` say whether these stay.
    """

    prompt_visibility: PromptVisibility = PromptVisibility.PUBLIC
    embed_mode: EmbedMode = EmbedMode.FULL
    include_params: bool = True
    include_seed: bool = True
