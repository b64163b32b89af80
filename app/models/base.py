from sqlmodel import SQLModel

# Set before any table is defined: Alembic finds constraints by their names.
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


class Input(SQLModel):
    """A request body. Unknown fields are refused: nobody registers with `is_admin`."""

    model_config = {"extra": "forbid"}
