import torch

from attacks.inversion.selection import consensus, lowest, lowest_restart
from benchmark.seeds import Rng
from tests.server_views import images


def disturbed(n_restarts, strength):
    truth = images(3)
    return truth, torch.stack(
        [truth + strength * Rng("disturbed", restart).normal(truth.shape) for restart in range(n_restarts)]
    )


def correlation(a, b):
    return torch.stack(
        [torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1] for x, y in zip(a, b, strict=True)]
    )


def test_the_lowest_loss_is_taken_target_by_target():
    stack = torch.arange(2 * 3).view(2, 3, 1, 1, 1).float()
    losses = torch.tensor([[0.1, 0.5, 0.1], [0.2, 0.4, 0.2]])
    assert lowest(stack, losses).flatten().tolist() == [0, 4, 2]


def test_a_restart_that_diverged_is_never_the_lowest():
    assert lowest_restart(torch.tensor([[float("nan")], [float("inf")], [3.0]])).item() == 2


def test_the_consensus_of_disturbed_copies_is_nearer_the_truth_than_any_of_them():
    truth, copies = disturbed(8, 0.5)
    best = torch.stack([correlation(truth, copy) for copy in copies]).max(0).values
    assert (correlation(truth, consensus(copies)) > best).all()


def test_the_consensus_does_not_depend_on_brightness_contrast_or_sign_of_the_restarts():
    _, copies = disturbed(6, 0.3)
    changed = copies.clone()
    changed[1] = 3 - 2 * copies[1]
    changed[4] = 0.1 * copies[4] - 7
    same = correlation(consensus(copies), consensus(changed)).abs()
    torch.testing.assert_close(same, torch.ones(3), atol=1e-4, rtol=0)


def test_the_consensus_has_mean_and_contrast_of_the_restart_that_agrees_best():
    truth, copies = disturbed(5, 0.2)
    copies[2] = 4 + 2 * truth
    found = consensus(copies)
    torch.testing.assert_close(found.mean((1, 2, 3)), copies[2].mean((1, 2, 3)))
    torch.testing.assert_close(found.std((1, 2, 3), correction=0), copies[2].std((1, 2, 3), correction=0))


def test_the_consensus_of_one_restart_is_that_restart():
    truth = images(3)
    torch.testing.assert_close(consensus(truth.unsqueeze(0)), truth, atol=1e-5, rtol=0)


def test_a_restart_that_agrees_with_no_other_has_no_say():
    _, copies = disturbed(4, 0.3)
    lost = Rng("lost").normal((1, *copies.shape[1:]))
    same = correlation(consensus(torch.cat([copies, lost])), consensus(copies))
    torch.testing.assert_close(same, torch.ones(3), atol=1e-4, rtol=0)


def test_constant_and_diverged_restarts_have_no_say():
    _, copies = disturbed(4, 0.3)
    useless = torch.stack([torch.full_like(copies[0], 0.5), torch.full_like(copies[0], float("nan"))])
    torch.testing.assert_close(consensus(torch.cat([useless, copies])), consensus(copies))


def test_restarts_that_all_diverged_give_nan_and_not_a_picture():
    assert consensus(torch.full((3, 1, 1, 4, 4), float("inf"))).isnan().all()


def test_restarts_that_all_stayed_constant_give_that_constant():
    assert torch.equal(consensus(torch.full((3, 1, 1, 4, 4), 0.5)), torch.full((1, 1, 4, 4), 0.5))
