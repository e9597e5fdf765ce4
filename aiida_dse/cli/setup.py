"""aiida-dse setup: creates or removes a profile or a computer together with its code."""

from __future__ import annotations

import click

from .setup_files import NO_FILE, check_profile_name, read_file
from .shipped_files import copy_setup_file, find_setup_file, list_setup_files


@click.command("setup")
@click.argument("file", required=False)
@click.option("--profile", "name",
              help="Name of the profile (default: the one in FILE, or 'dse'; for a computer, the "
                   "default profile).")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True,
              help="Number of daemon workers of a new profile.")
@click.option("--daemon/--no-daemon", default=True, help="Whether to start the daemon.")
@click.option("--undo", is_flag=True, help="Remove what this command created, except for the data.")
@click.option("--delete-data", is_flag=True,
              help="With --undo of a profile: also delete its data, permanently. This works even "
                   "after an earlier --undo that retained the data.")
@click.option("--list", "list_files", is_flag=True,
              help="List the set-up files included in the package.")
@click.option("--copy", is_flag=True,
              help="Only copy FILE into the current folder for editing.")
@click.pass_obj
def setup(
    outer: str | None, file: str | None, name: str | None, workers: int, daemon: bool, undo: bool,
    delete_data: bool, list_files: bool, copy: bool,
) -> None:
    """Create a profile or a remote computer, ready for use.

    Without FILE, this command creates a profile that requires no services (SQLite and the ZeroMQ
    broker), configures this computer and its code, and starts the daemon. FILE is the path of a
    set-up file, or the name of one that is included in the package (see --list). It describes
    either a profile with PostgreSQL and RabbitMQ, or a computer that is reached over SSH, with or
    without Slurm. The command can be repeated safely: it reuses existing items.
    """
    if list_files:
        list_setup_files()
        return
    path = None if file is None else find_setup_file(file)
    if copy:
        if path is None:
            raise click.UsageError("--copy requires FILE; list the available files with --list")
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
    check_profile_name(content["profile"])
    if undo:
        from .profile_removal import undo_profile

        undo_profile(content["profile"], delete_data)
        return
    from .profiles import make_profile

    make_profile(content, workers, daemon)
