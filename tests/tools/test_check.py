"`check_kd_loss` names each known mistake, alone and beside another, and nothing besides."
from itertools import combinations

import pytest
import torch

from distill_nb.check import _by_formula, _changed, _Formula, _mistakes, check_kd_loss
from distill_nb.config import BadInput
from distill_nb.loss import kd_loss

PLACES = "shift", "mask", "mean", "micro-batches"  # what a loss that shifts may do otherwise
ALONE = [(shifts, m) for shifts in (False, True) for m in _mistakes(shifts)
         if m.aspect in PLACES or not shifts]
BY_ASPECT = {m.aspect: m for m in reversed(_mistakes(False))}  # the commonest of each
PAIRS = list(combinations(BY_ASPECT.values(), 2))


def made(*mistakes, shifts=False):
    how = _changed(_Formula(kl_shift=shifts, ce_shift=shifts), mistakes)
    def loss(s, t, labels, alpha, T, num_tokens=None):
        return _by_formula(how, s, t, labels, alpha, T, num_tokens)
    return loss


def wrong(loss, shifts=False):
    return {(f.name, f.hint) for f in check_kd_loss(loss, shifts) if f.ok is False}


@pytest.mark.parametrize("shifts, m", ALONE, ids=lambda x: str(getattr(x, "change", x)))
def test_each_mistake_is_named(shifts, m):
    assert wrong(made(m, shifts=shifts), shifts) == {(m.aspect, m.said)}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: " and ".join(m.aspect for m in pair))
def test_two_mistakes_are_both_named(pair):
    assert wrong(made(*pair)) == {(m.aspect, m.said) for m in pair}


@pytest.mark.parametrize("name", ["num_tokens", "num_items_in_batch", None])
def test_the_count_of_the_batch_has_two_names(name):
    "A loss that takes neither is not asked; one that takes it and does nothing with it is wrong."
    def right(s, t, labels, alpha, T, n=None): return kd_loss(s, t, labels, alpha, T, num_tokens=n)
    ignores = {"num_tokens": lambda s, t, labels, alpha, T, num_tokens=None:
                   kd_loss(s, t, labels, alpha, T),
               "num_items_in_batch": lambda s, t, labels, alpha, T, num_items_in_batch=None:
                   kd_loss(s, t, labels, alpha, T), None: right}[name]
    report = check_kd_loss(ignores)
    line, = (f for f in report if f.name == "micro-batches")
    assert line.ok is (False if name else None) and report.ok is (name is None)
    assert ("a sum of means" if name else "weigh micro-batches") in line.hint


def test_a_loss_that_writes_into_its_inputs_spoils_no_later_question():
    def writes(s, t, labels, alpha, T):
        loss = kd_loss(s, t, labels, alpha, T)
        labels.fill_(0)
        t.detach().zero_()
        return loss
    assert check_kd_loss(writes).ok


def test_a_loss_that_cannot_do_a_case_is_wrong_there_alone():
    "What it cannot do at all is raised; a later case that it cannot do is a line."
    def narrow(s, t, labels, alpha, T):
        if s.shape != t.shape: raise TypeError("these heads differ")
        return kd_loss(s, t, labels, alpha, T)
    line, = (f for f in check_kd_loss(narrow) if f.ok is False)
    assert (line.name, line.measured) == ("widths", "TypeError")
    assert line.hint == "cut both heads to the tokens that they share"
    with pytest.raises(TypeError, match="missing 2"): check_kd_loss(lambda s, t, a, b, c, d, e: 0)
    with pytest.raises(BadInput, match=r"the loss gave \[2, 6\], and must give one number"):
        check_kd_loss(lambda s, t, labels, alpha, T: s.sum(-1))
    with pytest.raises(BadInput, match="the loss gave float"):
        check_kd_loss(lambda *given: kd_loss(*given).loss.item())


def test_what_no_mistake_explains_is_still_wrong():
    def odd(*given): return 1.01 * kd_loss(*given).loss
    report = check_kd_loss(odd)
    assert not report.ok and "no known mistake explains it" in str(report)


def test_it_leaves_the_callers_dice_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    check_kd_loss(kd_loss)
    assert torch.equal(torch.get_rng_state(), state)


def test_of_two_explanations_the_smaller_is_given():
    """Without a mask a mean of the sequences' means is the mean over tokens, so that more
    mistakes than there are would have the same number."""
    by_change = {tuple(m.change.items()): m for m in _mistakes(False)}
    pair = by_change[("ce_over", "sequences"),], by_change[("kl_masked", False),]
    assert wrong(made(*pair)) == {(m.aspect, m.said) for m in pair}
