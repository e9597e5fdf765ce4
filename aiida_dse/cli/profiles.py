"""Creation of a profile with SQLite and ZeroMQ (no services), or PostgreSQL and RabbitMQ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import postgres, rabbitmq
from .computers import make_local
from .daemon_start import start_daemon
from .setup_files import PRODUCTION
from .terminal import Refusal, echo

CACHED = "aiida.calculations:dse.*"
#: Time (s) that verdi waits for a reply of the daemon.
DAEMON_SECONDS = 60


def make_profile(content: dict[str, Any], workers: int, daemon: bool) -> None:
    """Create the profile of a file, this computer and its code unless they exist."""
    from aiida.manage.configuration import get_config, load_profile

    config = get_config(create=True)
    name, production = content["profile"], content["broker"] == PRODUCTION
    if name in config.profile_names:
        existing = config.get_profile(name).process_control_backend
        if existing != content["broker"]:
            raise Refusal(
                f"profile '{name}' already exists with the broker {existing}, but "
                f"{content['broker']} is requested. Choose another name with --profile, or remove "
                "the existing profile with --undo"
            )
        echo(f"profile '{name}' already exists and is used")
    else:
        folder = Path(config.dirpath) / "repository" / name
        if production:
            _make_production(config, content, folder)
        else:
            _create(config, content, "core.sqlite_dos", {"filepath": str(folder)}, {})
            echo(f"profile '{name}' was created (SQLite, ZeroMQ broker) in {config.dirpath}")
        config.set_option("runner.poll.interval", 1, scope=name)
        config.set_option("daemon.default_workers", workers, scope=name)
        # a job that this version of the engine has already computed is not computed again
        config.set_option("caching.enabled_for", [CACHED], scope=name)
        if config.default_profile_name not in config.profile_names:  # not set, or removed since
            config.set_default_profile(name, overwrite=True)
    if production:
        _check_broker(config, name)
    # workers may take longer to stop than AiiDA's 2 s, and a restart would then fail
    if config.get_option("daemon.timeout", scope=name, default=False) is None:
        config.set_option("daemon.timeout", DAEMON_SECONDS, scope=name)
    config.store()
    load_profile(name, allow_switch=True)
    make_local(Path(config.dirpath) / "scratch" / name, Path(config.dirpath) / "numba")
    if daemon:
        start_daemon(name)
    if config.default_profile_name != name:
        echo(f"'{config.default_profile_name}' remains the default profile: use "
                   f"'aiida-dse -p {name}' and 'verdi -p {name}'.")


def _create(
    config: Any, content: dict[str, Any], storage: str, storage_config: dict[str, Any],
    broker_config: dict[str, Any],
) -> None:
    """Create a profile with a new storage, or with the data of a profile that was removed."""
    from aiida.manage.configuration import Profile, create_default_user, profile_context
    from aiida.orm import QueryBuilder, User

    name, email = content["profile"], content.get("email") or "aiida@localhost"
    folder = Path(storage_config.get("filepath", ""))
    try:
        if storage == "core.sqlite_dos" and folder.is_dir() and any(folder.iterdir()):
            # AiiDA creates such a storage only in an empty folder
            profile = Profile(name, {
                "storage": {"backend": storage, "config": storage_config},
                "process_control": {"backend": content["broker"], "config": broker_config},
            })
            config.add_profile(profile).store()
            echo(f"{folder} already contains data, which are used")
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
    """Create a profile with PostgreSQL and RabbitMQ; after a failure, drop a new database again."""
    name = content["profile"]
    broker = rabbitmq.settings(content)
    rabbitmq.version(broker)  # before anything is created
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
        reason = str(problem).replace(database.password, "***")
        raise Refusal(f"profile '{name}' was not created: {reason}") from None
    Path(config.filepath).chmod(0o600)  # it contains the password
    echo(f"profile '{name}' was created (PostgreSQL database '{database.name}', RabbitMQ) in "
               f"{config.dirpath}")


def _check_broker(config: Any, name: str) -> None:
    """Check the timeout of the server, and disable AiiDA's warning about every recent RabbitMQ."""
    found = rabbitmq.version(config.get_profile(name).process_control_config)
    config.set_option("warnings.rabbitmq_version", False, scope=name)
    echo(f"RabbitMQ {found} responds")
    if remark := rabbitmq.timeout_remark(found):
        echo(remark)
