"""Cases of reliability: tests marked with what can go wrong, and the tables of docs/reliability.md made from the marks.

`@pytest.mark.reliability(area, case, outcome)` states what a test shows: what goes wrong, and what happens then.
Several tests may show one case, and one test several.

`make reliability` runs these tests and writes the tables with the seconds they took. `python -m tests.reliability`
writes the tables from the marks alone, in a second, and keeps the seconds of each case whose words have not changed.
"""

import argparse
import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs/reliability.md"
MARK = "reliability"
AREAS = ("network", "archives", "photographs", "killed", "disk", "two at once", "tampered", "training", "supply chain")
HEADING = "| what goes wrong | what happens | seconds |\n|---|---|---|\n"
UNKNOWN = "-"  # in place of the seconds of a case that has not been timed since its words changed

_TABLE = re.compile(r"(?<=<summary>)(?P<area>[a-z ]+): \d+ cases</summary>\n\n(?P<rows>.*?)(?=\n</details>)", re.DOTALL)


class Case(NamedTuple):
    """Something that can go wrong, and what happens then."""

    area: str
    case: str
    outcome: str


def marked() -> list[Case]:
    """Return the cases of all tests, each once, in the order of the tables."""
    cases = [case for file in sorted((ROOT / "tests").rglob("test_*.py")) for case in _marks(file)]
    return sorted(dict.fromkeys(cases), key=lambda case: AREAS.index(case.area))


def documented() -> dict[Case, str]:
    """Return the cases of the tables in docs/reliability.md, in their order, with their seconds."""
    seconds = {}
    for table in _TABLE.finditer(DOCUMENT.read_text(encoding="utf-8")):
        for row in table["rows"].removeprefix(HEADING).splitlines():
            _, case, outcome, time, _ = (cell.strip() for cell in row.split("|"))
            seconds[Case(table["area"], case, outcome)] = time
    return seconds


def write(seconds: Mapping[Case, str]) -> None:
    """Write the tables of docs/reliability.md; the prose between them stays.

    Args:
        seconds: of each case, as text; a case without them is shown as not timed.
    """
    cases = marked()

    def table(match: re.Match[str]) -> str:
        area = [case for case in cases if case.area == match["area"]]
        rows = [f"| {case.case} | {case.outcome} | {seconds.get(case, UNKNOWN)} |\n" for case in area]
        return f"{match['area']}: {len(rows)} cases</summary>\n\n{HEADING}{''.join(rows)}"

    DOCUMENT.write_text(_TABLE.sub(table, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


def _marks(file: Path) -> Iterator[Case]:
    calls = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"pytest.mark.{MARK}"
    ]
    for call in sorted(calls, key=lambda node: node.lineno):
        yield Case(*map(ast.literal_eval, call.args))


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make reliability`."""
    parser.addoption("--write-reliability", action="store_true", help=f"write the tables of {DOCUMENT.name}")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the cases in the process that receives all reports, not in the processes that run tests."""
    config.addinivalue_line("markers", f"{MARK}(area, case, outcome): a case of docs/{DOCUMENT.name}")
    if config.getoption("--write-reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add a test's cases to its report, which goes to the process that receives all reports."""
    outcome: Any = yield
    cases = [list(mark.args) for mark in item.iter_markers(MARK)]
    outcome.get_result().user_properties.append((MARK, cases))


class _Writer:
    """Writes the tables once all cases have been shown."""

    def __init__(self) -> None:
        self._seconds: dict[Case, float] = {}
        self._failed: set[Case] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record how long a case took, or that it failed."""
        if report.failed:
            self._failed |= {*_cases(report.user_properties)}
        if report.when == "call" and report.passed:
            for case in _cases(report.user_properties):
                self._seconds[case] = max(report.duration, self._seconds.get(case, 0.0))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the tables, unless a test of some case failed, was skipped or was not selected."""
        if missing := [case for case in marked() if case not in self._seconds or case in self._failed]:
            print(f"\n{DOCUMENT.name} is unchanged, because these cases were not shown:", *missing, sep="\n")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return
        write({case: _rounded(seconds) for case, seconds in self._seconds.items()})


def _cases(properties: Iterable[tuple[str, Any]]) -> Iterator[Case]:
    for name, value in properties:
        if name == MARK:
            yield from (Case(*arguments) for arguments in value)


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m tests.reliability", description="Write the tests' marks into docs/reliability.md."
    ).parse_args()
    write(documented())
