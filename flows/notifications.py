"""Notifications: a message to a webhook when a scheduled run fails or does not begin, or a promotion is refused.

The address of the webhook is a secret: whoever knows it can write there. It is in `DOGS_VS_CATS_NOTIFY` or in a Secret
block of Prefect, and Prefect's server keeps it encrypted in a Webhook block.
"""

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.types import SecretDict
from pydantic import SecretStr

from flows import automations, credentials
from transfer.runtime.errors import ParamsError

VARIABLE = "DOGS_VS_CATS_NOTIFY"
PROMOTION = "dogs-vs-cats.promotion"  # the events are .promoted and .refused
ON_ARRIVAL = "on-arrival"  # the tag of runs that photographs have started
FAILED = "Notify: a scheduled run has failed"
NOT_BEGUN = "Notify: a scheduled run has not begun"
REFUSED = "Notify: a promotion was refused"
_LATE = timedelta(minutes=10)
_RUN = "{{ flow_run.name }}"
_PAGE = "{{ (flow_run|ui_url) or '' }}"
_TEXTS = {
    FAILED: f"dogs-vs-cats: the run {_RUN} has ended as {{{{ flow_run.state.name }}}}. "
    f"{{{{ flow_run.state.message or '' }}}} {_PAGE}",
    NOT_BEGUN: f"dogs-vs-cats: the run {_RUN} is due and has not begun; is a worker running? {_PAGE}",
    REFUSED: f"dogs-vs-cats: {{{{ event.payload.message }}}} {_PAGE}",
}


def take_address() -> str | None:
    """Take the address of the webhook from the environment, so that no child process inherits it; None without one.

    Raises:
        ParamsError: it is no address; the message does not have it.
    """
    value = os.environ.pop(VARIABLE, "").strip()
    return _checked(value, f"the variable {VARIABLE}") if value else None


def set_up(address: str | None, *, late: timedelta = _LATE) -> bool:
    """Have the server send notifications to a webhook, or, without an address, to none; return whether it does.

    Args:
        address: that of the environment; without it, the Secret block counts.
        late: how long a due run may take to begin.

    Raises:
        ParamsError: the Secret block has no address.
    """
    block = credentials.block(VARIABLE)
    if address is None and (value := credentials.load(block)):
        address = _checked(value.strip(), f"the Secret block {block}")
    if address is None:
        automations.remove(_TEXTS)
        with suppress(ValueError):  # there is none
            Webhook.delete(block)
        return False
    webhook: Any = Webhook(url=SecretStr(address), headers=SecretDict({"Content-Type": "application/json"}))
    number = webhook.save(block, overwrite=True, _sync=True)
    for automation in _automations(number, late):
        automations.put(automation)
    return True


def _checked(value: str, source: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or value.split() != [value]:
        raise ParamsError(
            "The address for notifications must be that of a webhook, as in https://example.org/hook. "
            f"Received: another text in {source}; it is not shown, as addresses contain secrets."
        )
    return value


def _automations(webhook: UUID, late: timedelta) -> list[AutomationCore]:
    """Return the automations that call a webhook."""
    pipeline = _related("flow", name=["pipeline"])
    unattended = _related("tag", id=["prefect.tag.auto-scheduled", f"prefect.tag.{ON_ARRIVAL}"])
    runs: dict[str, Any] = {
        "match": ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        "match_related": [pipeline, unattended],
        "for_each": {"prefect.resource.id"},
    }
    begun = ("Pending", "Running", "Cancelled", "Completed", "Failed", "Crashed")
    triggers = {
        FAILED: EventTrigger(expect=_states("Failed", "Crashed", "TimedOut"), **runs),
        NOT_BEGUN: EventTrigger(
            after=_states("Late"), expect=_states(*begun), posture=Posture.Proactive, within=late, **runs
        ),
        REFUSED: EventTrigger(expect={f"{PROMOTION}.refused"}),
    }
    return [
        AutomationCore(
            name=name,
            description=f"`make serve` has set this up, because {VARIABLE} names an address.",
            trigger=trigger,
            actions=[CallWebhook(block_document_id=webhook, payload=_payload(_TEXTS[name]))],
        )
        for name, trigger in triggers.items()
    ]


def _related(role: str, **values: list[str]) -> ResourceSpecification:
    labels = {f"prefect.resource.{label}": value for label, value in values.items()}
    return ResourceSpecification({"prefect.resource.role": [role], **labels})


def _states(*names: str) -> set[str]:
    return {f"prefect.flow-run.{name}" for name in names}


def _payload(text: str) -> str:
    """Return the template of a JSON object with a text, which Slack, Mattermost, Google Chat and Telegram accept."""
    return f'{{% set text %}}{text}{{% endset %}}{{"text": {{{{ text|tojson }}}}}}'
