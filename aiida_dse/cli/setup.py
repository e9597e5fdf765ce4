"""aiida-dse setup: a profile or a computer with the engine's code, created and removed again."""

from __future__ import annotations

import click

from .setup_files import NO_FILE, read_file
from .shipped_files import copy_setup_file, find_setup_file, list_setup_files


@click.command("setup")
@click.argument("file", required=False)
@click.option("--profile", "name",
              help="The profile (default: the one in FILE, or 'dse'; for a computer, the default "
                   "profile).")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True,
              help="Number of daemon workers of a new profile.")
@click.option("--daemon/--no-daemon", default=True, help="Start the daemon.")
@click.option("--undo", is_flag=True, help="Remove what this command created; keep the data.")
@click.option("--delete-data", is_flag=True,
              help="With --undo of a profile: delete its data as well, permanently; also after an "
                   "--undo that kept the data.")
@click.option("--list", "list_files", is_flag=True,
              help="List the set-up files that come with the package.")
@click.option("--copy", is_flag=True,
              help="Copy FILE into the current folder, to be edited there, and set nothing up.")
@click.pass_obj
def setup(
    outer: str | None, file: str | None, name: str | None, workers: int, daemon: bool, undo: bool,
    delete_data: bool, list_files: bool, copy: bool,
) -> None:
    """Create a profile, or a remote computer, with everything that belongs to it.

    Without FILE, this creates a profile that needs no service (SQLite and the ZeroMQ broker), this
    computer and the code, and starts the daemon. FILE is the path of a set-up file, or the name of
    one that comes with the package (see --list): a profile on PostgreSQL and RabbitMQ, or a
    computer over SSH with or without Slurm. The command can be repeated safely: it keeps what
    exists.
    """
    if list_files:
        list_setup_files()
        return
    path = None if file is None else find_setup_file(file)
    if copy:
        if path is None:
            raise click.UsageError("--copy needs the name of a file; --list shows them")
        copy_setup_file(path)
        return
    content = NO_FILE if path is None else read_file(path)
    name = name or outer
    if delete_data and (not undo or "computer" in content):
        raise click.UsageError("--delete-data can only be used with --undo of a profile")
    if "computer" in content:
        from . import computers
        from .profile import load_profile_for_command

        load_profile_for_command(name)
        (computers.undo_remote if undo else computers.make_remote)(content)
        return
    content = content | {"profile": name or content["profile"]}
    if undo:
        from .profile_removal import undo_profile

        undo_profile(content["profile"], delete_data)
        return
    from .profiles import make_profile

    make_profile(content, workers, daemon)
