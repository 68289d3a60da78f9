import inspect

from transfer.runtime import errors


def test_exit_codes_are_those_of_sysexits() -> None:
    """A scheduler can act on the code: 65 data, 71 memory, 74 disk, 75 transient, 77 permission, 78 params."""
    codes = {name: kind.exit_code for name, kind in inspect.getmembers(errors, inspect.isclass) if name != "ClassVar"}
    assert codes == {
        "StageError": 1,
        "DataError": 65,
        "ResourceError": 71,
        "ChangedError": 75,
        "DiskError": 74,
        "NetworkError": 75,
        "LockedError": 75,
        "AccessError": 77,
        "ParamsError": 78,
    }


def test_the_rerun_hint_names_every_stage() -> None:
    """The command makes damaged output writable, so that DVC hashes it again, and reruns its stages."""
    assert errors.rerun_hint("extract_features", "fine_tune") == (
        "Run `chmod -R u+w artifacts/extract_features artifacts/fine_tune "
        "&& dvc repro --single-item --force extract_features fine_tune`."
    )
