"""Set-up files of `aiida-dse setup`, which describe a profile or a computer: reading and checks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from .terminal import Refusal

#: Keys of a profile's file, as for 'verdi profile setup --config'; the first two are required.
PERSON = ("profile", "broker", "email", "first_name", "last_name", "institution")
SERVICES = (
    "database_hostname", "database_port", "database_name", "database_username",
    "broker_protocol", "broker_host", "broker_port", "broker_username", "broker_virtual_host",
)
EMBEDDED, PRODUCTION = "core.zeromq", "core.rabbitmq"
#: The profile that is created if no file is specified.
NO_FILE = {"profile": "dse", "broker": EMBEDDED}

TRANSPORT, SLURM, DIRECT = "core.ssh_async", "core.slurm", "core.direct"
#: Sections of a computer's file with their required and optional keys. The keys of the first
#: three are those of 'verdi computer setup', 'verdi computer configure' and 'verdi code create'.
SECTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "computer": (("label", "hostname", "transport", "scheduler", "work_dir"),
                 ("description", "shebang", "prepend_text")),
    "configure": ((), ("host", "data_node_host", "max_io_allowed", "authentication_script",
                       "backend", "use_sftp", "use_login_shell", "safe_interval")),
    "code": (("filepath_executable",), ("label", "description", "prepend_text")),
    "jobs": ((), ("partition", "account", "walltime", "threads", "poll_interval")),
}


def check_profile_name(name: str) -> None:
    """Raise an error for names that are no plain names: the name is part of the paths of the data."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}", str(name)):
        raise Refusal(
            f"{name!r} is not a valid name of a profile. Use up to 60 letters, digits, hyphens and "
            "underscores, and begin with a letter or a digit")


def read_file(path: Path) -> dict[str, Any]:
    """The content of a setup file, with its keys checked."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise Refusal(f"{path} is not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        raise Refusal(
            f"{path} contains no keys. Start from one of the files listed by "
            "'aiida-dse setup --list'"
        )
    if "computer" in content:
        check_sections(path, content)
        return content
    broker = content.get("broker")
    if broker not in (EMBEDDED, PRODUCTION):
        raise Refusal(
            f"{path}: the broker is {broker!r}. Specify '{EMBEDDED}' for a profile without "
            f"services or '{PRODUCTION}' for one with PostgreSQL and RabbitMQ; a file that sets up "
            "a computer must contain a section 'computer'"
        )
    check_keys(path, content, PERSON + (SERVICES if broker == PRODUCTION else ()), PERSON[:2])
    return content


def check_keys(
    where: object, content: Any, known: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    """Raise an error for unknown keys, and for required keys that are missing or empty."""
    if not isinstance(content, dict):
        raise Refusal(
            f"{where}: expected lines of the form 'key: value' (keys: {', '.join(known)})")
    for key in content:
        if key not in known:
            hint = (" Do not store passwords in this file: setup prompts for them when required."
                    if "password" in str(key) else "")
            raise Refusal(
                f"{where}: unknown key '{key}'. The known keys are {', '.join(known)}.{hint}"
            )
    for key in needed:
        if not content.get(key):
            raise Refusal(f"{where}: the key '{key}' is missing; add it")


def check_sections(path: Path, content: dict[str, Any]) -> None:
    """Raise an error if the file of a computer cannot be used."""
    check_keys(path, content, tuple(SECTIONS), ("computer", "code"))
    for section, (needed, more) in SECTIONS.items():
        # a section that contains comments only is None
        check_keys(f"{path}, {section}", content.get(section) or {}, needed + more, needed)
    computer, jobs = content["computer"], content.get("jobs") or {}
    for key, allowed in (("transport", (TRANSPORT,)), ("scheduler", (SLURM, DIRECT))):
        if computer[key] not in allowed:
            raise Refusal(f"{path}, computer: {key} is '{computer[key]}', but this "
                                       f"command supports only {' and '.join(allowed)}")
    for key, low in (("walltime", 60), ("threads", 1), ("poll_interval", 0)):
        value = jobs.get(key)
        if value is not None and (type(value) not in (int, float) or value < low):
            unit = "" if key == "threads" else " (seconds)"
            raise Refusal(f"{path}, jobs: {key} is {value!r}, but must be a number "
                                       f"of at least {low}{unit}")
    for key in ("partition", "account"):
        if jobs.get(key) and computer["scheduler"] != SLURM:
            raise Refusal(f"{path}, jobs: {key} requires the scheduler {SLURM}. "
                                       "Remove this line if the computer has no queue")
    executable = content["code"]["filepath_executable"]
    if not str(executable).startswith("/"):
        raise Refusal(
            f"{path}, code: filepath_executable is '{executable}'. Specify the absolute path on "
            "that computer, as printed by engine_only.py")
