import pytest
import torch
from torch import Tensor, nn

from iris_cli.nn import data_parallel
from iris_cli.nn.data_parallel import Share
from iris_cli.nn.dropout import Dropout, SharedDropout, dropout

WHOLE = 5  # rows
SHARES = (Share(0, 2, WHOLE), Share(2, 4, WHOLE), Share(4, 5, WHOLE))


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts everything back."""
    monkeypatch.setattr(data_parallel, "_share", data_parallel._share)


def dropped(layer: nn.Module, x: Tensor, share: Share | None = None) -> Tensor:
    torch.manual_seed(7)
    if share is None:
        return layer(x)
    data_parallel._share = share
    return layer(x.unflatten(0, (WHOLE, -1))[share.rows].flatten(0, 1))


@pytest.mark.parametrize("layer", [Dropout(0.3), SharedDropout(0.3), SharedDropout(0.5)])
@pytest.mark.parametrize("shape", [(5, 7, 3), (10, 3, 2, 3)])  # a row, or two, of x for each of the batch
def test_shares_drop_together_what_the_whole_batch_drops(sharing: None, layer: nn.Module, shape: tuple) -> None:
    x = torch.rand(shape)
    whole = dropped(layer, x)
    after = torch.rand(())

    parts = [dropped(layer, x, share) for share in SHARES]

    assert torch.equal(torch.rand(()), after)  # the stream goes on from the same place
    assert torch.equal(torch.cat(parts), whole)
    assert 0 < (whole == 0).sum() < whole.numel()


def test_alone_a_shared_dropout_is_torchs(sharing: None) -> None:
    x, ours, theirs = torch.rand(4, 3), SharedDropout(0.4), nn.Dropout(0.4)

    assert torch.equal(dropped(ours, x), dropped(theirs, x))
    data_parallel._share = SHARES[1]
    assert torch.equal(ours.eval()(x[:2]), x[:2])
    assert torch.equal(dropout(x[:2], 0.0), x[:2])


def test_alone_everything_is_given_back() -> None:
    numbers = torch.arange(3.0)

    data_parallel.add_up([numbers])

    assert numbers.tolist() == [0, 1, 2]
    assert data_parallel.gathered(numbers) is numbers
    assert (data_parallel.anywhere(True), data_parallel.anywhere(False)) == (True, False)
    assert data_parallel.alike(3)
    assert data_parallel.of_the_first(3) == 3
    assert data_parallel.is_first()
    with data_parallel.share(4, torch.device("cpu")) as share:
        assert (share.rows, share.portion) == (slice(0, 4), 1.0)
        assert data_parallel.current().place(12) == (slice(0, 12), 12)
    data_parallel.leave()
