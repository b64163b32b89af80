from uuid import UUID

from sqlmodel import Field, SQLModel

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


class PageQuery(Input):
    """Newest first, from an id on: a page costs the same however far down it is, and what is
    added meanwhile shifts nothing.
    """

    after: UUID | None = Field(default=None, description="`next` of the page before.")
    limit: int = Field(default=50, ge=1, le=100)
