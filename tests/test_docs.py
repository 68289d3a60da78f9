"""The documents against the project: what they name exists, and what exists is named."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from dvc.cli import DvcParserError, parse_args
from ruamel.yaml import YAML

from flows import credentials
from tasks import download, subsample
from tests import reliability
from transfer.evaluation import diagnosis, loss_curves
from transfer.features import cache
from transfer.images import decoding, near_duplicates
from transfer.prediction import __main__ as predict
from transfer.prediction import inputs
from transfer.runtime import errors, signals
from transfer.sources.retries import RetryPolicy

ROOT = Path(__file__).parent.parent
INTERRUPTED = {signals.Interrupted(number).exit_code for number in signals.MESSAGES}
README = ROOT / "README.md"
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "inbox/README.md", "benchmarks/*.md") for path in ROOT.glob(pattern)
)
PARAMS: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
BASELINES_PARAMS: dict[str, Any] = YAML(typ="safe").load(ROOT / "baselines/params.yaml")
BASELINES: dict[str, Any] = YAML(typ="safe").load(ROOT / "baselines/dvc.yaml")["stages"]
BASELINES_STAGES = {*BASELINES, *(f"train@{model}" for model in BASELINES["train"]["matrix"]["model"])}
DVC_TARGETS = {
    *STAGES,
    "dvc.yaml",
    "baselines/dvc.yaml",
    *(f"baselines/dvc.yaml:{stage}" for stage in BASELINES_STAGES),
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<address>[^)\s]+)\)")


def fenced(path: Path, language: str) -> list[str]:
    """The lines of a document's code blocks in a language, without comments."""
    blocks = [
        match["text"] for match in FENCED.finditer(path.read_text(encoding="utf-8")) if match["language"] == language
    ]
    return [line for block in blocks for line in re.sub(r"\s+# .*$", "", block, flags=re.MULTILINE).splitlines()]


def spans(path: Path) -> list[str]:
    """What stands in single backquotes in a document."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", path.read_text(encoding="utf-8")))


def commands(path: Path) -> list[str]:
    """Everything in a document that a reader might type into a shell."""
    return [line.strip() for line in [*fenced(path, "sh"), *spans(path)]]


def links(path: Path) -> list[str]:
    """Addresses a document links to, other than those on the web."""
    addresses = [match["address"] for match in LINK.finditer(FENCED.sub("", path.read_text(encoding="utf-8")))]
    return [address for address in addresses if not address.startswith("https://")]


def anchors(path: Path) -> set[str]:
    """What a link can point to within a document: its headings, as hosts of Git repositories spell them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def param(name: str) -> Any:
    """The value of a param by its dotted name; KeyError where there is none."""
    value: Any = {**PARAMS, **BASELINES_PARAMS}
    for part in name.split("."):
        if not isinstance(value, dict):
            raise KeyError(name)
        value = value[part]
    return value


def named_params(path: Path) -> set[str]:
    """Dotted names in a document that begin with a stage's, in backquotes or after DVC's `-S`."""
    quoted = [re.match(r"([a-z_]+(\.\w+)+)(: \S+)?$", span) for span in spans(path)]
    given = re.findall(r"(?:-S|--set-param) ([\w.]+)=", "\n".join(commands(path)))
    names = [*(match[1] for match in quoted if match), *given]
    stages = {*STAGES, *(BASELINES if path.stem == "baselines" else ())}
    return {name for name in names if name.split(".")[0] in stages}


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    """Each document in turn."""
    path: Path = request.param
    return path


def test_a_make_target_that_is_named_exists(document: Path) -> None:
    """A reader can type every `make ...`."""
    named = {match[1] for command in commands(document) if (match := re.match(r"make ([a-z-]+)", command))}
    assert named <= TARGETS


def test_a_module_that_is_named_exists(document: Path) -> None:
    """A reader can type every `python -m ...`."""
    named = re.findall(r"python -m ([\w.]*\w)", "\n".join(commands(document)))
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_a_command_of_dvc_is_one_that_dvc_knows(document: Path) -> None:
    """Every `dvc ...` has a subcommand and options that DVC takes, and stages that there are."""
    for command in commands(document):
        words = shlex.split(command) if command.startswith("dvc ") else []
        try:
            given = parse_args(words[1:]) if len(words) > 1 else None
        except DvcParserError:
            pytest.fail(f"{document.name}: DVC does not know `{command}`")
        targets = given.targets if given and given.cmd in ("repro", "status", "checkout") else []
        assert set(targets or []) <= DVC_TARGETS, command


