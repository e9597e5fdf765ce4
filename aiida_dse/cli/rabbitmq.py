"""Settings, version and timeout of a RabbitMQ server, and removal of the queue of a profile."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from typing import Any

import click

from .terminal import Refusal, echo

#: From this version on, a task that takes longer than consumer_timeout disconnects the daemon.
TIMES_OUT_FROM = (3, 8, 15)
LIFT = "application:set_env(rabbit, consumer_timeout, undefined)."
KEEP = "[{rabbit, [{consumer_timeout, undefined}]}]."


def settings(content: dict[str, Any]) -> dict[str, Any]:
    """The broker settings of a profile's file as AiiDA stores them; prompts for a password."""
    user = content.get("broker_username") or "guest"
    password = "guest" if user == "guest" else click.prompt(
        f"Password of the RabbitMQ user '{user}'", hide_input=True)
    return {
        "broker_protocol": content.get("broker_protocol") or "amqp",
        "broker_username": user, "broker_password": password,
        "broker_host": content.get("broker_host") or "127.0.0.1",
        "broker_port": int(content.get("broker_port") or 5672),
        "broker_virtual_host": content.get("broker_virtual_host") or "",
    }


def version(broker: dict[str, Any]) -> str:
    """The version of the server. Raises an error if the server does not respond."""
    async def ask() -> str:
        connection = await _connect(broker)
        try:
            found = connection.transport.connection.server_properties["version"]
            return found.decode() if isinstance(found, bytes) else str(found)
        finally:
            await connection.close()

    try:
        return asyncio.run(ask())
    except Exception as problem:  # its text may contain the URL with the password
        raise Refusal(
            f"RabbitMQ at {broker['broker_host']}:{broker['broker_port']} does not respond to the "
            f"user '{broker['broker_username']}' ({type(problem).__name__}). Check that it is "
            "running (Debian: apt install rabbitmq-server), and that host, port and user are "
            "correct"
        ) from None


def timeout_remark(found: str) -> str | None:
    """Instructions for disabling the consumer_timeout of the server; None if it is disabled."""
    if tuple(int(n) for n in re.findall(r"\d+", found)[:3]) < TIMES_OUT_FROM:
        return None
    state = _timeout()
    if state == "undefined":
        return None
    value = "could not be read" if state is None else f"is {int(state) / 60000:.0f} min"
    return (
        f"The consumer_timeout of RabbitMQ {value}. Work chains that last longer are disconnected "
        f"from the daemon. To disable it permanently, write\n  {KEEP}\ninto "
        "/etc/rabbitmq/advanced.config on the server. To disable it until the server restarts, run"
        f"\n  rabbitmqctl eval '{LIFT}'"
    )


def _timeout() -> str | None:
    """consumer_timeout in ms, 'undefined' if disabled, None if this user may not query it."""
    if shutil.which("rabbitmqctl") is None:
        return None
    try:
        asked = subprocess.run(
            ["rabbitmqctl", "eval", "application:get_env(rabbit, consumer_timeout)."],
            capture_output=True, text=True, timeout=30, check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    answer = re.search(r"undefined|\d+", asked.stdout)
    return answer[0] if asked.returncode == 0 and answer else None


def forget(broker: dict[str, Any], prefix: str) -> None:
    """Delete the queue and exchanges of a profile."""
    async def delete() -> None:
        connection = await _connect(broker)
        try:
            channel = await connection.channel()
            await channel.queue_delete(f"{prefix}.process.queue")
            for name in ("messages", "tasks"):
                await channel.exchange_delete(f"{prefix}.{name}")
        finally:
            await connection.close()

    try:
        asyncio.run(delete())
    except Exception as problem:
        echo(f"the queue '{prefix}.process.queue' was not deleted, because RabbitMQ does not "
                   f"respond ({type(problem).__name__}). The queue is empty and harmless")


async def _connect(broker: dict[str, Any]) -> Any:
    import aio_pika

    return await aio_pika.connect(
        host=broker["broker_host"], port=broker["broker_port"], login=broker["broker_username"],
        password=broker["broker_password"], virtualhost=broker["broker_virtual_host"] or "/",
        ssl=broker["broker_protocol"] == "amqps", timeout=15,
    )
