"""Changes, data, and indexes outside of transactions.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """What comes later."""
    op.add_column("samples", sa.Column("extent", sa.Integer, server_default="3", nullable=False), schema="lab")
    op.add_column("samples", sa.Column("old", sa.Integer), schema="lab")
    op.alter_column("samples", "small", type_=sa.Integer, existing_type=sa.SmallInteger, schema="lab")
    op.alter_column("samples", "label", new_column_name="title", schema="lab")
    op.alter_column("samples", "ratio", type_=sa.Numeric(8, 2), postgresql_using="ratio::numeric(8,2)", schema="lab")
    op.alter_column("samples", "done", nullable=False, server_default=None, schema="lab")
    op.alter_column("samples", "amount", comment="In the unit", schema="lab")
    op.drop_column("samples", "old", schema="lab")
    op.drop_constraint("samples_amount", "samples", schema="lab")
    op.create_check_constraint("samples_amount_2", "samples", "amount >= -1", schema="lab")
    op.create_unique_constraint("samples_id_title", "samples", ["id", "title"], schema="lab")
    op.create_foreign_key(
        "readings_sample", "readings", "samples", ["sample_id"], ["id"], source_schema="lab", referent_schema="lab",
        ondelete="CASCADE",
    )  # fmt: skip
    op.create_foreign_key(
        "samples_unit_2", "samples", "units", ["unit_id"], ["id"], source_schema="lab", referent_schema="lab",
        postgresql_not_valid=True,
    )  # fmt: skip
    op.execute("ALTER TABLE lab.samples VALIDATE CONSTRAINT samples_unit_2")
    op.drop_constraint("samples_unit", "samples", schema="lab", type_="foreignkey")
    op.rename_table("notes", "remarks", schema="lab")
    op.execute("ALTER TYPE mood ADD VALUE 'glad' AFTER 'calm'")
    units = sa.table("units", sa.column("id"), sa.column("name"), schema="lab")
    op.bulk_insert(units, [{"name": "kg"}, {"name": "m"}])
    samples = sa.table(
        "samples", sa.column("id"), sa.column("unit_id"), sa.column("title"), sa.column("done"), schema="lab"
    )
    op.bulk_insert(samples, [{"unit_id": 1 + n % 2, "title": f"s{n}", "done": n % 3 == 0} for n in range(12)])
    op.execute(samples.update().where(samples.c.done).values(title=samples.c.title + "!"))
    bind = op.get_bind()
    for (number,) in bind.execute(sa.select(samples.c.id).order_by(samples.c.id)).all():
        bind.execute(sa.text("INSERT INTO lab.readings VALUES (:id, 1, :id * 1.5)"), {"id": number})
    op.execute("INSERT INTO lab.remarks (text) SELECT title FROM lab.samples ORDER BY id LIMIT 3")
    op.create_table_comment("remarks", "Words", schema="lab")
    op.execute("CREATE VIEW lab.totals AS SELECT unit_id, count(*) AS n FROM lab.samples GROUP BY unit_id")
    with op.get_context().autocommit_block():
        op.create_index("samples_title", "samples", ["title"], schema="lab", postgresql_concurrently=True)
        op.drop_index("samples_day", "samples", schema="lab", postgresql_concurrently=True)


def downgrade() -> None:
    """Back to the first."""
    op.execute("DROP VIEW lab.totals")
    op.drop_index("samples_title", "samples", schema="lab")
    op.rename_table("remarks", "notes", schema="lab")
    op.drop_constraint("readings_sample", "readings", schema="lab", type_="foreignkey")
    op.drop_column("samples", "extent", schema="lab")
