"""Loading of the AiiDA profile of a command."""

from __future__ import annotations

from typing import Any

from .terminal import Refusal


def load_profile_for_command(name: str | None) -> Any:
    """Load the profile with this name, or the default profile for None."""
    from aiida.common.exceptions import ConfigurationError, MissingConfigurationError
    from aiida.manage.configuration import load_profile

    from aiida_dse.data.patience import wait_for_the_database

    wait_for_the_database()
    try:
        return load_profile(name)
    except (ConfigurationError, MissingConfigurationError) as problem:
        raise Refusal(
            f"no AiiDA profile could be loaded ({problem}). Create one with 'aiida-dse setup'."
        ) from None
