"""Automations of a Prefect server: created once, however often `make serve` sets them up."""

from collections.abc import Iterable
from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

HEARTBEAT = "A run that has gone silent has crashed"  # its name on the server
_FLOWS = ["pipeline", "sweep-point"]  # whose runs it watches
_SILENCE = timedelta(minutes=7)  # a run sends a heartbeat every three


def put(automation: AutomationCore) -> None:
    """Create an automation, or update the one of the same name; others of that name are deleted."""
    with get_client(sync_client=True) as client:
        known = [found.id for found in client.read_automations_by_name(automation.name)]
        if known:  # an update sends what was set only, and the server has no defaults for it
            complete = automation.model_dump(exclude={"owner_resource"})
            client.update_automation(known[0], AutomationCore.model_validate(complete))
        else:
            client.create_automation(automation)
        for other in known[1:]:
            client.delete_automation(other)


def remove(names: Iterable[str]) -> None:
    """Delete the automations of these names, if there are any."""
    with get_client(sync_client=True) as client:
        for name in names:
            for found in client.read_automations_by_name(name):
                client.delete_automation(found.id)


def heartbeat() -> AutomationCore:
    """Return the automation that marks a run without a heartbeat as crashed.

    Without it, a run whose machine went down stays Running: the next nightly run does not start, and a sweep waits for
    its point.

    Prefect's own recipe: "How to detect and respond to zombie flows", docs.prefect.io.
    """
    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    return AutomationCore(
        name=HEARTBEAT,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ends)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.role": ["flow"], "prefect.resource.name": _FLOWS}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=_SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message="No heartbeat: its machine or process went down.",
                force=False,
            )
        ],
    )
