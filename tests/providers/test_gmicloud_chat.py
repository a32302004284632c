from pathlib import Path

import pytest

from genblaze_dagster.errors import AuthError
from genblaze_dagster.providers.gmicloud.chat import achat, astream_chat, chat
from tests.support.chats import check_chat
from tests.support.wire import Scenario, scenario_names


@pytest.mark.parametrize("name", scenario_names("gmicloud", "chat_*"))
def test_a_golden_chat_sends_equal_requests_and_answers_as_expected(
    vectors: Path, name: str
) -> None:
    """Each golden chat gives an equal request and the expected text, thoughts, calls or error."""
    check_chat(Scenario.load(vectors / "wire" / "gmicloud" / f"{name}.json"), achat, astream_chat)


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="GMI_API_KEY"):
        chat("deepseek-ai/DeepSeek-V3.2", prompt="Hi")
