import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest

from tasks import extract_features
from tests import clusters
from tests.tasks.conftest import environment, hanging, kill_once, prepare_workspace
from transfer.features import cache, cluster, cluster_job, cluster_session, cluster_worker, extraction, store
from transfer.images import manifest
from transfer.runtime.errors import ParamsError

ROOT = Path(__file__).parents[3]
ROWS = 80  # of 50 photographs, 30 of them for training with a view each
FEATURES = Path(".cache/features")
PATIENT = cluster_job.Timeouts(state=600, batch=60, batch_factor=0, no_worker=600, poll=0.1)  # with slow workers
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with photographs and weights, not to be changed."""
    folder = tmp_path_factory.mktemp("prepared") / "a workspace"
    prepare_workspace(folder, numbers=range(25))
    return folder


@pytest.fixture(autouse=True)
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> Path:
    """Return a copy of the workspace as the current folder, without features."""
    caplog.set_level(logging.INFO)
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    monkeypatch.setattr(extraction, "use_one_thread_per_replica", lambda: None)  # TensorFlow has begun in this process
    monkeypatch.setattr(cluster_job, "TIMEOUTS", PATIENT)
    folder = tmp_path / "a workspace"
    shutil.copytree(prepared, folder, copy_function=os.link)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the rows as this machine computes them alone."""
    folder = tmp_path_factory.mktemp("alone") / "a workspace"
    shutil.copytree(prepared, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DOGS_VS_CATS_CACHE", raising=False)
        patch.setattr(extraction, "use_one_thread_per_replica", lambda: None)
        patch.chdir(folder)
        extract_features.main()
        return rows()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """Yield a cluster of two workers, which a nanny starts again when they end."""
    started = clusters.Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        started.start_worker()
        started.start_worker()
        yield started
    finally:
        started.stop()


@pytest.fixture
def local_views(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the sizes of batches that this machine computes."""
    sizes: list[int] = []
    build = extraction.build_network

    def build_counting(*arguments: Any, **options: Any) -> extraction.Network:
        compute = build(*arguments, **options)

        def counting(pixels: Any) -> list[store.Row]:
            sizes.append(len(pixels))
            return compute(pixels)

        return counting

    monkeypatch.setattr(extraction, "build_network", build_counting)
    return sizes


def when_stored(monkeypatch: pytest.MonkeyPatch, count: int, action: Callable[[], object]) -> None:
    """Do something as soon as a number of rows has been stored."""
    put, stored, lock = cache.FeatureCache.put, [0], threading.Lock()

    def counting(self: cache.FeatureCache, photo: str, row: store.Row) -> None:
        put(self, photo, row)
        with lock:
            stored[0] += 1
            if stored[0] == count:
                action()

    monkeypatch.setattr(cache.FeatureCache, "put", counting)


def rows() -> dict[str, bytes]:
    """Return the complete rows in the feature cache, also while a process writes more."""
    return {str(path.relative_to(FEATURES)): path.read_bytes() for path in FEATURES.glob("*/*.npz")}


def extract_on(address: str) -> dict[str, bytes]:
    """Run the stage with the scheduler of an address; return the rows."""
    with dask.config.set({"scheduler-address": address}):
        extract_features.main()
    return rows()


def test_rows_of_a_cluster_are_those_of_this_machine(
    two_workers: clusters.Cluster, expected: dict[str, bytes], local_views: list[int]
) -> None:
    """Two workers give the same bytes as this machine, which computes one known photograph alone."""
    two_workers.wait_for_workers(2)
    assert len(expected) == ROWS
    assert extract_on(two_workers.address) == expected
    assert sum(local_views) <= 2


@pytest.mark.reliability(
    "killed", "all workers of a Dask cluster, frozen instead of killed", "after a minute this machine computes alone"
)
def test_frozen_workers_do_not_stop_the_extraction(
    two_workers: clusters.Cluster,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Batches that a worker has had for too long go to others, and are computed here if there are none."""
    timeouts = cluster_job.Timeouts(batch=2, batch_factor=0, no_worker=1, poll=0.1)
    monkeypatch.setattr(cluster_job, "TIMEOUTS", timeouts)
    processes = two_workers.wait_for_workers(2)
    when_stored(monkeypatch, 10, lambda: [os.kill(process, signal.SIGSTOP) for process in processes])
    try:
        assert extract_on(two_workers.address) == expected
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
    assert "this machine computes alone until there is one." in caplog.text


def goes_on_without_workers(monkeypatch: pytest.MonkeyPatch, *, refused: int) -> None:
    """Let this machine wait for workers until so many of them have been refused for their rows, and no longer."""
    check, remaining = cluster_session.check_known_rows, [refused]

    def checking(*rows: Any, **options: Any) -> None:
        try:
            check(*rows, **options)
        except cluster_job.WorkerError:
            remaining[0] -= 1
            if remaining[0] == 0:
                monkeypatch.setattr(cluster_job, "TIMEOUTS", PATIENT._replace(no_worker=0))
            raise

    monkeypatch.setattr(cluster_session, "check_known_rows", checking)


@pytest.mark.reliability(
    "tampered", "a worker of a Dask cluster that computes wrong rows", "it gets no work; rows are computed here"
)
def test_a_worker_with_wrong_rows_gets_no_work(
    two_workers: clusters.Cluster,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker whose row of the known photograph differs is named; without others this machine goes on alone."""
    two_workers.wait_for_workers(2)
    goes_on_without_workers(monkeypatch, refused=2)
    with two_workers.faulty("wrong rows"):
        assert extract_on(two_workers.address) == expected
    assert "gets no work: its rows of a known photograph must be those of this machine" in caplog.text
    assert "this machine computes alone until there is one." in caplog.text


def test_a_worker_of_another_version_gets_no_work(
    two_workers: clusters.Cluster, expected: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker whose clone has other code is named, with what differs; the others compute."""
    other = tmp_path / "another clone"
    shutil.copytree(ROOT / "transfer", other / "transfer", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "transfer/images/augmentation.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    worker = two_workers.start_worker(PYTHONPATH=str(other))
    try:
        two_workers.wait_for_workers(3)
        with distributed.Client(two_workers.address, set_as_default=False) as client:
            client.run(cluster_worker.versions)  # so that the new one answers as soon as the others, which do all work
        assert extract_on(two_workers.address) == expected
    finally:
        worker.terminate()
        worker.wait()
    refused = [line for line in caplog.messages if "gets no work" in line]
    assert len(refused) == 1
    assert "it must have the versions of this machine, code " in refused[0]


@pytest.mark.reliability(
    "killed", "the stage, while a Dask cluster computes", "the next run computes the missing rows alone"
)
def test_a_killed_stage_is_resumed(
    two_workers: clusters.Cluster, expected: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """The rows that came back before the stage was killed are kept; the next run completes them."""
    two_workers.wait_for_workers(2)
    photograph = manifest.read(Path("artifacts/split/manifest.csv"))[30]
    stage = subprocess.Popen(
        [sys.executable, "-m", "tasks", "extract_features"],
        env=environment(DASK_SCHEDULER_ADDRESS=two_workers.address),
        stderr=subprocess.PIPE,
        text=True,
    )
    with hanging(Path("artifacts/subsample", photograph.path)):
        kill_once(stage, lambda: len(rows()) >= 20)
    complete = rows()
    assert 20 <= len(complete) < ROWS
    assert extract_on(two_workers.address) == expected
    assert any("of them computed before" in line and f" {len(complete)} of" in line for line in caplog.messages)


@pytest.mark.reliability("killed", "a worker of a Dask cluster, while it computes", "others compute its rows")
def test_a_killed_worker_costs_its_own_batches(
    two_workers: clusters.Cluster, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, local_views: list[int]
) -> None:
    """When a worker is killed midway, another one computes what it was computing."""
    process = two_workers.wait_for_workers(2)[0]
    when_stored(monkeypatch, 10, lambda: os.kill(process, signal.SIGKILL))
    assert extract_on(two_workers.address) == expected
    assert sum(local_views) <= 2


@pytest.mark.reliability(
    "photographs", "a photograph that ends the workers of a Dask cluster", "named, and computed by the stage"
)
def test_a_photograph_that_ends_workers_is_named(
    two_workers: clusters.Cluster, expected: dict[str, bytes], local_views: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that ended two workers is divided; a photograph that ends a third, alone, is named and computed here."""
    two_workers.wait_for_workers(2)
    photograph = manifest.read(Path("artifacts/split/manifest.csv"))[40]
    with two_workers.faulty(photograph.sha256):
        assert extract_on(two_workers.address) == expected
    path = f"artifacts/subsample/{photograph.path}"
    assert [line for line in caplog.messages if "it is computed here" in line] == [
        f"A worker ended or failed while it had {path} alone; it is computed here."
    ]
    assert sum(local_views) <= 4  # with those of the known photograph


def certificates(folder: Path) -> dict[str, str]:
    """Write a certificate that signs itself, with its key; return Dask's variables that name them."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", *options, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    files = {"CA_FILE": certificate} | {
        f"{role}__{kind}": file
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for kind, file in (("CERT", certificate), ("KEY", key))
    }
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(file) for name, file in files.items()}


def test_a_worker_may_join_late_and_by_tls(
    tmp_path: Path,
    expected: dict[str, bytes],
    local_views: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With Dask's configuration of TLS, the stage waits for a first worker; without any it goes on alone."""
    variables = certificates(tmp_path)
    started = clusters.Cluster(tmp_path, variables, protocol="tls")
    try:
        options = {name.removeprefix("DASK_").lower().replace("__", "."): file for name, file in variables.items()}
        with dask.config.set(options):
            worker = threading.Timer(0.5, started.start_worker)
            worker.start()
            assert extract_on(started.address) == expected
            assert sum(local_views) <= 2
            worker.join()
    finally:
        started.stop()
    assert "alone" not in caplog.text


def test_without_workers_the_stage_goes_on_alone(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a worker for a minute, and without a scheduler, this machine computes alone, and says so."""
    monkeypatch.setattr(cluster_job, "TIMEOUTS", PATIENT._replace(no_worker=0.5))
    started = clusters.Cluster(tmp_path)
    try:
        assert extract_on(started.address) == expected
    finally:
        started.stop()
    assert re.search(r"No worker has been ready for \d+ seconds; this machine computes alone", caplog.text)
    shutil.rmtree(FEATURES)
    monkeypatch.setattr(cluster_job, "TIMEOUTS", PATIENT._replace(connection=1))
    assert extract_on(started.address) == expected
    assert f"The scheduler {started.address} does not answer" in caplog.text


@pytest.mark.parametrize("address", ["no-such-protocol://127.0.0.1:8786", "tls://127.0.0.1:8786"])
def test_a_wrong_address_is_an_error(address: str) -> None:
    """An unknown protocol, or TLS without certificates, is named with the variable to correct."""
    with pytest.raises(ParamsError, match=r"Received: .*Correct DASK_SCHEDULER_ADDRESS"):
        extract_on(address)


def test_without_dask_an_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the message says what to install; without an address, it is not needed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find(name))
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    assert cluster.scheduler_address() is None
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:8786")
    with pytest.raises(ParamsError, match=r"needs the package `distributed`.*Run `make install`"):
        cluster.scheduler_address()
