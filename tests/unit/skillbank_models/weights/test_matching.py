"""Loading what fits, and telling what does not."""

import pytest
import torch
from torch import nn

from skillbank.errors import InvalidValueError
from skillbank_models.weights.matching import compare, load_matching, suggest


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"backbone": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "head": nn.Linear(4, 3)}
    )


def load(
    module: nn.Module, tensors: dict[str, torch.Tensor], min_share: float = 0.5, within: str = ""
) -> object:
    return load_matching(module, tensors, what="x.pth", key="the.key", min_share=min_share, within=within)


def test_what_fits_is_loaded_and_the_rest_keeps_its_start() -> None:
    module, other = network(), network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in other.state_dict().items()}
    del tensors["backbone.1.bias"]
    tensors["head.weight"] = torch.zeros(7, 4)
    tensors["extra"] = torch.zeros(1)
    report = load_matching(module, tensors, what="x.pth", key="k", min_share=0.5)
    assert report.loaded == ("backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "head.bias")
    assert report.missing == ("backbone.1.bias",)
    assert report.unexpected == ("extra",)
    assert [str(item) for item in report.mismatched] == ["head.weight (7, 4) instead of (3, 4)"]
    assert report.share() == pytest.approx(4 / 6)
    assert report.share("backbone.") == pytest.approx(3 / 4)
    assert not report.is_exact
    after = module.state_dict()
    for name in before:
        assert torch.equal(after[name], tensors[name] if name in report.loaded else before[name])
    assert report.text().splitlines() == [
        "x.pth: loaded 4 of 6 tensors",
        "  1 missing: backbone.1.bias",
        "  1 of another shape: head.weight (7, 4) instead of (3, 4)",
        "  1 unknown here: extra",
    ]


def test_the_text_names_ten() -> None:
    wanted = {f"w{index}": torch.zeros(1) for index in range(12)}
    text = compare(wanted, {"w0": torch.zeros(1)}, what="x").text()
    assert "w10, and 1 more" in text


def test_other_dtypes_are_converted() -> None:
    module = network()
    tensors = {name: tensor.half() for name, tensor in network().state_dict().items()}
    load(module, tensors, 1.0)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}
    assert torch.equal(module.state_dict()["head.bias"], tensors["head.bias"].float())


def test_a_module_without_memory_takes_the_tensors_over() -> None:
    with torch.device("meta"):
        module = network()
    tensors = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    load(module, tensors, 1.0)
    parameters = dict(module.named_parameters())
    assert parameters.keys() == tensors.keys()
    for name, parameter in parameters.items():
        assert parameter.data_ptr() == tensors[name].data_ptr()
        assert parameter.requires_grad


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: f"module.net.{name}", "Its names begin with 'module.net.', which ours do not"),
        (lambda name: name.removeprefix("backbone."), "Its names lack 'backbone.', with which ours begin"),
        (
            lambda name: f"conv_{name.replace('.', '_')}",
            "It is another architecture; its names are like conv_",
        ),
    ],
)
def test_too_few_names_the_cause(change: object, said: str) -> None:
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {change(name): tensor + 1 for name, tensor in before.items()}  # type: ignore[operator]
    with pytest.raises(InvalidValueError) as info:
        load(module, tensors, 0.5, "backbone.")
    message = str(info.value)
    assert message.startswith(
        "the.key: only 0% of the tensors of backbone are in x.pth, which has 6 tensors; 50%"
    )
    assert said in message
    assert "weights inspect x.pth" in info.value.hint
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_too_few_because_of_the_size() -> None:
    tensors = {name: torch.zeros(99) for name in network().state_dict()}
    with pytest.raises(InvalidValueError, match=r"a model of another size: backbone.0.weight"):
        load(network(), tensors)


def test_settings_to_change() -> None:
    found = {"a.b": 3, "a.c": [1, 2], "a.d": 4}
    assert suggest(found, {"a.b": 3, "a.c": [1, 3], "a.d": 5}) == ["'a.c=[1,2]'", "a.d=4"]
    assert suggest(found, found) == []
