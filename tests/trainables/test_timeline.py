import numpy as np
import pytest

from trainables.timeline import (
    BACKWARD,
    CATEGORIES,
    FORWARD,
    UPDATE,
    MisalignedError,
    Phase,
    Timeline,
    extrapolate,
)

LAYER = ("aten.mm", "aten.add")


def of_depth(layers: int) -> Timeline:
    """Live bytes that grow by 10 per layer on the way there, and on the way back fall by 7, the first layer's last."""
    there = [10 * (layer + 1) + k for layer in range(layers) for k in range(2)]
    back = [10 * layers - 7 * layer + 3 * k for layer in range(layers) for k in range(2)]
    back[-1] += 1000  # only in the first layer, whose backward pass comes last
    update = [5 * layers] * layers
    operators = ("aten.embedding", *LAYER * layers, "aten.loss", *LAYER * layers, *["aten.norm"] * layers)
    live = np.zeros((len(operators), len(CATEGORIES)), dtype=np.int64)
    live[:, 0] = [1, *there, 10 * layers, *back, *update]
    starts = 0, 2 + 2 * layers, 2 + 4 * layers
    phases = tuple(
        Phase(name, start) for name, start in zip((FORWARD, BACKWARD, UPDATE), starts, strict=True)
    )
    return Timeline(live, operators, phases)


@pytest.mark.parametrize("layers", [4, 6, 32])
def test_the_first_two_and_last_two_layers_of_any_depth_follow_from_four_and_five(layers: int) -> None:
    whole, made = of_depth(layers), extrapolate(of_depth(4), of_depth(5), layers - 4)
    kept = np.r_[
        0:5, 2 * layers - 3 : 2 * layers + 6, 4 * layers - 2 : 4 * layers + 4, 5 * layers : 5 * layers + 2
    ]
    assert np.array_equal(made.live[:, 0], whole.live[kept, 0])
    assert made.live.max() == whole.live.max()
    assert made.moment(int(made.live.sum(1).argmax())) == "first layers' backward"


def test_other_operators_are_not_taken_for_the_same() -> None:
    low, high = of_depth(4), of_depth(5)
    other = tuple(name.replace("add", "mul") for name in high.operators)
    with pytest.raises(MisalignedError):
        extrapolate(low, Timeline(high.live, other, high.phases), 1)
    with pytest.raises(MisalignedError):
        extrapolate(low, Timeline(high.live, high.operators, high.phases[:2]), 1)
