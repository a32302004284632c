"""The base of vendors' providers: credentials, parameters, prices and model checks, written once.

A vendor module adds `submit` and, where the vendor has jobs, `poll`, `fetch_output` and `cancel`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import (
    GenblazeError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    ProviderUnavailableError,
)
from genblaze_dagster.net.client import HttpAnswer, HttpClient
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers import pricing
from genblaze_dagster.providers.catalogue import names_of
from genblaze_dagster.providers.model_spec import FALLBACK_SPEC, ModelSpec
from genblaze_dagster.providers.models import ModelFamily, ModelRegistry
from genblaze_dagster.providers.price_list import PriceList
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    RateLimit,
    Result,
    Submission,
)
from genblaze_dagster.providers.validation import (
    DiscoveryResult,
    DiscoveryStatus,
    DiscoverySupport,
    ValidationResult,
)
from genblaze_dagster.providers.vendor.api import Api, Vendor
from genblaze_dagster.providers.vendor.errors import Refusal, job_error
from genblaze_dagster.providers.vendor.traits import Traits

DEFAULT_MODEL = "default"
"""As the model of a step, where a vendor allows it: the vendor's own choice; none is sent."""

_KEPT_RECORDS = 1000


def _now() -> datetime:
    return datetime.now(UTC)


