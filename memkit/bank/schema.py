"""The catalog's schema: created in a new bank, migrated by Alembic in an older one.

Every revision is a file in ``migrations/versions``. A migration runs in one transaction that holds the
write lock: a process killed meanwhile leaves the old schema, and other processes wait.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, inspect

from memkit.bank.tables import metadata
from memkit.errors import BankError, MissingExtraError

REVISIONS = ("1", "2", "3", "4", "5", "6", "7")  # oldest first
_LEGACY = (1, 2)  # SQLite's `user_version` in banks from before migrations existed
_USER_VERSION = 3  # in all banks since, so that a memkit without migrations refuses them

State = Literal["current", "old", "empty"]


def state(connection: Connection, path: Path | str) -> State:
    """The state of the catalog's schema. Raises `BankError` for another application's or a newer memkit's."""
    names = set(inspect(connection).get_table_names())
    if not names and not _user_version(connection):
        return "empty"
    if "alembic_version" in names:
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if revision not in REVISIONS:
            raise BankError(f"{path} was made by a newer memkit (schema {revision}); upgrade memkit")
        return "current" if revision == REVISIONS[-1] else "old"
    if _user_version(connection) not in _LEGACY:
        raise BankError(f"{path} is a database, but not a memkit bank: give another folder")
    return "old"


def prepare(connection: Connection, path: Path | str) -> None:
    """Create the schema or migrate it to the newest revision, in the connection's transaction."""
    current = state(connection, path)
    if current == "empty":
        metadata.create_all(connection)
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{REVISIONS[-1]}')")
    elif current == "old":
        migrate(connection)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version={_USER_VERSION}")


def migrate(connection: Connection, revision: str = "head") -> None:
    """Run the migrations up to a revision, in the connection's transaction."""
    try:
        from alembic import command
        from alembic.config import Config
    except ImportError as error:
        raise MissingExtraError("alembic", "pip install alembic") from error
    config = Config(attributes={"connection": connection})
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    command.upgrade(config, revision)


def _user_version(connection: Connection) -> int:
    if connection.dialect.name != "sqlite":
        return 0
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
