import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--vendor", default=None, help="the vendor to call, such as runway")


@pytest.fixture
def vendor(request: pytest.FixtureRequest) -> str:
    chosen = request.config.getoption("--vendor", default=None)
    if not chosen:
        pytest.skip("no vendor chosen; run: make live VENDOR=runway")
    return chosen


@pytest.fixture(autouse=True)
def _clean_environment() -> None:
    """The keys of whoever runs this are what it is about."""


@pytest.fixture(autouse=True)
def _loopback_only() -> None:
    """And so is the network."""
