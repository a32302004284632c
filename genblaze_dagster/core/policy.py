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

    A full manifest cannot hide anything, because its hash would not verify: only the visibilities
    public, redacted and encrypted, with params and seed, can be embedded in full, and all of them
    show the prompt.
    """

    prompt_visibility: PromptVisibility = PromptVisibility.PUBLIC
    embed_mode: EmbedMode = EmbedMode.FULL
    include_params: bool = True
    include_seed: bool = True

    @property
    def hides_something(self) -> bool:
        """Whether the policy asks to leave out params, seed or a private prompt."""
        return (
            self.prompt_visibility == PromptVisibility.PRIVATE
            or not self.include_params
            or not self.include_seed
        )
