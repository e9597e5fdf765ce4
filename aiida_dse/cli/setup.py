"""aiida-dse setup: a profile, this computer or another one, the engine's code; and their undo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

#: Keys of a profile's file, those of 'verdi profile setup --config'; the first two are needed.
PERSON = ("profile", "broker", "email", "first_name", "last_name", "institution")
SERVICES = (
    "database_hostname", "database_port", "database_name", "database_username",
    "broker_protocol", "broker_host", "broker_port", "broker_username", "broker_virtual_host",
)
EMBEDDED, PRODUCTION = "core.zeromq", "core.rabbitmq"
NO_FILE = {"profile": "dse", "broker": EMBEDDED}


@click.command("setup")
@click.argument("file", required=False,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--profile", "name",
              help="The profile (default: the file's, or 'dse'; for a computer the default one).")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True,
              help="Daemon workers of a new profile.")
@click.option("--daemon/--no-daemon", default=True, help="Start the daemon.")
@click.option("--undo", is_flag=True, help="Take back what this made; data are kept.")
@click.option("--delete-data", is_flag=True,
              help="With --undo of a profile: delete its data as well, for good.")
@click.pass_obj
def setup(
    outer: str | None, file: Path | None, name: str | None, workers: int, daemon: bool,
    undo: bool, delete_data: bool,
) -> None:
    """Make a profile, or a remote computer, and what belongs to it.

    Without FILE: a profile that needs no service (SQLite + ZeroMQ broker), this computer and the
    code; the daemon is started. FILE, one of setup_profiles/ after your changes, makes a profile on
    PostgreSQL and RabbitMQ, or a computer over SSH with or without Slurm. Safe to repeat: what
    exists is kept.
    """
    content = NO_FILE if file is None else read_file(file)
    name = name or outer
    if delete_data and (not undo or "computer" in content):
        raise click.UsageError("--delete-data goes with --undo of a profile")
    if "computer" in content:
        from . import computers
        from .main import _load

        _load(name)
        (computers.undo_remote if undo else computers.make_remote)(content)
        return
    from . import profiles

    content = content | {"profile": name or content["profile"]}
    if undo:
        profiles.undo_profile(content["profile"], delete_data)
    else:
        profiles.make_profile(content, workers, daemon)


def read_file(path: Path) -> dict[str, Any]:
    """The content of a setup file, its keys checked."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise click.ClickException(f"{path} is not YAML: {problem}") from None
    if not isinstance(content, dict):
        raise click.ClickException(f"{path} holds no keys; start from a file of setup_profiles/")
    if "computer" in content:
        from .computers import check_sections

        check_sections(path, content)
        return content
    broker = content.get("broker")
    if broker not in (EMBEDDED, PRODUCTION):
        raise click.ClickException(
            f"{path}: broker is {broker!r}; '{EMBEDDED}' makes a profile without services, "
            f"'{PRODUCTION}' one on PostgreSQL and RabbitMQ, a section 'computer' a computer"
        )
    check_keys(path, content, PERSON + (SERVICES if broker == PRODUCTION else ()), PERSON[:2])
    return content


def check_keys(
    where: object, content: Any, known: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    """Refuse unknown, missing and empty keys."""
    if not isinstance(content, dict):
        raise click.ClickException(f"{where}: write 'key: value' lines ({', '.join(known)})")
    for key in content:
        if key not in known:
            told = (" Passwords stay out of files: it is asked for where it is needed."
                    if "password" in str(key) else "")
            raise click.ClickException(
                f"{where}: the key '{key}' is not known here; known are {', '.join(known)}.{told}"
            )
    for key in needed:
        if not content.get(key):
            raise click.ClickException(f"{where}: the key '{key}' is missing; add it")