def test_a_deployment_that_is_named_exists(document: Path) -> None:
    """Every `prefect deployment run` is of a deployment that `make serve` sets up."""
    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    named = re.findall(r"prefect deployment run pipeline/([\w-]+)", "\n".join(commands(document)))
    assert {*named} <= {deployment["name"] for deployment in deployments}


def test_a_param_that_is_named_exists(document: Path) -> None:
    """Every `section.key` is in params.yaml."""
    for name in named_params(document):
        param(name)


def outputs_of(stages: dict[str, Any]) -> list[Path]:
    """All that stages leave, by its place in the folder of their dvc.yaml."""
    entries = [
        entry for stage in stages.values() for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])
    ]
    return [Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]


def test_an_artifact_that_is_named_is_made(document: Path) -> None:
    """Every `artifacts/<stage>/...` is something that a stage leaves."""
    made = [*outputs_of(STAGES), *outputs_of(BASELINES)]
    named = {
        Path(name)
        for name in re.findall(r"artifacts/[\w./]*\w", "\n".join([*spans(document), *fenced(document, "python")]))
    }
    assert [
        path for path in named if not any(path.is_relative_to(each) or each.is_relative_to(path) for each in made)
    ] == []


def test_a_link_leads_somewhere(document: Path) -> None:
    """Every relative link has its file, and its heading where it names one."""
    for link in links(document):
        name, _, heading = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_every_document_can_be_found_from_the_readme() -> None:
    """README.md links to every document, directly or by way of another."""
    found: set[Path] = set()
    waiting = [README]
    while waiting:
        path = waiting.pop()
        found.add(path)
        targets = {(path.parent / link.partition("#")[0]).resolve() for link in links(path) if link.partition("#")[0]}
        waiting += [target for target in targets if target.suffix == ".md" and target not in found]
    assert {path.resolve() for path in DOCUMENTS} <= {path.resolve() for path in found}


def test_the_readme_has_every_stage_in_its_table() -> None:
    """The table of stages is that of dvc.yaml, in its order, and names every param of the first rank."""
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (.+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    table = {stage: re.findall(r"`([\w.]+)`", cells) for stage, cells in rows}
    assert list(table) == list(STAGES)
    assert table == {stage: [f"{stage}.{key}" for key in PARAMS[stage]] for stage in STAGES}


def test_the_readme_has_the_code_that_works() -> None:
    """README.md's Python is that of docs/predict.md, which another test runs."""
    assert fenced(README, "python") == fenced(ROOT / "docs/predict.md", "python") != []


def test_what_python_in_a_document_uses_exists(document: Path) -> None:
    """A reader can paste a document's Python: it compiles, and what it takes of the library's modules is there."""
    program = ast.parse("\n".join(fenced(document, "python")))
    imported = {
        alias.name
        for node in ast.walk(program)
        if isinstance(node, ast.ImportFrom) and node.module == "transfer"
        for alias in node.names
    }
    for node in ast.walk(program):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            module = (ROOT / "transfer" / f"{node.value.id}.py").read_text(encoding="utf-8")
            assert re.search(rf"^(def|class) {node.attr}\b", module, re.MULTILINE), node.attr


def first_column(path: Path, heading: str) -> list[str]:
    """The first cells, without backquotes, of the table whose first heading this is."""
    table = path.read_text(encoding="utf-8").partition(f"\n| {heading} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `?([\w.]+)`? \|", table, re.MULTILINE)


def test_the_choices_that_documents_list_are_those_of_the_code() -> None:
    """Sources, ways of resizing, reasons of rejection and exit codes: each is listed, and no other."""
    start, photographs = ROOT / "docs/start.md", ROOT / "docs/photographs.md"
    codes = {
        error.exit_code for error in (errors.DataError, errors.NetworkError, errors.AccessError, errors.ParamsError)
    }
    sources = get_args(download.Params.model_fields["source"].annotation)
    assert first_column(start, "`download.source`") == list(sources)
    assert first_column(photographs, "`extract_features.resizing`") == list(get_args(decoding.Resizing))
    assert first_column(photographs, "reason") == list(get_args(subsample.Reason))
    assert set(first_column(start, "code")) == {str(code) for code in codes | {74} | INTERRUPTED}


def test_what_the_report_says_of_a_training_is_documented() -> None:
    """docs/report.md has every verdict in its table, and the limits that lead to them."""
    text = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    table = text.partition("| verdict |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| ([a-z -]+) \|", table, re.MULTILINE)) == set(get_args(diagnosis.Verdict))
    assert f"fewer than {diagnosis.MIN_EPOCHS} epochs" in table
    limits = (diagnosis.ACCURACY_GAP, diagnosis.UNDERFIT_FRACTION, diagnosis.DIVERGENCE_FACTOR)
    assert limits == (0.1, 0.5, 3)  # ten points, half, three times
    trend = (loss_curves.WINDOW, loss_curves.NOISE_FACTOR, loss_curves.RELATIVE_CHANGE)
    assert trend == (5, 3, 0.1)  # five, three times, a tenth


