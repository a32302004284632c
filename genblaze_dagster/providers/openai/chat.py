"""Chat with OpenAI's models, and with whatever speaks their protocol at another address.

API reference: https://platform.openai.com/docs/api-reference/chat. Requests equal those of the
vendor's Python client 3.52.0. One synchronous call, or a stream. Cost unit: tokens.
Quirks: reasoning models (o1 and later, GPT-5) refuse `max_tokens` and get `max_completion_tokens`;
a refusal of the model comes with `finish_reason` stop and an empty text.
"""

import re
from collections.abc import Mapping

from genblaze_dagster.providers.openai.vendor import OPENAI, own_headers
from genblaze_dagster.providers.price_units import TokenRate, token_rate
from genblaze_dagster.providers.vendor.api import Api
from genblaze_dagster.providers.vendor.chatting import Chat
from genblaze_dagster.providers.vendor.openai_chat import OpenAIChat

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_REASONS = re.compile(r"o\d|gpt-5")

# As https://developers.openai.com/api/docs/pricing is quoted by several public price tables of 2026,
# such as https://github.com/outl1ne/openai-pricing, which agree.
PRICES: Mapping[str, TokenRate] = {
    "gpt-4o": token_rate(2.50, 10.00, 1.25),
    "gpt-4o-mini": token_rate(0.15, 0.60, 0.075),
    "gpt-4.1": token_rate(2.00, 8.00, 0.50),
    "gpt-4.1-mini": token_rate(0.40, 1.60, 0.10),
    "gpt-4.1-nano": token_rate(0.10, 0.40, 0.025),
}
"""List prices as of 2026: what goes in, what comes out, what was cached. Others are unknown; your
contract may differ: give your own with GENBLAZE_PRICES."""


def _dialect(api: Api) -> OpenAIChat:
    return OpenAIChat(
        api,
        prices=PRICES,
        price_name=lambda model: _SNAPSHOT.sub("", model),
        takes_max_tokens=lambda model: _REASONS.match(model) is None,
    )


_chat = Chat(OPENAI, _dialect, own_headers=own_headers)
chat = _chat.chat
achat = _chat.achat
astream_chat = _chat.astream_chat
