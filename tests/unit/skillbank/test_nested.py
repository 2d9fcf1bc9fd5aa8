from skillbank.nested import copied, nest, put, value_at


def test_dotted_keys_lead_into_nested_maps() -> None:
    nested = {"train": {"optim": {"lr": 0.1}, "gpu_ids": [0, 1]}, "results_dir": "x"}

    assert nest({"train.optim.lr": 0.1, "train.gpu_ids": [0, 1], "results_dir": "x"}) == nested
    assert value_at(nested, "train.optim.lr") == 0.1
    assert value_at(nested, "train.optim.lr.x") is None
    assert value_at(nested, "train.nothing") is None


def test_a_single_value_in_the_way_gives_way_to_a_map() -> None:
    assert nest({"train": 5, "train.num_epochs": 3}) == {"train": {"num_epochs": 3}}


def test_a_copy_shares_nothing() -> None:
    original = {"a": [{"b": 1}]}
    copy = copied(original)
    put(copy["a"][0], "b", 2)

    assert original == {"a": [{"b": 1}]}
    assert copy == {"a": [{"b": 2}]}
