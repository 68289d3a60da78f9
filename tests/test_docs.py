"""The documents agree with the project: what they name exists, and what users may choose is documented."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from dvc.cli import DvcParserError, parse_args
from ruamel.yaml import YAML

from dogs_vs_cats import __main__ as door
from flows import credentials, records
from tasks import download
from tests import reliability
from transfer.evaluation import diagnosis, loss_curves
from transfer.features import cache
from transfer.images import decoding, formats, near_duplicates, selection
from transfer.prediction import command as prediction
from transfer.prediction import heat_maps, inputs
from transfer.runtime import errors, signals, stage
from transfer.sources.session import RetryPolicy

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "inbox/README.md", "benchmarks/*.md") for path in ROOT.glob(pattern)
)
MAKE_TARGETS = {
    target
    for line in re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in line.split()
}
DOOR: Any = typer.main.get_command(door.app)
SIGNAL_CODES = {signals.Interrupted(number).exit_code for number in signals.MESSAGES}

FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<address>[^)\s]+)\)")


def read_yaml(path: str) -> dict[str, Any]:
    """Return the contents of a YAML file of the project."""
    contents: dict[str, Any] = YAML(typ="safe").load(ROOT / path)
    return contents


PARAMS = read_yaml("params.yaml")
STAGES = read_yaml("dvc.yaml")["stages"]
BASELINES = read_yaml("baselines/dvc.yaml")["stages"]
BASELINES_PARAMS = read_yaml("baselines/params.yaml")
DVC_TARGETS = {
    *STAGES,
    "dvc.yaml",
    "baselines/dvc.yaml",
    *(f"baselines/dvc.yaml:{stage}" for stage in BASELINES),
    *(f"baselines/dvc.yaml:train@{model}" for model in BASELINES["train"]["matrix"]["model"]),
}


def relative(path: Path) -> str:
    """Return the path of a document in the project, for messages."""
    return str(path.relative_to(ROOT))


def fenced(path: Path, language: str) -> list[str]:
    """Return the lines of a document's code blocks in a language, without comments."""
    blocks = [
        match["text"] for match in FENCED.finditer(path.read_text(encoding="utf-8")) if match["language"] == language
    ]
    return [line for block in blocks for line in re.sub(r"\s+# .*$", "", block, flags=re.MULTILINE).splitlines()]


def prose(path: Path) -> str:
    """Return a document without its code blocks."""
    return FENCED.sub("", path.read_text(encoding="utf-8"))


def spans(path: Path) -> list[str]:
    """Return the texts in single backquotes in a document."""
    return re.findall(r"`([^`\n]+)`", prose(path))


def commands(path: Path) -> list[str]:
    """Return all texts in a document that a reader might type into a shell."""
    return [line.strip() for line in [*fenced(path, "sh"), *spans(path)]]


def links(path: Path) -> list[str]:
    """Return the addresses that a document links to, other than those on the web."""
    addresses = [match["address"] for match in LINK.finditer(prose(path))]
    return [address for address in addresses if not address.startswith("https://")]