class VendorProvider:
    """A vendor's generation API.

    Standard parameters become native ones as the model's family says; a value the model does not
    take is refused with the allowed ones before anything is sent. A model that no family knows gets
    the parameters as they are, at an unknown price.

    Args:
        api_key: default: the vendor's environment variable, read when needed.
        base_url: another address of the same API.
        models: a registry with models, prices or families of your own.
        prices: a price list, or its entries; it comes before that of the variable GENBLAZE_PRICES,
            and both before built-in prices.
        rate_limit: what the vendor allows this account, across all processes of a ledger.
        client: an HTTP client for tests; by default the one the whole process shares.
        clock: tells the time from which `expires_at` counts.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    deduplicates: ClassVar[bool] = False
    vendor: ClassVar[Vendor]
    traits: ClassVar[Traits]
    families: ClassVar[Sequence[ModelFamily]] = ()
    others: ClassVar[ModelSpec] = FALLBACK_SPEC
    """How models no family knows get their parameters: under the API's names, with any value."""
    discovery_support: ClassVar[DiscoverySupport] = DiscoverySupport.NONE

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        models: ModelRegistry | None = None,
        prices: PriceList | Iterable[Mapping[str, Any]] | None = None,
        rate_limit: RateLimit | None = None,
        client: HttpClient | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.api = Api(
            self.vendor,
            api_key=api_key,
            base_url=base_url,
            headers=self.own_headers(),
            client=client,
        )
        known = models or ModelRegistry(
            self.others, provider_families=self.families, strict_params=True
        )
        self.models = self._with_prices(known, PriceList.effective(prices))
        self.rate_limit = rate_limit
        self.clock = clock
        self._records: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._discovered: DiscoveryResult | None = None

    def _with_prices(self, models: ModelRegistry, prices: PriceList) -> ModelRegistry:
        listed = prices.lookup(*names_of(self.name))
        if listed is None:
            return models
        # Others may share it, with prices of their own.
        priced = models.fork()
        priced.use_prices(listed)
        return priced

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def account(self) -> str:
        """Fingerprint of the credentials, which does not give them away."""
        return self.api.account

    def own_headers(self) -> Mapping[str, str]:
        """Return headers of this instance that go with the key, such as an organisation."""
        return {}

    def validate(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do, before anything is paid.

        Raises:
            AuthError: there is no key; names the variable.
            InvalidRequestError: names the parameter and the allowed values.
            ModelError: this provider certainly does not make that.
        """
        _ = self.api.key
        _ = self.api.base_url
        if request.modality not in self.traits.modalities:
            makes = ", ".join(m.value for m in self.traits.modalities)
            raise self.refusal(
                "modality", f"makes {makes} here, not {request.modality.value}", request
            )
        self.check(request, self.payload(request))

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse what the parameters by themselves do not show, such as inputs; see `validate`."""

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the native parameters of a request: prompts, seed and params, inputs apart.

        Raises:
            InvalidRequestError: names the parameter and the allowed values.
        """
        return self.models.prepare_payload(_step_of(request, self.name))

    def model_of(self, request: GenerationRequest) -> str:
        """Return the vendor's own name of the model."""
        return self.models.resolve_canonical(request.model)

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        """Return the expected price in USD, None when unknown."""
        try:
            payload = self.payload(request)
        except ProviderError:
            return None
        return self._expected(request, self.outputs_of(payload))

    def _expected(self, request: GenerationRequest, outputs: int) -> float | None:
        price = pricing.estimate_cost(
            self.models,
            request.model,
            {name: value for name, value in request.params.items() if value is not None},
            provider=self.name,
            n=outputs,
            prompt=request.prompt,
            inputs=[item.asset for item in request.inputs],
        )
        return None if price is None else float(price)

    def outputs_of(self, payload: Mapping[str, Any]) -> int:
        """Return how many outputs a payload asks for."""
        return 1

    def cost(
        self,
        request: GenerationRequest,
        outputs: Sequence[Output],
        provider_payload: Mapping[str, Any],
    ) -> float | None:
        """Return what a finished generation cost in USD by the models' prices, None when unknown.

        Where the outputs and the vendor's report do not tell, what was asked for counts.
        """
        assets = [
            Asset(
                url="about:blank",
                media_type=output.media_type or "application/octet-stream",
                duration=output.facts.get("duration"),
                width=output.facts.get("width"),
                height=output.facts.get("height"),
            )
            for output in outputs
        ]
        price = pricing.compute_cost(
            self.models,
            _step_of(request, self.name),
            assets=assets,
            provider_payload=provider_payload,
        )
        return price if price is not None else self._expected(request, len(outputs))

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        """Refuse: the call that submits returns the result."""
        raise self.refusal("job_id", "has no jobs; the submit returns the result", request)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        """Refuse: the call that submits returns the result."""
        raise self.refusal("job_id", "has no jobs; the submit returns the result", request)

    async def cancel(self, job_id: str) -> bool:
        """Return False: there is nothing to stop."""
        return False

    async def aclose(self) -> None:
        """Do nothing: the HTTP client belongs to the process or to the caller."""

    async def list_models(self) -> Iterable[str]:
        """Return the models the vendor lists; only for vendors with a list."""
        raise self.refusal("model", "has no list of models")

    async def discover_models(self, *, refresh: bool = False) -> DiscoveryResult:
        """Return the models the vendor lists, kept until `refresh`; never raises."""
        if self.discovery_support is DiscoverySupport.NONE:
            return DiscoveryResult.unsupported(detail=f"{self.name} has no list of models")
        if self._discovered is None or refresh:
            try:
                found = DiscoveryResult.ok(await self.list_models())
            except GenblazeError as exc:
                return DiscoveryResult.failed(redact(str(exc), max_chars=200))
            except (AttributeError, LookupError, TypeError, ValueError) as exc:
                # The vendor's answer is no list as its module reads one.
                detail = f"{self.name}: the list of models cannot be read ({type(exc).__name__})"
                return DiscoveryResult.failed(detail)
            self._discovered = found
        return self._discovered

    async def validate_model(self, model_id: str, *, refresh: bool = False) -> ValidationResult:
        """Return what is known about a model: the registry's word, then the vendor's list."""
        discovery = (
            None
            if self.discovery_support is DiscoverySupport.NONE
            else await self.discover_models(refresh=refresh)
        )
        is_asked = refresh and not self.models.is_registered(model_id)
        if is_asked and discovery and discovery.status is DiscoveryStatus.FAILED:
            # The vendor's word of now was asked for; that a name looks right is not it.
            return ValidationResult.unknown_permissive(detail=discovery.detail)
        return self.models.validate(
            model_id, discovery_support=self.discovery_support, discovery=discovery
        )

    def refusal(
        self, param: str, message: str, request: GenerationRequest | None = None
    ) -> InvalidRequestError:
        """Return the error for what the vendor does not take; nothing was sent."""
        return InvalidRequestError(
            f"{self.name}: {message}",
            provider=self.name,
            model=request.model if request is not None else None,
            param=param,
            sent=False,
        )

    def unknown_model(self, request: GenerationRequest, message: str) -> ModelError:
        """Return the error for a model that is certainly not one of these; nothing was sent."""
        return ModelError(
            f"{self.name}: {message}", provider=self.name, model=request.model, sent=False
        )

    def no_output(self, request: GenerationRequest, fact: str) -> OutputError:
        """Return the error for a success without the promised output; it may have been billed."""
        return OutputError(
            f"{self.name} {request.model}: {fact}; it may have been billed",
            provider=self.name,
            model=request.model,
        )

    def media_of(
        self, request: GenerationRequest, answer: HttpAnswer, *, is_kept: bool = False
    ) -> bytes:
        """Return the bytes of an answer that is the output itself.

        Raises:
            OutputError: it is empty, or words: an error in spite of its status, a proxy's page.
            ProviderUnavailableError: the same of what the vendor keeps: asking again may give it.
        """
        told = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_words = told.startswith("text/") or told.endswith("json")
        if answer.content and not is_words:
            return answer.content
        fact = f"the answer is {told}, not media" if is_words else "the answer is empty"
        if not is_kept:
            raise self.no_output(request, fact)
        raise ProviderUnavailableError(
            f"{self.name} {request.model}: {fact}",
            provider=self.name,
            model=request.model,
            http_status=answer.status,
        )

    def job_started(
        self, request: GenerationRequest, created: Mapping[str, Any], member: str = "id"
    ) -> Submission:
        """Return the submission of a job whose id is that member of the answer.

        Raises:
            OutputError: the answer holds none; the job may exist all the same.
        """
        job_id = created.get(member)
        if not isinstance(job_id, str) or not job_id:
            lost = self.no_output(request, f"the answer holds no {member}")
            # Accepted, as it seems, and out of reach: sending again could pay for a second job.
            lost.sent = None
            raise lost
        return Submission(job_id=job_id)

    def failed(
        self, request: GenerationRequest, refusal: Refusal, *, state: JobState = JobState.FAILED
    ) -> JobStatus:
        """Return the status of a job that ended without a result."""
        error = job_error(self.name, refusal, request, key=self._key_or_nothing())
        return JobStatus(state, message=refusal.code, error=error)

    def _key_or_nothing(self) -> str:
        try:
            return self.api.key
        except ProviderError:
            return ""

    def remember(self, job_id: str, record: Mapping[str, Any]) -> None:
        """Keep the last word about a finished job, so that fetching its output asks only once."""
        self._records[job_id] = record
        while len(self._records) > _KEPT_RECORDS:
            self._records.popitem(last=False)

    def remembered(self, job_id: str) -> Mapping[str, Any] | None:
        """Return it, once: a second fetch asks the vendor again, for URLs that have not expired."""
        return self._records.pop(job_id, None)


def _step_of(request: GenerationRequest, provider: str) -> Step:
    return Step(
        provider=provider,
        model=request.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        params=dict(request.params),
        modality=request.modality,
        step_type=request.step_type,
        inputs=[item.asset for item in request.inputs],
    )
