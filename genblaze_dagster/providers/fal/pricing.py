"""What some of fal's models cost, in USD.

List prices as of November 2026, from the `llms.txt` of each model's page, such as
https://fal.ai/models/fal-ai/veo3.1/llms.txt; your contract may differ: give your own. fal has a
thousand models and says what one costs (`FalProvider.unit_price`), but not for which parameters, so
that is for whoever writes a price list. Models by the megapixel are not here: where fal rounds is
not said. What is not here has an unknown price.
"""

from genblaze_dagster.providers.price_units import PriceUnit
from genblaze_dagster.providers.prices import price, price_table

_VEO = "fal-ai/veo3.1"

# 8 seconds of 720p with sound when nothing is asked for.
VEO = price_table(
    price(_VEO, PriceUnit.OUTPUT_SECOND, 0.20, seconds=8, generate_audio=False),
    price(_VEO, PriceUnit.OUTPUT_SECOND, 0.40, seconds=8),
)
SPEECH = price_table(
    price("fal-ai/f5-tts", PriceUnit.THOUSAND_CHARACTERS, 0.05),
    price("fal-ai/minimax/speech-02-turbo", PriceUnit.THOUSAND_CHARACTERS, 0.06),
)
