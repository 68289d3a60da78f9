from transfer.images import filenames


def test_ordinary_names_stay_as_they_are() -> None:
    """Kaggle's names, spaces, accents and other scripts are kept."""
    names = ["cat.1.jpg", "my cat (2).JPG", "Größe.png", "猫.jpeg", "a+b_c-d.webp"]
    assert filenames.safe(names) == {name: name for name in names}


def test_what_a_file_system_may_refuse_is_replaced() -> None:
    """Separators, control characters, wildcards and lone surrogates are gone; so are leading dots."""
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


def test_names_stay_apart_where_case_does_not_count() -> None:
    """On a Mac `Cat.jpg` and `cat.jpg` are one file, so the second is numbered; endings stay."""
    names = filenames.safe(["Cat.jpg", "cat.jpg", "cat-2.jpg", "cat?.jpg", "cat*.jpg", "CAT.jpg"])
    assert names["Cat.jpg"] == "Cat.jpg"
    assert names["cat.jpg"] == "cat-2.jpg"
    assert len({name.casefold() for name in names.values()}) == 6
    assert {name[-4:] for name in names.values()} == {".jpg"}


def test_composed_and_decomposed_letters_are_one_name() -> None:
    """`é` in its two spellings is one file on some systems, so the second is numbered."""
    assert len(set(filenames.safe(["caf\u00e9.jpg", "cafe\u0301.jpg"]).values())) == 2


def test_no_name_is_longer_than_a_file_system_takes() -> None:
    """Even names in a script of three bytes a letter, made equal by cutting, fit into 255 bytes and stay apart."""
    names = filenames.safe(["猫" * 300 + ".jpg", "猫" * 301 + ".jpg", "x." + "y" * 300])
    assert max(len(name.encode()) for name in names.values()) <= 255
    assert len(set(names.values())) == 3
