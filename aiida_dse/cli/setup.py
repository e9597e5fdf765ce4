"""aiida-dse setup: a profile, this computer or another one, the engine's code; and their undo."""

from __future__ import annotations

from pathlib import Path

import click

from .setup_files import NO_FILE, read_file


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
        from .profile import load_profile_for_command

        load_profile_for_command(name)
        (computers.undo_remote if undo else computers.make_remote)(content)
        return
    from . import profiles

    content = content | {"profile": name or content["profile"]}
    if undo:
        profiles.undo_profile(content["profile"], delete_data)
    else:
        profiles.make_profile(content, workers, daemon)
