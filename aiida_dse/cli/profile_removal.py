"""Removal of a profile that was created by `aiida-dse setup`, with or without its data.

If the data are retained, removing the profile from AiiDA's configuration also removes the record
of their location. The location, without any password, is therefore stored in a file next to the
configuration, so that a later `--undo --delete-data` can find the data. A database is dropped only
if setup created it, as recorded by a comment in the database.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from . import postgres, rabbitmq
from .setup_files import PRODUCTION
from .terminal import Refusal, echo

#: Time (s) within which the daemon must stop.
DAEMON_SECONDS = 60
KEPT_DATA = "aiida-dse-kept-data.json"
REDACTED = "removed by aiida-dse setup --undo"
POSTGRES = "core.psql_dos"


def undo_profile(name: str, delete_data: bool) -> None:
    """Stop the daemon and remove the profile; delete its data only on request."""
    from aiida.common.exceptions import MissingConfigurationError
    from aiida.manage.configuration import get_config

    try:
        config = get_config()
    except MissingConfigurationError:
        config = None
    if config is None or name not in config.profile_names:
        if config is None or not (delete_data and _delete_kept_data(config, name)):
            echo(f"there is no profile '{name}', so there is nothing to undo")
        return
    profile = config.get_profile(name)
    _stop_daemon(name)
    # config.delete_profile would print the settings of the storage, including the password
    where = location(profile)
    if not delete_data:
        _remember(config, where)
        echo(_how_to_use_again(where))
    elif not _delete(config, where):
        _remember(config, where)
    if profile.process_control_backend == PRODUCTION:
        rabbitmq.forget(profile.process_control_config, f"aiida-{profile.uuid}")
    was_default = config.default_profile_name == name
    config.remove_profile(name)
    if was_default and config.profile_names:
        config.set_default_profile(config.profile_names[0], overwrite=True)
        echo(f"'{config.default_profile_name}' is now the default profile")
    config.store()
    _redact_backups(config, name)
    echo(f"profile '{name}' was removed from {config.dirpath}")


def location(profile: Any) -> dict[str, Any]:
    """Name of a profile, the folder of its data and, if there is one, its database."""
    stored = profile.storage_config
    if profile.storage_backend != POSTGRES:
        return {"profile": profile.name, "folder": stored.get("filepath")}
    keys = ("database_hostname", "database_port", "database_name", "database_username")
    return {"profile": profile.name, "folder": stored["repository_uri"].removeprefix("file://")} | {
        key: stored[key] for key in keys}


def _stop_daemon(name: str) -> None:
    from aiida.engine.daemon.client import DaemonException, get_daemon_client

    client = get_daemon_client(name)
    if not client.is_daemon_running:
        return
    try:
        client.stop_daemon(wait=True, timeout=DAEMON_SECONDS)
    except DaemonException as problem:
        raise Refusal(
            f"the daemon did not stop ({problem}), so nothing was removed. Run 'verdi -p {name} "
            "daemon stop' and repeat this command"
        ) from None
    echo("the daemon was stopped")


def _how_to_use_again(where: dict[str, Any]) -> str:
    retained = "the data were retained in"
    delete = "To delete them, run 'aiida-dse setup' with '--undo --delete-data'"
    if "database_name" not in where:
        return (f"{retained} {where['folder']}. To use them again, run 'aiida-dse setup' with the "
                f"same profile name. {delete}")
    role = where["database_username"]
    return (f"{retained} the database '{where['database_name']}' and {where['folder']}. To use "
            f"them again, set a new password for the role '{role}' (psql -c '\\password {role}') "
            f"and run 'aiida-dse setup' with the same file. {delete}")


# --- retained data ----------------------------------------------------------------------------


def _kept(config: Any) -> list[dict[str, Any]]:
    path = Path(config.dirpath) / KEPT_DATA
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _store_kept(config: Any, kept: list[dict[str, Any]]) -> None:
    path = Path(config.dirpath) / KEPT_DATA
    if kept:
        path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def _remember(config: Any, where: dict[str, Any]) -> None:
    _store_kept(config, [one for one in _kept(config) if one != where] + [where])


def _delete_kept_data(config: Any, name: str) -> bool:
    """Delete the data retained by an earlier undo of this profile; False if there are none."""
    found = [where for where in _kept(config) if where["profile"] == name]
    for where in found:
        _delete(config, where)
    return bool(found)


def _delete(config: Any, where: dict[str, Any]) -> bool:
    """Delete folder, database and role; False if the database was not created by setup."""
    own = Path(config.dirpath, "repository", where["profile"])
    if Path(where["folder"]).resolve() != own.resolve():
        raise Refusal(
            f"the data of '{where['profile']}' lie in {where['folder']} and not in {own}, so this command "
            "did not create them, and nothing was removed. Run the command without --delete-data")
    others = [location(one) for one in config.profiles if one.name != where["profile"]]
    if any(one["folder"] == where["folder"] or _same_database(one, where) for one in others):
        raise Refusal(
            "another profile uses the same data, so nothing was removed. Run the command without "
            "--delete-data"
        )
    deleted = str(where["folder"])
    if "database_name" in where:
        database = postgres.Database(
            where["database_hostname"], where["database_port"], where["database_name"],
            where["database_username"], password="")
        made = postgres.made_by_setup(database)
        if "database" not in made and postgres.exists(database):
            echo(f"the data were retained: the database '{database.name}' was not created by "
                       f"this command, and {where['folder']} belongs to it")
            return False
        if any(_same_server(one, where)
               and one["database_username"] == database.role for one in others):
            made.discard("role")
        postgres.drop(database, made)
        deleted = ", ".join([*(f"the {what} '{getattr(database, label)}'" for what, label in (
            ("database", "name"), ("role", "role")) if what in made), deleted])
    shutil.rmtree(own, ignore_errors=True)
    shutil.rmtree(Path(config.dirpath) / "scratch" / where["profile"], ignore_errors=True)
    _store_kept(config, [one for one in _kept(config) if one != where])
    echo(f"deleted: {deleted}")
    return True


def _same_server(one: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = ("database_hostname", "database_port")
    return all(key in one and one[key] == other.get(key) for key in keys)


def _same_database(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return _same_server(one, other) and one["database_name"] == other["database_name"]


# --- backups of the configuration -------------------------------------------------------------


def _redact_backups(config: Any, name: str) -> None:
    """Remove the passwords of a profile from the copies of config.json that AiiDA keeps."""
    path = Path(config.filepath)
    for copy in path.parent.glob(f"{path.name}.*"):
        try:
            content = json.loads(copy.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not a copy of the configuration
        profile = content.get("profiles", {}).get(name, {})
        changed = False
        for section in ("storage", "process_control"):
            settings = (profile.get(section) or {}).get("config") or {}
            for key in settings:
                if key.endswith("password") and settings[key] != REDACTED:
                    settings[key], changed = REDACTED, True
        if changed:
            copy.write_text(json.dumps(content, indent=4), encoding="utf-8")
