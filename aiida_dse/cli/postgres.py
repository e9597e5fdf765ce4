"""A PostgreSQL role and database for a profile, created and dropped through psql.

SQL is passed through the standard input of psql, and the password of the role only as its SCRAM
verifier, so neither the process list nor the server log reveals it. Roles and databases created
here carry a comment, by which --undo recognises them.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import subprocess
from dataclasses import dataclass, field
from typing import Any

import click

from .terminal import Refusal, echo

MARK = "made by aiida-dse setup"
#: The first locale known to the server is used. C.UTF-8 sorts alike everywhere; C always exists.
LOCALES = ("C.UTF-8", "en_US.UTF-8", "C")
HERE = ("localhost", "127.0.0.1", "::1", "")
NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class Database:
    """Address and role of a profile's database; `made`: which of the two were just created."""

    host: str
    port: int
    name: str
    role: str
    password: str = field(repr=False)
    made: frozenset[str] = frozenset()


def make(content: dict[str, Any]) -> Database:
    """Create the role and the database specified in a profile's file unless they exist."""
    host, port = content.get("database_hostname") or "localhost", content.get("database_port")
    name = content.get("database_name") or content["profile"]
    role = content.get("database_username") or name
    for each in (name, role):
        if not NAME.fullmatch(each):
            raise Refusal(
                f"'{each}' is not a valid name for a database or a role. Use at most 63 characters "
                "from a-z, 0-9 and _, and start with a letter or _"
            )
    database = Database(host, int(port or 5432), name, role, secrets.token_urlsafe(24))
    admin = _admin(database)
    has_role, has_database = (
        _sql(admin, f"SELECT 1 FROM {table} = '{value}'") == "1"
        for table, value in (("pg_roles WHERE rolname", role), ("pg_database WHERE datname", name))
    )
    made = set()
    if has_role:
        echo(f"role '{role}' already exists and is used")
        password = click.prompt(f"Password of the PostgreSQL role '{role}'", hide_input=True)
        database = Database(host, database.port, name, role, password)
    else:
        _sql(admin, f"CREATE ROLE \"{role}\" LOGIN PASSWORD "
                    f"'{scram_verifier(role, database.password)}';\n"
                    f"COMMENT ON ROLE \"{role}\" IS '{MARK}'")
        made.add("role")
        echo(f"role '{role}' was created")
    if has_database:
        echo(f"database '{name}' already exists and is used")
    else:
        locale = _create_database(admin, database)
        made.add("database")
        echo(f"database '{name}' was created (UTF8, locale {locale})")
    return Database(host, database.port, name, role, database.password, frozenset(made))


def made_by_setup(database: Database) -> set[str]:
    """Those of 'role' and 'database' that this command created."""
    admin = _admin(database)
    found = set()
    for kind, table, column, value in (("role", "pg_authid", "rolname", database.role),
                                       ("database", "pg_database", "datname", database.name)):
        # anyone may read a role's comment in pg_shdescription, and its oid in pg_roles
        source = "pg_roles" if kind == "role" else table
        comment = _sql(admin, f"SELECT shobj_description(oid, '{table}') FROM {source} "
                              f"WHERE {column} = '{value}'")
        if comment == MARK:
            found.add(kind)
    return found


def exists(database: Database) -> bool:
    """Whether the server has a database of this name."""
    return _sql(_admin(database),
                f"SELECT 1 FROM pg_database WHERE datname = '{database.name}'") == "1"


def drop(database: Database, what: set[str] | frozenset[str]) -> None:
    """Drop the database, the role, or both."""
    admin = _admin(database) if what else []
    if "database" in what:
        _sql(admin, f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)')
    if "role" in what:
        _sql(admin, f'DROP ROLE IF EXISTS "{database.role}"')


def _create_database(admin: list[str], database: Database) -> str:
    # an administrator who is not a superuser must be a member of the role
    _sql(admin, f'GRANT "{database.role}" TO CURRENT_USER')
    for locale in LOCALES:
        try:
            _sql(admin, f'CREATE DATABASE "{database.name}" OWNER "{database.role}" '
                        f"ENCODING 'UTF8' LC_COLLATE '{locale}' LC_CTYPE '{locale}' "
                        "TEMPLATE template0")
        except click.ClickException as problem:
            if locale == LOCALES[-1] or "locale" not in problem.message:
                raise
            continue
        break
    _sql(admin, f"COMMENT ON DATABASE \"{database.name}\" IS '{MARK}'")
    return locale


def _admin(database: Database) -> list[str]:
    """The psql command of a user who may create roles and databases on this server."""
    psql = ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password",
            "--set=ON_ERROR_STOP=1", "--dbname=postgres", f"--port={database.port}"]
    remote = [*psql, f"--host={database.host}"]
    candidates = [remote, [*remote, "--username=postgres"]]
    if database.host in HERE and hasattr(os, "geteuid"):
        become = ["runuser", "-u"] if os.geteuid() == 0 else ["sudo", "-u"]
        candidates = [psql, *candidates, [*become, "postgres", "--", *psql]]
    for command in candidates:
        try:
            answer = _sql(command, "SELECT rolsuper OR (rolcreaterole AND rolcreatedb) FROM "
                                   "pg_roles WHERE rolname = current_user")
        except click.ClickException:
            continue
        if answer == "t":
            return command
    raise Refusal(
        f"PostgreSQL at {database.host}:{database.port} could not be reached as a user who may "
        f"create databases (tried {getpass.getuser()} and postgres). Check that the server is "
        "running and that psql is installed. If you are not permitted to create databases there, "
        "ask the administrator to run\n"
        f"  CREATE ROLE {database.role} LOGIN CREATEROLE CREATEDB PASSWORD '...';\n"
        "Then set PGUSER to that role, store its password in ~/.pgpass and run this command again"
    )


def _sql(command: list[str], statement: str) -> str:
    try:
        done = subprocess.run(command, input=f"{statement};\n", capture_output=True, text=True,
                              timeout=120, check=False, cwd="/")
    except (FileNotFoundError, subprocess.TimeoutExpired) as problem:
        raise Refusal(f"{command[0]}: {problem}") from None
    if done.returncode:
        raise Refusal(f"PostgreSQL reported an error: {done.stderr.strip()}")
    return done.stdout.strip()


def scram_verifier(role: str, password: str) -> str:
    """The SCRAM verifier that PostgreSQL stores, so that it never receives the password.

    The client library computes it. The function is a method of a connection, but it does not need
    a server if the algorithm is specified; the connection to port 0 is never established.
    """
    from psycopg.pq import PGconn

    unconnected = PGconn.connect_start(b"port=0")
    try:
        made = unconnected.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    finally:
        unconnected.finish()
    return made.decode()