def anchors(path: Path) -> set[str]:
    """Return the headings of a document, spelled as links spell them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def has_parameter(name: str) -> bool:
    """Return whether a params.yaml has a parameter of this dotted name."""
    value: Any = {**PARAMS, **BASELINES_PARAMS}
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def parameters(path: Path) -> set[str]:
    """Return the dotted names in a document that begin with a stage's, in backquotes or after DVC's `-S`."""
    quoted = [re.match(r"([a-z_]+(\.\w+)+)(: \S+)?$", span) for span in spans(path)]
    options = re.findall(r"(?:-S|--set-param) ([\w.]+)=", "\n".join(commands(path)))
    names = [*(match[1] for match in quoted if match), *options]
    stages = {*STAGES, *(BASELINES if path.stem == "baselines" else ())}
    return {name for name in names if name.split(".")[0] in stages}


def outputs(stages: dict[str, Any]) -> list[Path]:
    """Return the paths of all outputs of some stages."""
    entries = [
        entry for stage in stages.values() for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])
    ]
    return [Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]


def definitions(module: Path) -> set[str]:
    """Return the names that a module defines, or imports as `backend` does Keras."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    body = tree.body
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {*imported, *(node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef))} | {
        target.id
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def importable(module: str, name: str) -> bool:
    """Return whether `from module import name` works, for a module of the project."""
    folder = ROOT / module.replace(".", "/")
    if (folder / name).is_dir() or (folder / f"{name}.py").exists():
        return True
    file = folder.with_suffix(".py")
    return file.exists() and name in definitions(file)


def first_column(path: Path, heading: str) -> list[str]:
    """Return the first cells, without backquotes, of the table whose first heading is given."""
    table = path.read_text(encoding="utf-8").partition(f"\n| {heading} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `?([\w.]+)`? \|", table, re.MULTILINE)


def test_every_make_target_in_a_document_exists() -> None:
    """A reader can type every `make ...`."""
    for document in DOCUMENTS:
        for command in commands(document):
            target = re.match(r"make ([a-z-]+)", command)
            assert target is None or target[1] in MAKE_TARGETS, f"{relative(document)}: {command}"


def test_every_module_in_a_document_exists() -> None:
    """A reader can type every `python -m ...`; after `python -m tasks` stands a stage or an option."""
    for document in DOCUMENTS:
        text = "\n".join(commands(document))
        for name in re.findall(r"python -m ([\w.]*\w)", text):
            assert importlib.util.find_spec(name) is not None, f"{relative(document)}: {name}"
        for argument in re.findall(r"python -m tasks ([\w-]+)", text):
            assert argument in {*STAGES, "--check"}, f"{relative(document)}: {argument}"


def test_every_command_of_dvc_in_a_document_is_valid() -> None:
    """Every `dvc ...` has a subcommand and options that DVC accepts, and targets that exist."""
    for document in DOCUMENTS:
        for command in commands(document):
            words = shlex.split(command) if command.startswith("dvc ") else []
            try:
                arguments = parse_args(words[1:]) if len(words) > 1 else None
            except DvcParserError:
                pytest.fail(f"{relative(document)}: DVC does not accept `{command}`")
            targets = arguments.targets if arguments and arguments.cmd in ("repro", "status", "checkout") else None
            assert {*(targets or [])} <= DVC_TARGETS, f"{relative(document)}: {command}"


def test_every_command_of_the_project_in_a_document_is_valid() -> None:
    """Every `dogs-vs-cats ...` has a subcommand, options and arguments that the command accepts."""
    for document in DOCUMENTS:
        for command in commands(document):
            for words in re.findall(r"(?:^|\| )dogs-vs-cats ([^|>]*)", command):
                name, *arguments = shlex.split(words)
                if name in door.OPTIONS:
                    continue
                assert name in DOOR.commands, f"{relative(document)}: {command}"
                if arguments:
                    _check_arguments(DOOR.commands[name], arguments, f"{relative(document)}: {command}")


def _check_arguments(command: Any, arguments: list[str], place: str) -> None:
    """Fail if a subcommand does not accept these arguments."""
    try:
        command.make_context(command.name, arguments)
    except typer.Exit:  # after --help
        return
    except Exception as error:  # noqa: BLE001 - typer's own class of usage errors is private
        pytest.fail(f"{place}: {error}")


def test_every_command_of_the_project_is_documented() -> None:
    """A reader finds each subcommand of `dogs-vs-cats`, and each of its options, in a document."""
    texts = [command for document in DOCUMENTS for command in commands(document)]
    for name, command in DOOR.commands.items():
        assert any(re.search(rf"dogs-vs-cats {name}\b", text) for text in texts), name
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for option in sorted(options - {"--help"}):
            assert any(re.search(rf"(^| ){option}\b", text) for text in texts), f"{name} {option}"


def test_every_deployment_in_a_document_exists() -> None:
    """Every `prefect deployment run` is of a deployment in prefect.yaml."""
    deployments = {deployment["name"] for deployment in read_yaml("prefect.yaml")["deployments"]}
    for document in DOCUMENTS:
        named = re.findall(r"prefect deployment run pipeline/([\w-]+)", "\n".join(commands(document)))
        assert {*named} <= deployments, relative(document)


def test_every_parameter_in_a_document_exists() -> None:
    """Every `section.key` is in params.yaml."""
    for document in DOCUMENTS:
        for name in parameters(document):
            assert has_parameter(name), f"{relative(document)}: {name}"


def test_every_artifact_in_a_document_is_an_output() -> None:
    """Every `artifacts/<stage>/...` is an output of a stage, a part of one, or a folder of some; or the verdicts."""
    made = [*outputs(STAGES), *outputs(BASELINES), records.FILE]
    for document in DOCUMENTS:
        text = "\n".join([*spans(document), *fenced(document, "python")])
        for path in map(Path, re.findall(r"artifacts/[\w./]*\w", text)):
            related = any(path.is_relative_to(output) or output.is_relative_to(path) for output in made)
            assert related, f"{relative(document)}: {path}"


def test_every_module_file_in_a_document_exists() -> None:
    """Every path to a file or folder of code, such as `transfer/runtime/errors.py`, exists; a name in `<>` is free."""
    code = re.compile(r"(?:transfer|tasks|flows|baselines|dogs_vs_cats|tests|benchmarks|docs)/[\w./-]*")
    for document in DOCUMENTS:
        for span in spans(document):
            assert not code.fullmatch(span) or (ROOT / span).exists(), f"{relative(document)}: {span}"


def test_every_link_leads_somewhere() -> None:
    """Every relative link has its file, and its heading where it names one."""
    for document in DOCUMENTS:
        for link in links(document):
            name, _, heading = link.partition("#")
            target = (document.parent / name).resolve() if name else document
            assert target.exists(), f"{relative(document)}: {link}"
            assert not heading or heading in anchors(target), f"{relative(document)}: {link}"


def test_every_document_can_be_reached_from_the_readme() -> None:
    """README.md links to every document, directly or through another."""
    reached: set[Path] = set()
    waiting = [README]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        targets = {(path.parent / link.partition("#")[0]).resolve() for link in links(path) if link.partition("#")[0]}
        waiting += [target for target in targets if target.suffix == ".md" and target not in reached]
    assert {path.resolve() for path in DOCUMENTS} <= {path.resolve() for path in reached}


def test_the_readme_lists_every_stage_and_its_parameters() -> None:
    """The table of stages has those of dvc.yaml, in their order, with every key of their sections."""
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (.+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    table = {stage: re.findall(r"`([\w.]+)`", cells) for stage, cells in rows}
    assert list(table) == list(STAGES)
    assert table == {stage: [f"{stage}.{key}" for key in PARAMS[stage]] for stage in STAGES}


def test_the_readme_lists_every_wing_in_order() -> None:
    """The table of wings has the folders of transfer/."""
    wings = re.findall(r"^\| `transfer/(\w+)/` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(wings) == {path.parent.name for path in (ROOT / "transfer").glob("*/__init__.py")}


def test_python_code_in_a_document_works() -> None:
    """README.md has the code of docs/predict.md, which another test runs; all code compiles and its imports exist."""
    assert fenced(README, "python") == fenced(ROOT / "docs/predict.md", "python") != []
    for document in DOCUMENTS:
        for node in ast.walk(ast.parse("\n".join(fenced(document, "python")))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("transfer"):
                for alias in node.names:
                    assert importable(str(node.module), alias.name), f"{relative(document)}: {ast.unparse(node)}"


def test_documents_list_the_choices_that_the_code_has() -> None:
    """Sources, resizing methods, reasons for rejection and exit codes: each is listed, and no other."""
    start, photographs = ROOT / "docs/start.md", ROOT / "docs/photographs.md"
    sources = get_args(download.Params.model_fields["source"].annotation)
    assert first_column(start, "`download.source`") == list(sources)
    assert first_column(photographs, "`extract_features.resizing`") == list(get_args(decoding.Resizing))
    assert first_column(photographs, "reason") == list(get_args(selection.Reason))
    failures = errors.StageError.__subclasses__()
    codes = {error.exit_code for error in failures} | {stage.BROKEN_PIPE} | SIGNAL_CODES
    assert set(first_column(start, "code")) == in_digits(codes)


def in_digits(numbers: Iterable[int]) -> set[str]:
    """Return numbers as documents write them."""
    return {str(number) for number in numbers}


def test_every_verdict_of_the_report_is_documented() -> None:
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
    schedule = (ROOT / "docs/schedule.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([\w-]+)` \| (?:at|when) ", schedule, re.MULTILINE)
    assert names == [deployment["name"] for deployment in read_yaml("prefect.yaml")["deployments"]]
    for name in credentials.VARIABLES:
        assert f"| `{name}` | `{credentials.block(name)}` |" in schedule


def test_every_option_of_the_prediction_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/predict.md has the options, exit codes and limits of the command, and no others."""
    document = ROOT / "docs/predict.md"
    text = document.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        prediction.main(["--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert set(re.findall(r"--[a-z]+", "\n".join(commands(document)))) == options
    codes = {0, 2, errors.DataError.exit_code, 71, 74, 78, prediction.BROKEN_PIPE} | SIGNAL_CODES
    assert set(first_column(document, "exit code")) == in_digits(codes)
    limits = inputs.LIMITS
    for limit in (
        f"may have {decoding.MAX_BYTES >> 20} MiB, and {decoding.MAX_PIXELS:,} pixels",
        f"{limits.members:,} members, and unpack to {limits.gigabytes:g} GB and to {limits.expansion:g} times",
        f"{heat_maps.EDGE:,} pixels an edge",
    ):
        assert limit in text


def test_documents_state_the_limits_of_the_code() -> None:
    """A photograph, an archive and the feature cache may be as large as the documents say."""
    photographs = (ROOT / "docs/photographs.md").read_text(encoding="utf-8")
    limits = (
        f"over {decoding.MAX_BYTES >> 20} MiB, over {decoding.MAX_PIXELS:,} pixels, or over {formats.MAX_SCANS} scans"
    )
    assert limits in photographs
    assert f"of the {near_duplicates.BITS} bits" in photographs
    rows = re.findall(r"^\| `download\.limits\.(\w+)` \| ([\d,]+) \|", photographs, re.MULTILINE)
    assert {name: int(limit.replace(",", "")) for name, limit in rows} == PARAMS["download"]["limits"]
    assert f"limited to {cache.MAX_GIGABYTES:g} GB" in (ROOT / "docs/storage.md").read_text(encoding="utf-8")


def test_documents_state_the_retries_of_the_code() -> None:
    """A download waits and retries as docs/start.md says."""
    start = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    policy = RetryPolicy()
    assert f"{policy.read_timeout:.0f} seconds without a byte" in start
    assert f"{policy.read_timeout:.0f} seconds with less than {policy.min_rate:,} bytes a second" in start
    assert policy.retries.total
    assert f"After {policy.retries.total + 1} tries in a row" in start
    assert f"wait for more than {policy.retries.backoff_max:.0f} seconds" in start
    assert f"at most {policy.max_bytes >> 30} GiB" in start


def test_the_tables_of_reliability_have_the_words_of_the_tests() -> None:
    """docs/reliability.md has every case that a test is marked with, in order, and no other."""
    assert list(reliability.documented()) == reliability.marked(), "Run `python -m tests.reliability`."
