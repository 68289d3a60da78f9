import pytest
from prefect.client.orchestration import get_client
from prefect.events.actions import DoNothing
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from flows import automations

NAME = "An automation of a test"


@pytest.mark.usefixtures("prefect_server")
def test_an_automation_exists_once() -> None:
    """An automation that is put again replaces all of its name; removed, there is none, and others stay."""

    def found() -> list[tuple[str, str]]:
        with get_client(sync_client=True) as client:
            return [(item.name, item.description) for item in client.read_automations_by_name(NAME)]

    for description in ("first", "second"):
        trigger = EventTrigger(expect={"an.event"})
        automation = AutomationCore(name=NAME, description=description, trigger=trigger, actions=[DoNothing()])
        with get_client(sync_client=True) as client:
            client.create_automation(automation)
        automations.put(automation)
        assert found() == [(NAME, description)]
    automations.put(automations.heartbeat())
    automations.remove([NAME, "Another name"])
    assert found() == []
    with get_client(sync_client=True) as client:
        assert len(client.read_automations_by_name(automations.HEARTBEAT)) == 1
