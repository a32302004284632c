"""What a provider can do, as data: the README's table of vendors is made from it."""

from dataclasses import dataclass
from enum import StrEnum

from genblaze_dagster.core.enums import Modality


class InputForm(StrEnum):
    """How a vendor takes media of an earlier step."""

    URL = "url"
    """It fetches a URL."""
    DATA = "data"
    """The bytes stand in the request, as base64 or a data URI."""
    UPLOAD = "upload"
    """The file is uploaded, before or with the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a provider does and what its vendor offers.

    Args:
        makes: capabilities for people, such as `video`, `image edit`, `speech`.
        modalities: of the outputs.
        inputs: forms in which it takes media, none when it takes none.
        jobs: whether a submit gives a job to poll; otherwise the result itself.
        cancels: whether a running job can be stopped.
        finds_jobs: whether a job can be found after the answer to its submit was lost.
        webhooks: whether the vendor calls back when a job is over, and that is understood here.
        reports_cost: whether the vendor's answer says what was charged.
        output_lifetime_hours: how long output URLs live, None when there are none or nobody says.
    """

    makes: tuple[str, ...]
    modalities: tuple[Modality, ...]
    inputs: tuple[InputForm, ...] = ()
    jobs: bool = True
    cancels: bool = False
    finds_jobs: bool = False
    webhooks: bool = False
    reports_cost: bool = False
    output_lifetime_hours: float | None = None