def test_every_deployment_and_secret_is_documented() -> None:
    """docs/schedule.md has each deployment in its table, and the Secret block of each variable."""
    schedule = ROOT / "docs" / "schedule.md"
    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    names = re.findall(r"^\| `([\w-]+)` \| (?:at|when) ", schedule.read_text(encoding="utf-8"), re.MULTILINE)
    assert names == [deployment["name"] for deployment in deployments]
    text = schedule.read_text(encoding="utf-8")
    assert all(f"| `{name}` | `{credentials.block(name)}` |" in text for name in credentials.VARIABLES)


def test_every_option_of_the_prediction_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/predict.md names the options that there are, no others, and the exit codes and limits of the code."""
    document = ROOT / "docs/predict.md"
    text = document.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert set(re.findall(r"--[a-z]+", "\n".join(commands(document)))) == options
    codes = {0, 2, errors.DataError.exit_code, 74, predict.BROKEN_PIPE} | INTERRUPTED
    assert set(first_column(document, "exit code")) == {str(code) for code in codes}
    assert f"may have {decoding.MAX_BYTES >> 20} MiB, and {decoding.MAX_PIXELS:,} pixels" in text
    most = inputs.LIMITS
    assert f"{most.members:,} members, and unpack to {most.gigabytes:g} GB and to {most.expansion:g} times" in text
    assert f"{predict.EDGE:,} pixels an edge" in text


def test_the_limits_that_documents_state_are_those_of_the_code() -> None:
    """A photograph, an archive and the memo may be as large as the documents say."""
    photographs = (ROOT / "docs/photographs.md").read_text(encoding="utf-8")
    limits = (
        f"over {decoding.MAX_BYTES >> 20} MiB, over {decoding.MAX_PIXELS:,} pixels, or over {decoding.MAX_SCANS} scans"
    )
    assert limits in photographs
    assert f"of the {near_duplicates.BITS} bits" in photographs
    rows = re.findall(r"^\| `download\.limits\.(\w+)` \| ([\d,]+) \|", photographs, re.MULTILINE)
    assert {name: int(most.replace(",", "")) for name, most in rows} == PARAMS["download"]["limits"]
    assert f"limited to {cache.MAX_GIGABYTES:g} GB" in (ROOT / "docs/storage.md").read_text(encoding="utf-8")


def test_the_patience_that_documents_state_is_that_of_the_code() -> None:
    """A bad line is put up with for as long as docs/start.md says."""
    start = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    policy = RetryPolicy()
    assert f"{policy.read_timeout:.0f} seconds without a byte" in start
    assert f"{policy.read_timeout:.0f} seconds with less than {policy.min_rate:,} bytes a second" in start
    assert policy.retries.total
    assert f"After {policy.retries.total + 1} tries in a row" in start
    assert f"wait for more than {policy.retries.backoff_max:.0f} seconds" in start
    assert f"at most {policy.max_bytes >> 30} GiB" in start


def test_what_can_go_wrong_is_documented_in_the_words_of_its_tests() -> None:
    """docs/reliability.md has every case that a test is marked with, in order, and no other."""
    assert reliability.documented() == reliability.marked()
