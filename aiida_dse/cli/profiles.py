"""Profiles: SQLite + ZeroMQ without any service, or PostgreSQL + RabbitMQ; and their undo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from . import postgres, rabbitmq
from .computers import make_local
from .setup_files import PRODUCTION

CACHED = "aiida.calculations:dse.*"
#: How long verdi waits for the daemon's answer.
DAEMON_SECONDS = 60


def make_profile(content: dict[str, Any], workers: int, daemon: bool) -> None:
    """Make the profile of a file, this computer and the code; what exists is kept."""
    from aiida.manage.configuration import get_config, load_profile

    config = get_config(create=True)
    name, production = content["profile"], content["broker"] == PRODUCTION
    if name in config.profile_names:
        existing = config.get_profile(name).process_control_backend
        if existing != content["broker"]:
            raise click.ClickException(
                f"profile '{name}' exists with the broker {existing}, not {content['broker']}. "
                "Choose another name with --profile, or take it back first with --undo"
            )
        click.echo(f"profile '{name}' exists: kept")
    else:
        folder = Path(config.dirpath) / "repository" / name
        if production:
            _make_production(config, content, folder)
        else:
            _create(config, content, "core.sqlite_dos", {"filepath": str(folder)}, {})
            click.echo(f"profile '{name}' made (SQLite, ZeroMQ broker) in {config.dirpath}")
        config.set_option("runner.poll.interval", 1, scope=name)
        config.set_option("daemon.default_workers", workers, scope=name)
        # a job computed before, by this version of the engine, is not computed again
        config.set_option("caching.enabled_for", [CACHED], scope=name)
        if config.default_profile_name not in config.profile_names:  # none, or one long gone
            config.set_default_profile(name, overwrite=True)
    if production:
        _check_broker(config, name)
    # AiiDA's 2 s are less than workers may take to stop: 'verdi daemon restart' then fails half way
    if config.get_option("daemon.timeout", scope=name, default=False) is None:
        config.set_option("daemon.timeout", DAEMON_SECONDS, scope=name)
    config.store()
    load_profile(name, allow_switch=True)
    make_local(Path(config.dirpath) / "scratch" / name, Path(config.dirpath) / "numba")
    if daemon:
        start_daemon(name)
    if config.default_profile_name != name:
        click.echo(f"'{config.default_profile_name}' stays the default profile: use "
                   f"'aiida-dse -p {name}' and 'verdi -p {name}'.")


def _create(
    config: Any, content: dict[str, Any], storage: str, storage_config: dict[str, Any],
    broker_config: dict[str, Any],
) -> None:
    """A profile on a storage that is new, or holds the data of a profile that was taken back."""
    from aiida.manage.configuration import Profile, create_default_user, profile_context
    from aiida.orm import QueryBuilder, User

    name, email = content["profile"], content.get("email") or "aiida@localhost"
    folder = Path(storage_config.get("filepath", ""))
    try:
        if storage == "core.sqlite_dos" and folder.is_dir() and any(folder.iterdir()):
            # AiiDA makes such a storage in an empty folder only
            profile = Profile(name, {
                "storage": {"backend": storage, "config": storage_config},
                "process_control": {"backend": content["broker"], "config": broker_config},
            })
            config.add_profile(profile).store()
            click.echo(f"data in {folder} exist: kept")
        else:
            profile = config.create_profile(
                name=name, storage_backend=storage, storage_config=storage_config,
                broker_backend=content["broker"], broker_config=broker_config,
            )
        with profile_context(profile, allow_switch=True):
            known = QueryBuilder().append(User, filters={"email": email}).count()
        if known:
            config.set_default_user_email(profile, email)
        else:
            person = ("first_name", "last_name", "institution")
            create_default_user(profile, email, **{key: content.get(key) or "" for key in person})
    except Exception:
        if name in config.profile_names:
            config.remove_profile(name).store()
        raise


def _make_production(config: Any, content: dict[str, Any], folder: Path) -> None:
    """The profile on PostgreSQL and RabbitMQ; a database that was made is taken back on failure."""
    name = content["profile"]
    broker = rabbitmq.settings(content)
    rabbitmq.version(broker)  # before anything is made
    database = postgres.make(content)
    try:
        _create(config, content, "core.psql_dos", {
            "database_engine": "postgresql_psycopg", "database_hostname": database.host,
            "database_port": database.port, "database_name": database.name,
            "database_username": database.role, "database_password": database.password,
            "repository_uri": folder.as_uri(),
        }, broker)
    except Exception as problem:
        postgres.drop(database, database.made)
        told = str(problem).replace(database.password, "***")
        raise click.ClickException(f"profile '{name}' was not made: {told}") from None
    Path(config.filepath).chmod(0o600)  # AiiDA keeps the password in it
    click.echo(f"profile '{name}' made (PostgreSQL database '{database.name}', RabbitMQ) in "
               f"{config.dirpath}")


def _check_broker(config: Any, name: str) -> None:
    """AiiDA warns of any recent RabbitMQ; what it warns of is checked here instead."""
    found = rabbitmq.version(config.get_profile(name).process_control_config)
    config.set_option("warnings.rabbitmq_version", False, scope=name)
    click.echo(f"RabbitMQ {found} answers")
    if remark := rabbitmq.timeout_remark(found):
        click.echo(remark)


def start_daemon(profile: str) -> None:
    """Start the daemon of a profile, unless it runs."""
    from aiida.engine.daemon.client import get_daemon_client

    if get_daemon_client(profile).is_daemon_running:
        click.echo("the daemon runs")
        return
    # verdi need not be on the PATH of an environment that was not activated
    beside = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": os.pathsep.join([str(beside), os.environ.get("PATH", "")])
    }
    verdi = shutil.which("verdi", path=environment["PATH"]) or "verdi"
    started = subprocess.run(
        [verdi, "-p", profile, "daemon", "start"], env=environment, capture_output=True, text=True,
        check=False,
    )
    if started.returncode:
        raise click.ClickException(
            f"the daemon did not start:\n{started.stdout}{started.stderr}\nSee 'verdi -p "
            f"{profile} daemon logshow'."
        )
    click.echo("daemon started")


def undo_profile(name: str, delete_data: bool) -> None:
    """Stop the daemon and remove the profile; its data only if told to."""
    from aiida.common.exceptions import MissingConfigurationError
    from aiida.manage.configuration import get_config

    try:
        config = get_config()
    except MissingConfigurationError:
        config = None
    if config is None or name not in config.profile_names:
        click.echo(f"there is no profile '{name}': nothing to undo")
        return
    profile = config.get_profile(name)
    _stop_daemon(name)
    # not config.delete_profile: it prints the storage's settings, the password among them
    if profile.storage_backend == "core.psql_dos":
        _undo_database(config, profile, delete_data)
    else:
        _undo_folder(Path(profile.storage_config["filepath"]), delete_data)
    if profile.process_control_backend == PRODUCTION:
        rabbitmq.forget(profile.process_control_config, f"aiida-{profile.uuid}")
    if delete_data:
        shutil.rmtree(Path(config.dirpath) / "scratch" / name, ignore_errors=True)
    was_default = config.default_profile_name == name
    config.remove_profile(name)
    if was_default and config.profile_names:
        config.set_default_profile(config.profile_names[0], overwrite=True)
        click.echo(f"'{config.default_profile_name}' is the default profile now")
    config.store()
    click.echo(f"profile '{name}' removed from {config.dirpath}")


def _stop_daemon(name: str) -> None:
    from aiida.engine.daemon.client import DaemonException, get_daemon_client

    client = get_daemon_client(name)
    if not client.is_daemon_running:
        return
    try:
        client.stop_daemon(wait=True, timeout=DAEMON_SECONDS)
    except DaemonException as problem:
        raise click.ClickException(
            f"the daemon did not stop ({problem}), so nothing was removed. Run 'verdi -p {name} "
            "daemon stop' and try again"
        ) from None
    click.echo("daemon stopped")


def _undo_folder(folder: Path, delete_data: bool) -> None:
    if delete_data:
        shutil.rmtree(folder, ignore_errors=True)
        click.echo(f"data deleted: {folder}")
    else:
        click.echo(f"data kept: {folder} ('aiida-dse setup' with the same profile name uses them "
                   "again)")


def _undo_database(config: Any, profile: Any, delete_data: bool) -> None:
    """Other profiles may use the same role; then it stays."""
    stored = profile.storage_config
    database = postgres.Database(
        stored["database_hostname"], stored["database_port"], stored["database_name"],
        stored["database_username"], stored["database_password"],
    )
    folder = Path(stored["repository_uri"].removeprefix("file://"))
    if not delete_data:
        click.echo(f"data kept: database '{database.name}' and {folder} (to use them again, have "
                   f"the password of '{database.role}' or set a new one: "
                   f"psql -c '\\password {database.role}')")
        return
    others = [p for p in config.profiles if p.name != profile.name]
    if any(p.storage_config.get("database_name") == database.name for p in others):
        raise click.ClickException(
            f"another profile uses the database '{database.name}', so nothing was removed. Undo "
            "without --delete-data"
        )
    made = postgres.made_by_setup(database)
    if any(p.storage_config.get("database_username") == database.role for p in others):
        made -= {"role"}
    if "database" in made:
        postgres.drop(database, made)
        shutil.rmtree(folder, ignore_errors=True)
        click.echo(f"data deleted: {' and '.join(sorted(made))} '{database.name}', {folder}")
    else:
        click.echo(f"data kept: database '{database.name}' was not made by this command; {folder} "
                   "belongs to it")
