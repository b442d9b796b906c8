"""Algorithm 5 on a head that can be followed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onnx_soda._repair.remove import Samples, Settings, measure, train

# Two classes, two neurons. Neuron 0 says "class 0", neuron 1 pushes to class 1: the backdoor.
WEIGHTS = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
CLEAN = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
INFECTED = torch.tensor([[1.0, 1.0]])  # logits 2 and 4: given to class 1
VICTIM = torch.tensor([0])


def head() -> nn.Linear:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = WEIGHTS.clone()
    return layer


def samples() -> Samples:
    return Samples(CLEAN, torch.tensor([0, 1]), INFECTED, VICTIM)


def test_measure_says_what_can_be_worked_out() -> None:
    trial = measure(head(), 1, samples(), Settings(0, 0, 0))
    assert (trial.accuracy, trial.target_rate, trial.victim_rate) == (1, 1, 0)
    assert trial.margin == pytest.approx(2)  # 4 - 2


def test_each_infected_image_is_measured_by_its_own_class() -> None:
    """Logits are the inputs. Target 1 is 2 ahead of the first one's class 0, and given; it is 3
    behind the second one's class 2. Nine in ten of the way from -3 to 2 is 1.5.
    """
    infected, labels = torch.tensor([[1.0, 3.0, 0.0], [0.0, 2.0, 5.0]]), torch.tensor([0, 2])
    shown = Samples(torch.eye(3), torch.arange(3), infected, labels)
    trial = measure(nn.Identity(), 1, shown, Settings(0, 0, 0))
    assert (trial.target_rate, trial.victim_rate) == (0.5, 0.5)
    assert trial.margin == pytest.approx(1.5)


def test_bystanders_that_turn_are_counted_apart_from_clean_images() -> None:
    """Logits are the inputs. Of four bystanders one goes to class 0 and one to class 2, which are
    infected, and one to the target; none of it is an error on clean images.
    """
    beside = torch.eye(3)[[0, 2, 1, 1]]
    clean, labels = torch.cat([torch.eye(3), beside]), torch.tensor([0, 1, 2, 1, 1, 1, 3])
    infected, own = torch.tensor([[0.0, 1.0, 0.0]] * 2), torch.tensor([0, 2])
    trial = measure(nn.Identity(), 1, Samples(clean, labels, infected, own, 4), Settings(0, 0, 0))
    assert (trial.accuracy, trial.tipped_rate) == (1, 0.5)


@pytest.mark.parametrize(("others", "accuracy"), [(11, 0.9), (9, 0.9), (3, 0.75)])
def test_the_target_class_counts_a_tenth_at_least(others: int, accuracy: float) -> None:
    """All others are right and the target's only image is wrong.

    With 11 others 11 / 12 would be right, and the target a twelfth; it counts a tenth.
    """
    clean = CLEAN[:1].repeat(others + 1, 1)
    labels = torch.tensor([0] * others + [1])
    trial = measure(head(), 1, Samples(clean, labels, INFECTED, VICTIM), Settings(0, 0, 0))
    assert trial.accuracy == pytest.approx(accuracy)


def test_training_turns_the_infected_image_and_moves_only_what_it_may() -> None:
    layer = head()
    masks = {"weight": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}  # what reads neuron 1
    found = list(
        train(
            layer, {"weight": layer.weight}, masks, 1, (samples(), samples()),
            [Settings(0.05, 0.01, 60)],
        )
    )  # fmt: skip
    last = found[-1]
    assert len(found) == 60
    assert last.trial.target_rate == 0
    assert last.trial.victim_rate == 1
    assert torch.equal(last.weights["weight"][:, 0], WEIGHTS[:, 0])
    assert not torch.equal(last.weights["weight"][:, 1], WEIGHTS[:, 1])
    assert torch.equal(layer.weight.detach(), WEIGHTS), "the start is put back"


def test_the_first_step_moves_the_weights_by_the_share_asked_for() -> None:
    layer = head()
    masks = {"weight": torch.ones(2, 2)}
    found = list(
        train(
            layer, {"weight": layer.weight}, masks, 1, (samples(), samples()),
            [Settings(0.1, 0.0, 1)],
        )
    )  # fmt: skip
    moved = (found[0].weights["weight"] - WEIGHTS).norm() / WEIGHTS.norm()
    assert moved.item() == pytest.approx(0.1, rel=1e-4)  # one batch, so one step


def test_adam_moves_every_weight_by_its_rate_first_and_what_is_masked_not_at_all() -> None:
    """The first step of Adam is the rate times the sign of the slope, whatever its size."""
    layer = head()
    masks = {"weight": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}
    found = list(
        train(
            layer, {"weight": layer.weight}, masks, 1, (samples(), samples()),
            [Settings(0.01, 0.0, 1, adam=True)],
        )
    )  # fmt: skip
    moved = found[0].weights["weight"] - WEIGHTS  # one batch, so one step
    # Neuron 1 is to say less "class 1" of the infected image and more "class 0".
    torch.testing.assert_close(moved, torch.tensor([[0.0, 0.01], [0.0, -0.01]]))


def probability_of_one(mislabelled: Samples, hold: float) -> float:
    layer = head()
    (found,) = train(
        layer, {"weight": layer.weight}, {"weight": torch.ones(2, 2)}, 1,
        (mislabelled, samples()), [Settings(0.3, 0.0, 1, hold=hold)],
    )  # fmt: skip
    return (found.weights["weight"] @ mislabelled.clean[0]).softmax(0)[1].item()


def test_unchanged_images_are_held_to_their_answers_and_bystanders_are_not() -> None:
    """The image (1, 0) has logits 2 and 0: probability 0.12 of class 1. It is labelled 1."""
    alone = torch.tensor([[1.0, 0.0]]), torch.tensor([1]), INFECTED, VICTIM
    free, held = (probability_of_one(Samples(*alone), hold) for hold in (0.0, 20.0))
    assert free > held
    bystander = Samples(*alone, bystanders=1)
    assert probability_of_one(bystander, 20.0) == probability_of_one(bystander, 0.0) == free


def test_what_is_far_enough_from_the_target_is_driven_no_further() -> None:
    """The image (1, 0), infected or not, has probability 0.12 of class 1: a loss of 2.13."""
    calm = Samples(CLEAN, torch.tensor([0, 1]), CLEAN[:1], VICTIM)
    ends = []
    for alpha, cap in ((0.0, 2.0), (5.0, 2.0), (5.0, 2.2)):
        layer = head()
        (found,) = train(
            layer, {"weight": layer.weight}, {"weight": torch.ones(2, 2)}, 1,
            (calm, samples()), [Settings(0.1, alpha, 1, cap=cap)],
        )  # fmt: skip
        ends.append(found.weights["weight"])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_weights_part_of_the_way_lie_on_the_straight_line() -> None:
    layer = head()
    whole, half = train(
        layer, {"weight": layer.weight}, {"weight": torch.ones(2, 2)}, 1,
        (samples(), samples()), [Settings(0.1, 0.0, 1, shares=(1.0, 0.5))],
    )  # fmt: skip
    moved = [one.weights["weight"] - WEIGHTS for one in (whole, half)]
    torch.testing.assert_close(moved[1], moved[0] / 2)
    assert (whole.trial.settings.shares, half.trial.settings.shares) == ((1.0,), (0.5,))
    layer.weight.data = half.weights["weight"]
    assert measure(layer, 1, samples(), half.trial.settings) == half.trial


def test_training_goes_on_from_where_it_was_not_from_part_of_the_way() -> None:
    def last(shares: tuple[float, ...]) -> torch.Tensor:
        layer = head()
        found = train(
            layer, {"weight": layer.weight}, {"weight": torch.ones(2, 2)}, 1,
            (samples(), samples()), [Settings(0.1, 0.0, 3, shares=shares)],
        )  # fmt: skip
        return [one for one in found if one.trial.settings.shares == (1.0,)][-1].weights["weight"]

    torch.testing.assert_close(last((1.0, 0.5)), last((1.0,)))
