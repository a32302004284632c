"""Steps from an older ledger to the next version; never edited once released.

They hold SQL of their own instead of the current tables, which go on changing.
"""

from collections.abc import Callable
from string import Template
from typing import Any

from sqlalchemy import Connection, text

Migration = Callable[[Connection], Any]

# When an attempt was claimed was not recorded; the nearest time known stands in for it.
_VERSION_2 = Template("""
ALTER TABLE submissions ADD COLUMN tenant_id VARCHAR;
ALTER TABLE submissions ADD COLUMN account VARCHAR;
ALTER TABLE submissions ADD COLUMN estimated_cost_usd FLOAT;
ALTER TABLE submissions ADD COLUMN reserved_usd FLOAT;
ALTER TABLE submissions ADD COLUMN claimed_at $time;
ALTER TABLE past_attempts ADD COLUMN estimated_cost_usd FLOAT;
ALTER TABLE past_attempts ADD COLUMN reserved_usd FLOAT;
ALTER TABLE past_attempts ADD COLUMN claimed_at $time;
ALTER TABLE past_attempts ADD COLUMN answer_lost BOOLEAN NOT NULL DEFAULT $false;
UPDATE submissions SET claimed_at = coalesce(sending_at, created_at);
UPDATE past_attempts SET claimed_at = coalesce(sending_at, finished_at, (
    SELECT created_at FROM submissions WHERE submissions.id = past_attempts.submission_id));
CREATE INDEX submissions_of_account ON submissions (account)
    WHERE state IN ('intended', 'submitted');
CREATE TABLE spend_entries (
    submission_id VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    run VARCHAR NOT NULL,
    asset_key VARCHAR NOT NULL,
    partition_key VARCHAR NOT NULL,
    tenant_id VARCHAR,
    provider VARCHAR NOT NULL,
    day VARCHAR(10) NOT NULL,
    PRIMARY KEY (submission_id, attempt),
    FOREIGN KEY(submission_id) REFERENCES submissions (id)) $compact;
CREATE TABLE spend_totals (
    scope VARCHAR NOT NULL,
    key VARCHAR NOT NULL,
    partition_key VARCHAR NOT NULL,
    paid_nano BIGINT NOT NULL,
    reserved_nano BIGINT NOT NULL,
    unknown INTEGER NOT NULL,
    PRIMARY KEY (scope, key, partition_key)) $compact;
CREATE TABLE rate_buckets (
    account VARCHAR NOT NULL,
    tokens FLOAT NOT NULL,
    refilled_at $time NOT NULL,
    blocked_until $time,
    PRIMARY KEY (account));
INSERT INTO spend_entries
    SELECT id, attempt, $run, asset_key, partition_key, NULL, provider, $day FROM submissions;
INSERT INTO spend_entries
    SELECT id, attempt, $run, asset_key, partition_key, NULL, provider, $day FROM (
        SELECT s.id, p.attempt, s.scope, s.asset_key, s.partition_key, s.provider, p.claimed_at
        FROM past_attempts p JOIN submissions s ON s.id = p.submission_id) AS past
""")
_VERSION_3 = Template("""
CREATE TABLE callbacks (
    vendor VARCHAR NOT NULL,
    delivery_id VARCHAR NOT NULL,
    job_id VARCHAR NOT NULL,
    state VARCHAR,
    submission_key VARCHAR,
    received_at $time NOT NULL,
    PRIMARY KEY (vendor, delivery_id)) $compact;
CREATE INDEX callbacks_of_submission ON callbacks (submission_key);
CREATE INDEX callbacks_of_job ON callbacks (job_id);
CREATE INDEX submissions_of_job ON submissions (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX past_attempts_of_job ON past_attempts (job_id) WHERE job_id IS NOT NULL
""")
_SQLITE = {
    "time": "DATETIME",
    "day": "substr(claimed_at, 1, 10)",
    "run": "coalesce(nullif(substr(scope, 1, instr(scope || '#', '#') - 1), ''), scope)",
    "compact": "WITHOUT ROWID",
    "false": "0",
}
_POSTGRESQL = {
    "time": "TIMESTAMP WITH TIME ZONE",
    "day": "to_char(claimed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "run": "coalesce(nullif(split_part(scope, '#', 1), ''), scope)",
    "compact": "",
    "false": "false",
}


def to_version_2(connection: Connection) -> None:
    """Keep to whom and when an attempt is charged, what is spent, and how fast accounts may go."""
    _run(connection, _VERSION_2)


def to_version_3(connection: Connection) -> None:
    """Keep what vendors call back with, and find submissions by the vendor's job."""
    _run(connection, _VERSION_3)


def _run(connection: Connection, statements: Template) -> None:
    words = _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE
    for statement in statements.substitute(words).split(";"):
        connection.execute(text(statement))


MIGRATIONS: tuple[Migration, ...] = (to_version_2, to_version_3)
"""MIGRATIONS[n] brings a database of version n + 1 to n + 2."""
