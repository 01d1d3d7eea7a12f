"""How a PostgreSQL server is reached, and what is said where it is not: one line, never a password."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from siamese_jax.recognition import database

_SCHEMES = ("postgresql://", "postgres://")
_FORM = "postgresql://USER@HOST/DATABASE#NAME"
_TIMEOUT = 10  # seconds to reach the server


def is_url(place: str | os.PathLike) -> bool:
    """Whether a place is the URL of a database."""
    return isinstance(place, str) and place.startswith(_SCHEMES)


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a gallery is.

    Attributes:
        server: what psycopg connects by, with the password if the URL had one.
        name: of the gallery.
        shown: the URL for messages, without its password.
    """

    server: dict[str, Any] = dataclasses.field(repr=False)
    name: str
    shown: str

    @classmethod
    def of(cls, url: str) -> Address:
        """The address that a URL gives. No error shows any part of it: a password may be anywhere.

        Raises:
            ValueError: it cannot be read, or psycopg is missing.
        """
        psycopg = _psycopg()
        place, _, name = url.partition("#")
        name = urllib.parse.unquote(name) or "gallery"
        if not re.fullmatch(r"\w[\w .-]*", name) or len(name.encode()) > 63:
            raise ValueError(
                "the name of a gallery in a database, after the # of its URL, is of at most 63 letters, "
                "digits, spaces and . _ - (a # of a password is written %23)"
            )
        try:
            server = psycopg.conninfo.conninfo_to_dict(place)
        except psycopg.ProgrammingError:
            server = {}
        user, host, port, base = (
            str(server.get(key) or "") for key in ("user", "host", "port", "dbname")
        )
        is_odd = "@" in user + host + base or "/" in base or not re.fullmatch(r"[\d,]*", port)
        if is_odd or not server:
            raise ValueError(
                f"the URL of a gallery cannot be read: it is {_FORM}, and of a password all but "
                "letters and digits is written %XX"
            )
        by_socket = host.startswith("/")
        shown = f"postgresql://{user}{'@' if user else ''}{'' if by_socket else host}"
        shown += f"{':' if port else ''}{port}/{base}{f'?host={host}' if by_socket else ''}#{name}"
        return cls(server, name, shown)


def connect(address: Address) -> Any:
    """A connection that commits each statement outside of a transaction."""
    psycopg = _psycopg()
    settings = {"connect_timeout": _TIMEOUT, **address.server}
    try:
        return psycopg.connect(**settings, autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        text = _line(address, error)
        advice = "see that the server runs there and takes connections"
        if "password" in text:
            advice = "give the user's password in PGPASSWORD or in ~/.pgpass"
        elif "does not exist" in text:
            advice = "make it first, or correct the URL"
        raise ValueError(f"{address.shown}: cannot be reached ({text}): {advice}") from None


@contextlib.contextmanager
def translated_errors(address: Address) -> Iterator[None]:
    """Errors of the server in one line that names the gallery."""
    psycopg = _psycopg()
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        raise database.busy(address.shown) from None
    except (psycopg.errors.UndefinedTable, psycopg.DataError, psycopg.IntegrityError) as error:
        text = _line(address, error)
        raise ValueError(f"{address.shown}: damaged, or no gallery ({text})") from None
    except psycopg.Error as error:
        raise ValueError(f"{address.shown}: cannot be used ({_line(address, error)})") from None


def _psycopg() -> Any:
    """The library, or one line that says how to get it."""
    try:
        import psycopg
    except ImportError:
        raise ValueError(
            "a gallery in a database needs psycopg, the extra [postgres]: "
            "pip install 'psycopg[binary]>=3.2'"
        ) from None
    return psycopg


def _line(address: Address, error: Exception) -> str:
    """The beginning of an error, without the password."""
    text = " ".join(str(error).split())
    if password := address.server.get("password"):
        text = text.replace(str(password), "...")
    return text[:200]
