import json

import pytest
from click.testing import CliRunner

from genblaze_dagster.cli.app import cli


def test_providers_are_listed_with_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each provider tells its key's variable and whether it is set; the key itself is not shown."""
    monkeypatch.setenv("LMNT_API_KEY", "not-to-be-seen")
    plain = CliRunner().invoke(cli, ["providers"])
    assert plain.exit_code == 0
    assert "LMNT_API_KEY set" in " ".join(plain.output.split())
    assert "not-to-be-seen" not in plain.output
    document = json.loads(CliRunner().invoke(cli, ["providers", "--json"]).output)
    by_name = {one["name"]: one for one in document["providers"]}
    assert len(by_name) == 25
    assert by_name["lmnt"]["key_is_set"] is True
    assert by_name["runway"]["key_is_set"] is False
    assert by_name["gmicloud"]["lost_answer"] == "looked up"
