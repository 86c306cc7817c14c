"""The first tables.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision, down_revision = "0001", None
MOOD = pg.ENUM("calm", "cross", name="mood", create_type=False)


def upgrade() -> None:
    """Tables with columns of every usual type."""
    op.execute("CREATE SCHEMA lab")
    op.execute("CREATE EXTENSION IF NOT EXISTS hstore")
    op.execute("CREATE DOMAIN lab.positive AS integer CHECK (VALUE > 0)")
    MOOD.create(op.get_bind(), checkfirst=True)
    op.create_table(
        "units",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("name", sa.String(30), nullable=False, unique=True),
        comment="A copy on every shard",
        schema="lab",
    )
    op.create_table(
        "samples",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True, start=100), primary_key=True),
        sa.Column("unit_id", sa.Integer, sa.ForeignKey("lab.units.id", name="samples_unit"), index=True),
        sa.Column("taken", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("day", sa.Date),
        sa.Column("hour", sa.Time),
        sa.Column("lasting", sa.Interval),
        sa.Column("amount", sa.Numeric(12, 3), server_default="0", comment="In units"),
        sa.Column("ratio", sa.Float),
        sa.Column("exact", sa.Double),
        sa.Column("small", sa.SmallInteger),
        sa.Column("done", sa.Boolean, server_default=sa.false()),
        sa.Column("label", sa.Text, server_default="none"),
        sa.Column("short", sa.CHAR(3)),
        sa.Column("raw", sa.LargeBinary),
        sa.Column("mood", MOOD),
        sa.Column("token", pg.UUID, server_default=sa.text("gen_random_uuid()")),
        sa.Column("extra", pg.JSONB, server_default=sa.text("'{}'::jsonb")),
        sa.Column("plain", pg.JSON),
        sa.Column("tags", pg.ARRAY(sa.Text)),
        sa.Column("address", pg.INET),
        sa.Column("span", pg.INT4RANGE),
        sa.Column("words", pg.TSVECTOR),
        sa.Column("twice", sa.Numeric, sa.Computed("amount * 2", persisted=True)),
        sa.CheckConstraint("amount >= 0", name="samples_amount"),
        schema="lab",
    )
    op.create_table(
        "readings",
        sa.Column("sample_id", sa.BigInteger, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("value", sa.Float),
        sa.PrimaryKeyConstraint("sample_id", "number", name="readings_pkey"),
        schema="lab",
    )
    op.create_table(
        "notes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text),
        schema="lab",
    )
    op.create_index("samples_day", "samples", ["day", sa.text("hour DESC")], schema="lab")
    op.create_index(
        "samples_extra", "samples", ["extra"], schema="lab", postgresql_using="gin",
        postgresql_ops={"extra": "jsonb_path_ops"},
    )  # fmt: skip
