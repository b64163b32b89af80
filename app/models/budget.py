from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class Budget(SQLModel, table=True):
    """How much of a limit somebody has used up: a leaky bucket (services/throttle.py).

    key: a keyed hash of the limit and of whom it is about, so the table names nobody.
    drained_at: when it will have leaked empty, in microseconds since 1970.
    attempts: those since the last success, where they are counted.
    """

    __tablename__ = "budgets"

    key: str = Field(max_length=32, primary_key=True)
    drained_at: int = Field(sa_type=BigInteger, index=True)
    attempts: int
