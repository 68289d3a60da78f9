"""A project that `make serve` serves, for tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from tests.flows.conftest import SECONDS, ask, has_ended, wait


class Served(NamedTuple):
    """A project with a running `make serve`, the home of its server, and the address of that server's API.

    The output is in the file `output` of the home.
    """

    project: Path
    home: Path
    address: str
    process: "subprocess.Popen[bytes]"

    def post(self, path: str, **body: Any) -> Any:
        """Send a request to the server."""
        return ask("POST", f"{self.address}/{path}", body)

    def deployment(self, name: str) -> str:
        """Return a deployment's id."""
        return str(ask("GET", f"{self.address}/deployments/name/pipeline/{name}")["id"])

    def started(self, name: str, **parameters: Any) -> str:
        """Start a run of a deployment; return its id."""
        created = self.post(f"deployments/{self.deployment(name)}/create_flow_run", parameters=parameters)
        return str(created["id"])

    def runs(self, *tags: str) -> list[dict[str, Any]]:
        """Return the flow runs with these tags, in the order in which they were created."""
        found: list[dict[str, Any]] = self.post("flow_runs/filter", flow_runs={"tags": {"all_": tags}})
        return sorted(found, key=lambda run: str(run["created"]))

    def run(self, number: str) -> dict[str, Any]:
        """Return a flow run as the server knows it."""
        flow_run: dict[str, Any] = ask("GET", f"{self.address}/flow_runs/{number}")
        return flow_run

    def ended(self, number: str, *, seconds: float = SECONDS) -> dict[str, Any]:
        """Wait until a flow run has ended; return it."""
        wait(lambda: has_ended(self.run(number)), seconds=seconds, pause=0.5)
        return self.run(number)

    def stages(self, number: str, expected: int) -> dict[str, str]:
        """Return the names of the states of a flow run's task runs by their names, when so many have ended.

        Their events arrive with a delay.
        """

        def found() -> list[dict[str, Any]]:
            runs: list[dict[str, Any]] = self.post("task_runs/filter", flow_runs={"id": {"any_": [number]}})
            return runs

        wait(lambda: sum(map(has_ended, found())) >= expected, pause=0.2)
        return {task["name"]: task["state_name"] for task in found()}


def set_params(project: Path, section: str, **values: Any) -> None:
    """Change parameters of a section."""
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path)
    params[section] |= values
    yaml.dump(params, path)


@contextmanager
def serving(project: Path, home: Path, port: int, *options: str, **variables: str) -> Iterator[Served]:
    """Run `make serve` in a project during the block."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = kept | {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": str(port)} | variables
    output = home / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", *options], cwd=project, env=environment, stdout=file, stderr=file
        )

    def serves() -> bool:
        assert process.poll() is None, output.read_text()
        return "Serving at" in output.read_text()

    try:
        wait(serves)
        yield Served(project, home, f"http://127.0.0.1:{port}/api", process)
    finally:
        process.terminate()
        process.wait(SECONDS)
