"""For people who write a provider: contract tests to derive from, and mocks. Needs pytest."""

import pytest

# Before the import, so that a failed check shows the values it compared.
pytest.register_assert_rewrite(
    "genblaze_dagster.testing.guide", "genblaze_dagster.testing.protocol"
)

from genblaze_dagster.providers.mock import (  # noqa: E402
    MockAudioProvider,
    MockProvider,
    MockVideoProvider,
)
from genblaze_dagster.testing.guide import ProviderComplianceTests  # noqa: E402
from genblaze_dagster.testing.protocol import ProtocolComplianceTests  # noqa: E402

__all__ = [
    "MockAudioProvider",
    "MockProvider",
    "MockVideoProvider",
    "ProtocolComplianceTests",
    "ProviderComplianceTests",
]
