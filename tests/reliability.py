"""What can go wrong: tests marked as cases of reliability, and the table of docs/reliability.md that they write.

`@pytest.mark.reliability(area, case, outcome)` says what a test shows: what goes wrong, and what happens then. Several
tests may show one case, and one test several.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs/reliability.md"
MARK = "reliability"
AREAS = ("network", "archives", "photographs", "killed", "disk", "two at once", "tampered", "training", "supply chain")
HEADING = "| area | what goes wrong | what happens | seconds |"


class Case(NamedTuple):
    """Something that can go wrong, and what happens then."""

    area: str
    case: str
    outcome: str


def marked() -> list[Case]:
    """The cases of all tests, each once, in the order of the table."""
    found = [case for file in sorted((ROOT / "tests").rglob("test_*.py")) for case in _marks(file)]
    return sorted(dict.fromkeys(found), key=lambda case: AREAS.index(case.area))


def documented() -> list[Case]:
    """The cases of the table in docs/reliability.md."""
    lines = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[2].splitlines()[2:]
    return [Case(*(cell.strip() for cell in line.split("|")[1:4])) for line in lines]


def table(seconds: dict[Case, float]) -> str:
    """The table as Markdown, of the cases with the seconds that the slowest of their tests took."""
    rows = [f"| {' | '.join(case)} | {_rounded(seconds[case])} |" for case in marked() if case in seconds]
    return "\n".join([HEADING, "|---|---|---|---|", *rows]) + "\n"


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
    """Let the table be written: `make reliability`."""
    parser.addoption("--write-reliability", action="store_true", help=f"write the table of {DOCUMENT.name}")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the cases where the reports come together, which is not in the processes that test."""
    config.addinivalue_line("markers", f"{MARK}(area, case, outcome): a case of docs/{DOCUMENT.name}")
    if config.getoption("--write-reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let a report carry its test's cases from the process that tests."""
    outcome: Any = yield
    cases = [list(mark.args) for mark in item.iter_markers(MARK)]
    outcome.get_result().user_properties.append((MARK, cases))


class _Writer:
    """Writes the table once all its cases have been shown."""

    def __init__(self) -> None:
        self._seconds: dict[Case, float] = {}
        self._failed: set[Case] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how long a case took, or that it failed."""
        if report.failed:
            self._failed |= {*_cases(report.user_properties)}
        if report.when == "call" and report.passed:
            for case in _cases(report.user_properties):
                self._seconds[case] = max(report.duration, self._seconds.get(case, 0.0))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the table, unless a case is missing: it failed, was skipped or was not asked for."""
        if missing := [case for case in marked() if case not in self._seconds or case in self._failed]:
            print(f"\n{DOCUMENT.name} is left as it is, as these were not shown:", *missing, sep="\n")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return
        prose = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[0]
        DOCUMENT.write_text(prose + table(self._seconds), encoding="utf-8")


def _cases(properties: Iterable[tuple[str, Any]]) -> Iterator[Case]:
    for name, value in properties:
        if name == MARK:
            yield from (Case(*each) for each in value)
