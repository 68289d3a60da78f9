from transfer.evaluation import names


def test_people_read_the_names_of_networks_instead_of_stages() -> None:
    """The two networks and their training runs have one name each; another stage keeps its own."""
    assert [names.network(stage) for stage in ("train_head", "fine_tune", "cnn")] == ["head", "fine-tuned", "cnn"]
    assert names.training_run("fine_tune") == "fine-tuning"
    assert names.by_network({"train_head": 1, "fine_tune": 2}) == {"head": 1, "fine-tuned": 2}
