"""Database addresses and connections; credentials are never stored or shown."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_tasks.core.errors import ConfigError, DataError, UnavailableError

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclasses.dataclass(frozen=True)
class Database:
    """Location of a database; pickled without secrets.

    Attributes:
        url: SQLAlchemy URL, or None to read it from the environment variable.
        variable: The environment variable.
        folder: Base folder of relative SQLite paths.
    """

    url: str | None
    variable: str
    folder: str

    @property
    def shown(self) -> str:
        """The URL without user, password and options."""
        import sqlalchemy as sa

        url = self._address()
        return sa.URL.create(url.drivername, host=url.host, port=url.port, database=url.database).render_as_string()

    @contextlib.contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """Open a new connection.

        Raises:
            ConfigError: the URL is missing, invalid, or needs a driver that is not installed.
            UnavailableError: the database does not answer.
            DataError: a statement fails.
        """
        import sqlalchemy as sa

        try:
            engine = sa.create_engine(self._address(), poolclass=sa.NullPool)
        except (ImportError, sa.exc.ArgumentError) as error:
            raise ConfigError(
                f"no driver for this address: {error}.",
                where=self.shown,
                fix="Install it, or name another one: postgresql+psycopg2://host/database.",
            ) from error
        try:
            connection = engine.connect()
        except sa.exc.OperationalError as error:
            raise UnavailableError(f"cannot be reached: {_reason(error)}.", where=self.shown) from error
        try:
            with connection:
                yield connection
        except sa.exc.DBAPIError as error:
            kind = UnavailableError if error.connection_invalidated else DataError
            raise kind(
                f"{_reason(error)}.", where=self.shown, fix="See `table`, `query` and `key` in `data.source.params`."
            ) from error

    def _address(self) -> sa.URL:
        import sqlalchemy as sa

        text = self.url or os.environ.get(self.variable)
        if not text:
            raise ConfigError(
                f"no database: neither `url` nor the environment variable {self.variable} is set.",
                where="data.source.params",
                fix=f"Set {self.variable} where stages and workers run, e.g. to postgresql+psycopg2://user@host/database.",
            )
        try:
            url = sa.make_url(text)
        except sa.exc.ArgumentError as error:  # its message would contain the URL with its password
            where = "data.source.params.url" if self.url else self.variable
            raise ConfigError("this is not the address of a database.", where=where) from error
        if self.url and (url.password is not None or "password" in url.query):
            raise ConfigError(
                "the address contains a password, which would be stored with the data.",
                where="data.source.params.url",
                fix=f"Put the address into the environment variable {self.variable}.",
            )
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            path = Path(self.folder, url.database)
            if not path.is_file():  # SQLite would create an empty one
                raise DataError("no such file.", where=str(path), fix="A relative path starts in LEPTON_DATA.")
            url = url.set(database=str(path))
        return url


def _reason(error: sa.exc.DBAPIError) -> str:
    return " ".join(str(error.orig).split()).rstrip(".")
