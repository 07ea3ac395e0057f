"""The first record: runs, steps, attempts, metrics, samples, artifacts and their uses, model versions and aliases."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

revision = "0001"
down_revision = None


def _run_key(table: str) -> list[SchemaItem]:
    return [sa.Column("run", sa.Text, nullable=False), _run_reference(table)]


def _run_reference(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["run"], ["runs.id"], name=f"fk_{table}_run", ondelete="CASCADE")


def upgrade() -> None:
    """Create the tables."""
    _create_runs_and_steps()
    _create_series()
    _create_artifacts_and_models()
    op.create_table(
        "applied_events",
        *_run_key("applied_events"),
        sa.Column("event", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run", "event", name="pk_applied_events"),
    )


def _create_runs_and_steps() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("seed", sa.Text, nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("graph", sa.Text, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_started_at", "runs", ["started_at"])
    op.create_table(
        "steps",
        *_run_key("steps"),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("position", sa.Integer),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("fingerprint", sa.Text),
        sa.Column("cache", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name="pk_steps"),
    )
    op.create_table(
        "attempts",
        *_run_key("attempts"),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text),
        sa.PrimaryKeyConstraint("run", "step", "attempt", name="pk_attempts"),
    )


def _create_series() -> None:
    op.create_table(
        "metrics",
        *_run_key("metrics"),
        sa.Column("event", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("member", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("position", sa.Double),
        sa.PrimaryKeyConstraint("run", "event", name="pk_metrics"),
    )
    op.create_index("ix_metrics_run_step_name_at", "metrics", ["run", "step", "name", "at"])
    op.create_table(
        "resource_samples",
        *_run_key("resource_samples"),
        sa.Column("event", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("member", sa.Text, nullable=False),
        sa.Column("cpu_seconds", sa.Double, nullable=False),
        sa.Column("memory", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run", "event", name="pk_resource_samples"),
    )
    op.create_index("ix_resource_samples_run_step_at", "resource_samples", ["run", "step", "at"])


def _create_artifacts_and_models() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_artifacts"),
    )
    op.create_table(
        "artifact_uses",
        *_run_key("artifact_uses"),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["artifacts.digest"], name="fk_artifact_uses_digest"),
        sa.PrimaryKeyConstraint("run", "step", "direction", "digest", name="pk_artifact_uses"),
    )
    op.create_index("ix_artifact_uses_digest", "artifact_uses", ["digest"])
    op.create_table(
        "model_versions",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        *_run_key("model_versions"),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("published_at", sa.Double, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_model_versions"),
    )
    op.create_index("ix_model_versions_run", "model_versions", ["run"])
    op.create_index("ix_model_versions_digest", "model_versions", ["digest"])
    op.create_table(
        "model_aliases",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        *_run_key("model_aliases"),
        sa.PrimaryKeyConstraint("model", "alias", name="pk_model_aliases"),
    )
    op.create_index("ix_model_aliases_run", "model_aliases", ["run"])
