"""Votes, means and compositions, by hand."""

import pytest
import torch

from taft_ray.errors import UsageError
from taft_ray.fitting import FitConfig, fit
from taft_ray.systems import Member, NonLinear, Readouts, average, vote

OUTPUTS = torch.tensor(  # three models, two pictures, three classes
    [[[9.0, 0, 0], [2, 1, 0]], [[0, 1, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]]]
)


def test_the_majority_wins_however_loud_the_minority_is():
    assert vote(OUTPUTS, [1, 1, 1]).argmax(-1)[0] == 1
    assert average(OUTPUTS, [1, 1, 1], probabilities=False).argmax(-1)[0] == 0


def test_a_tie_goes_to_the_larger_mean_of_probabilities():
    """Each class has one vote on the second picture; class 0's model is the surest."""
    shares = vote(OUTPUTS, [1, 1, 1])[1]
    assert shares.argmax() == 0
    assert float(shares.max() - shares.min()) < 1 / 3


def test_weights_count():
    assert vote(OUTPUTS, [3, 1, 1]).argmax(-1)[0] == 0
    expected = (3 * OUTPUTS[0] + OUTPUTS[1]).double() / 4
    assert torch.allclose(average(OUTPUTS, [3, 1, 0], probabilities=False), expected)
    expected = OUTPUTS.double().softmax(-1).mean(0)
    assert torch.allclose(average(OUTPUTS, [1, 1, 1], probabilities=True), expected)


@pytest.mark.parametrize("read", [vote, lambda outputs, weights: average(outputs, weights, probabilities=False)])
def test_nobody_is_an_error(read):
    with pytest.raises(UsageError, match="no shard"):
        read(OUTPUTS, [0, 0, 0])


def test_soup_is_the_network_at_the_mean_of_the_weights(tm, train, test, cell_of):
    model = NonLinear(tm)
    config = FitConfig(solver="adam", loss="ce", epochs=2, batch_size=8, penalty=0.0)
    pictures = model.prepare(train.tokens)
    halves = [torch.arange(0, 30), torch.arange(30, 60)]
    deltas = [fit(model, pictures[half], train.labels[half], config) for half in halves]
    members = [Member(delta=delta, weight=1) for delta in deltas]
    spec = cell_of(solver="adam", loss="ce").spec
    readouts = Readouts(model, model.prepare(test.tokens), test.labels, members, spec)
    mean = (deltas[0] + deltas[1]) * 0.5
    expected = tm.nonlinear(test.tokens, mean)
    assert readouts.composed == ("mean",)
    (accuracy,) = readouts.read([range(2)])
    assert accuracy["mean"] == pytest.approx(float((expected.argmax(-1) == test.labels).double().mean()))
    assert readouts.ensemble_difference() is None
    with torch.no_grad():  # and it is not the mean of the outputs, which is what linearising is for
        apart = (readouts.outputs_NBK.mean(0) - expected).abs().max() / expected.abs().max()
    assert float(apart) > 1e-3


def test_nonlinear_learns_and_refuses_ridge(tm, train):
    model = NonLinear(tm)
    config = FitConfig(solver="adam", loss="ce", epochs=6, batch_size=8, penalty=0.0)
    delta = fit(model, model.prepare(train.tokens), train.labels, config)
    assert delta.report.history[-1] < 0.5 * delta.report.history[0]
    with pytest.raises(UsageError, match="not linear"):
        fit(model, model.prepare(train.tokens), train.labels, FitConfig())
