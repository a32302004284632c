"""Tables of the ledger database and the way from older versions to this one."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    false,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.types import TypeDecorator

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.migrations import MIGRATIONS, Migration
from genblaze_dagster.ledger.submission import UNSETTLED_STATES, SubmissionState

MAX_ERROR_MESSAGE = 500


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Attach UTC where the database dropped it."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

submissions = Table(
    "submissions",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", String, nullable=False, unique=True),
    Column("step_id", String, nullable=False),
    Column("asset_key", String, nullable=False),
    # An unpartitioned asset has '': NULLs never collide in a unique index.
    Column("partition_key", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("generation_key", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("model", String, nullable=False),
    Column("state", String, nullable=False),
    Column("job_id", String),
    Column("attempt", Integer, nullable=False),
    Column("owner", String),
    Column("lease_expires_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("sending_at", UtcDateTime),
    Column("submitted_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("cost_usd", Float),
    Column("error_code", String),
    Column("error_message", String(MAX_ERROR_MESSAGE)),
    Column("result", JSON(none_as_null=True)),
    Column("deduplicates", Boolean, nullable=False),
    Column("answer_lost", Boolean, nullable=False),
    Column("estimated_seconds", Float),
    Column("outputs_expire_at", UtcDateTime),
    Column("tenant_id", String),
    Column("account", String),
    Column("estimated_cost_usd", Float),
    Column("reserved_usd", Float),
    Column("claimed_at", UtcDateTime),
)

Index(
    "submissions_generation",
    submissions.c.generation_key,
    submissions.c.asset_key,
    submissions.c.partition_key,
)

_is_unsettled = submissions.c.state.in_([state.value for state in UNSETTLED_STATES])
Index(
    "submissions_one_unsettled",
    submissions.c.generation_key,
    submissions.c.asset_key,
    submissions.c.partition_key,
    unique=True,
    sqlite_where=_is_unsettled,
    postgresql_where=_is_unsettled,
)

_may_run = submissions.c.state.in_(
    [SubmissionState.INTENDED.value, SubmissionState.SUBMITTED.value]
)
Index(
    "submissions_of_account",
    submissions.c.account,
    sqlite_where=_may_run,
    postgresql_where=_may_run,
)

# A vendor calls back with its own name of the job; rows without one are not in the way of claims.
Index(
    "submissions_of_job",
    submissions.c.job_id,
    sqlite_where=submissions.c.job_id.is_not(None),
    postgresql_where=submissions.c.job_id.is_not(None),
)

intents = Table(
    "intents",
    metadata,
    Column("generation_key", String, primary_key=True),
    Column("asset_key", String, primary_key=True),
    Column("partition_key", String, primary_key=True),
    Column("scope", String, primary_key=True),
    Column("submission_id", String, ForeignKey(submissions.c.id), nullable=False),
    sqlite_with_rowid=False,
)

past_attempts = Table(
    "past_attempts",
    metadata,
    Column("submission_id", String, ForeignKey(submissions.c.id), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("job_id", String),
    Column("sending_at", UtcDateTime),
    Column("submitted_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("cost_usd", Float),
    Column("error_code", String),
    Column("error_message", String(MAX_ERROR_MESSAGE)),
    Column("estimated_cost_usd", Float),
    Column("reserved_usd", Float),
    Column("claimed_at", UtcDateTime),
    Column("answer_lost", Boolean, nullable=False, server_default=false()),
)

Index(
    "past_attempts_of_job",
    past_attempts.c.job_id,
    sqlite_where=past_attempts.c.job_id.is_not(None),
    postgresql_where=past_attempts.c.job_id.is_not(None),
)

# What vendors called back with; bodies, headers and addresses are not kept.
callbacks = Table(
    "callbacks",
    metadata,
    Column("vendor", String, primary_key=True),
    Column("delivery_id", String, primary_key=True),
    Column("job_id", String, nullable=False),
    Column("state", String),
    Column("submission_key", String),
    Column("received_at", UtcDateTime, nullable=False),
    sqlite_with_rowid=False,
)
Index("callbacks_of_submission", callbacks.c.submission_key)
Index("callbacks_of_job", callbacks.c.job_id)

# Attempts that are not yet added to `spend_totals`: what each counts as is read from its row.
spend_entries = Table(
    "spend_entries",
    metadata,
    Column("submission_id", String, ForeignKey(submissions.c.id), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("run", String, nullable=False),
    Column("asset_key", String, nullable=False),
    Column("partition_key", String, nullable=False),
    Column("tenant_id", String),
    Column("provider", String, nullable=False),
    Column("day", String(10), nullable=False),
    sqlite_with_rowid=False,
)

# Money of ended attempts. Billionths of a dollar: sums of floats would drift.
spend_totals = Table(
    "spend_totals",
    metadata,
    Column("scope", String, primary_key=True),
    Column("key", String, primary_key=True),
    # Only the scope `partition` has one; its key is the asset.
    Column("partition_key", String, primary_key=True),
    Column("paid_nano", BigInteger, nullable=False),
    Column("reserved_nano", BigInteger, nullable=False),
    Column("unknown", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# Tokens below zero are submits that wait for their turn.
rate_buckets = Table(
    "rate_buckets",
    metadata,
    Column("account", String, primary_key=True),
    Column("tokens", Float, nullable=False),
    Column("refilled_at", UtcDateTime, nullable=False),
    Column("blocked_until", UtcDateTime),
)


def prepare(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Create the tables, or bring older ones to this release's version.

    Runs in the caller's transaction, which must hold the write lock.

    Raises:
        LedgerError: the database was written by a newer release, or by something else.
    """
    newest = len(migrations) + 1
    if not inspect(connection).has_table(schema_version.name):
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=newest))
        return
    found = connection.execute(select(schema_version.c.version)).scalar()
    if found is None:
        raise LedgerError(
            "ledger has no schema version, so its tables are another program's, or not all of it was "
            "copied; give another ledger"
        )
    if found > newest:
        raise LedgerError(
            f"ledger has schema version {found} and this release knows up to {newest}; "
            "upgrade genblaze-dagster, or give another ledger"
        )
    for migration in migrations[found - 1 :]:
        migration(connection)
    if found < newest:
        connection.execute(update(schema_version).values(version=newest))
