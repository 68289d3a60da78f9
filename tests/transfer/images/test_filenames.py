from transfer.images import filenames


def test_valid_names_are_unchanged() -> None:
    """Kaggle's names, spaces, accents and non-Latin scripts are kept."""
    names = ["cat.1.jpg", "my cat (2).JPG", "Größe.png", "猫.jpeg", "a+b_c-d.webp"]
    assert filenames.safe(names) == {name: name for name in names}


def test_characters_that_a_file_system_may_reject_are_replaced() -> None:
    """Separators, control characters, wildcards, lone surrogates and leading dots are removed."""
    unsafe = [
        "../../etc/passwd",
        "a\\b.jpg",
        "c:d.jpg",
        "new\nline.jpg",
        "what?*.jpg",
        ".hidden.jpg",
        "\udcff.jpg",
        "..",
        "",
    ]
    for name in filenames.safe(unsafe).values():
        assert name
        assert not name.startswith(".")
        assert not set(name) & set('/\\:*?"<>|\n')
        name.encode()


def test_names_are_unique_without_regard_to_case() -> None:
    """On macOS `Cat.jpg` and `cat.jpg` are one file, so the second is numbered; suffixes are kept."""
    names = filenames.safe(["Cat.jpg", "cat.jpg", "cat-2.jpg", "cat?.jpg", "cat*.jpg", "CAT.jpg"])
    assert names["Cat.jpg"] == "Cat.jpg"
    assert names["cat.jpg"] == "cat-2.jpg"
    assert len({name.casefold() for name in names.values()}) == 6
    assert {name[-4:] for name in names.values()} == {".jpg"}


def test_names_are_unique_without_regard_to_unicode_normalization() -> None:
    """The composed and the decomposed `é` are one file on some systems, so the second is numbered."""
    assert len(set(filenames.safe(["caf\u00e9.jpg", "cafe\u0301.jpg"]).values())) == 2


def test_no_name_is_longer_than_255_bytes() -> None:
    """Names of three-byte letters are cut to the limit of file systems, and those that become equal are numbered."""
    names = filenames.safe(["猫" * 300 + ".jpg", "猫" * 301 + ".jpg", "x." + "y" * 300])
    assert max(len(name.encode()) for name in names.values()) <= 255
    assert len(set(names.values())) == 3
