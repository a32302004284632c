"""Chat with the models GMI Cloud serves, in OpenAI's protocol.

API reference: https://docs.gmicloud.ai. Requests equal those of OpenAI's Python client 3.52.0 at
GMI's address. One synchronous call, or a stream. Cost unit: tokens; no prices are known, so the cost
is unknown. Models are named as on Hugging Face: `deepseek-ai/DeepSeek-V3.2`.
Quirks: what a model thinks comes as `reasoning_content` and stands in `reasoning`, apart from the
text. Unverified: the words of errors, and `Retry-After`.
"""

from collections.abc import Sequence

from genblaze_dagster.net.client import HttpClient
from genblaze_dagster.providers.gmicloud.records import dicts
from genblaze_dagster.providers.gmicloud.vendor import CHAT
from genblaze_dagster.providers.vendor.api import Api
from genblaze_dagster.providers.vendor.chatting import Chat
from genblaze_dagster.providers.vendor.openai_chat import OpenAIChat

_chat = Chat(CHAT, OpenAIChat)
chat = _chat.chat
achat = _chat.achat
astream_chat = _chat.astream_chat


async def list_chat_models(
    api_key: str | None = None, *, base_url: str | None = None, client: HttpClient | None = None
) -> Sequence[str]:
    """Return the chat models of the account; images, video and audio are listed by the providers.

    Raises:
        ProviderError: of the kind the answer calls for.
    """
    api = Api(CHAT, api_key=api_key, base_url=base_url, client=client)
    listed = await api.document("GET", "/models")
    return [model["id"] for model in dicts(listed.get("data")) if isinstance(model.get("id"), str)]
