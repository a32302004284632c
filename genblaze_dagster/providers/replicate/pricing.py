"""Replicate's models whose price is known, as families; their parameters go as they are.

List prices as of 2026, from the models' own pages (https://replicate.com/black-forest-labs/flux-schnell,
https://replicate.com/luma/photon); your contract may differ: give your own, which is the way for all
other models too: official ones by output, community models by `compute_second` of their hardware.
"""

import re

from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.price_units import PriceUnit
from genblaze_dagster.providers.prices import price, price_table


def _official(model: str, usd: float) -> ModelFamily:
    return ModelFamily(
        name=model,
        pattern=re.compile(rf"{re.escape(model)}\Z"),
        description="an official model, priced by the image",
        example_slugs=(model,),
        spec_template=ModelSpec(
            model_id=model, pricing=price_table(price(model, PriceUnit.IMAGE, usd))
        ),
    )


FAMILIES = (
    _official("black-forest-labs/flux-schnell", 0.003),
    _official("luma/photon", 0.03),
)
