"""The arithmetic of the compact compiler: budgets, attention matching, moved keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memkit.compilers.compact.budget import share_budget
from memkit.compilers.compact.matching import Attention, match, nnls, ridge_regression
from memkit.compilers.compact.refine import QUERIES, refined
from memkit.engine.transformers.ragged import Rows
from memkit.errors import CompileError


# -- budget -------------------------------------------------------------------------------------
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 12), st.data())
def test_a_budget_is_kept_exactly(layers: int, heads: int, keys: int, data: st.DataObject) -> None:
    cap = data.draw(st.integers(1, keys))
    floor = data.draw(st.integers(0, cap))
    total = data.draw(st.integers(floor * layers * heads, keys * layers * heads))
    drawn = st.lists(st.floats(0, 1, width=32), min_size=keys, max_size=keys)
    scores = [torch.tensor([data.draw(drawn) for _ in range(heads)]) for _ in range(layers)]
    masks = share_budget(scores, total, floor, cap)
    counts = torch.stack([mask.sum(1) for mask in masks])
    assert int(counts.sum()) == min(total, cap * layers * heads)
    assert int(counts.min()) >= floor
    assert int(counts.max()) <= cap
    for score, mask in zip(scores, masks, strict=True):  # what is kept in a head beats what is not
        for row, kept in zip(score, mask, strict=True):
            if kept.any() and not kept.all():
                assert row[kept].min() >= row[~kept].max()


def test_the_budget_goes_where_it_matters() -> None:
    scores = [torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[0.1, 0.2, 0.1, 0.1]])]
    first, second = share_budget(scores, 5, 1, 4)
    assert first.tolist() == [[True] * 4]
    assert second.tolist() == [[False, True, False, False]]


# -- matching -----------------------------------------------------------------------------------
def attention_of(queries: int, keys: int, seed: int = 0) -> tuple[Attention, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(queries, keys, generator=generator)
    rest, read = torch.randn(queries, generator=generator), torch.randn(queries, 8, generator=generator)
    return Attention(scores, rest, read), torch.randn(keys, 8, generator=generator)


def output_error(attention: Attention, values: Tensor, kept: Tensor, fitted: Tensor, bias: Tensor) -> float:
    """The relative error of the attention's output with the kept rows."""
    share = attention.weights
    full = share @ values + (1 - share.sum(1))[:, None] * attention.read
    scores = attention.scores[:, kept] + bias
    total = torch.logaddexp(scores.logsumexp(1), attention.rest)
    got = (scores - total[:, None]).exp() @ fitted + (attention.rest - total).exp()[:, None] * attention.read
    return float((got - full).norm() / full.norm())


def test_each_part_of_the_fit_lowers_the_error() -> None:
    attention, values = attention_of(400, 40)
    kept = attention.weights.square().mean(0).topk(10).indices.sort().values
    errors = {
        (bias, refit): output_error(
            attention, values, kept, *match(attention, values, kept, bias=bias, refit=refit, ridge=1e-3)
        )
        for bias in (False, True)
        for refit in (False, True)
    }
    assert errors[True, True] < errors[False, True] < errors[False, False]
    assert errors[True, True] < errors[True, False] < errors[False, False]


@pytest.mark.parametrize(
    ("queries", "keys", "kept"), [(5, 40, 20), (1, 3, 2), (0, 9, 4), (50, 9, 9), (50, 9, 0)]
)
def test_few_queries_or_many_rows(queries: int, keys: int, kept: int) -> None:
    attention, values = attention_of(queries, keys)
    at = torch.arange(kept)
    fitted, bias = match(attention, values, at, bias=True, refit=True, ridge=1e-3)
    assert fitted.shape == (kept, 8)
    assert bias.shape == (kept,)
    assert bool(fitted.isfinite().all())
    assert float(bias.abs().max() if kept else 0) <= 3.0
    if not queries or kept in (0, keys):  # nothing to learn from, or nothing to stand in for
        assert torch.equal(fitted, values[at])
        assert not bias.any()


def test_a_head_that_no_query_attends_to_keeps_its_values() -> None:
    attention, values = attention_of(30, 12)
    nowhere = replace(attention, scores=torch.full_like(attention.scores, -1e4))
    fitted, bias = match(nowhere, values, torch.arange(4), bias=True, refit=True, ridge=1e-3)
    assert torch.allclose(fitted, values[:4], atol=1e-4)
    assert not bias.any()


@pytest.mark.parametrize("queries", [400, QUERIES + 500])
def test_moved_keys_answer_unseen_queries_better(queries: int) -> None:
    torch.manual_seed(1)
    keys, values = torch.randn(40, 8), torch.randn(40, 8)
    asked, unseen = torch.randn(queries, 8), torch.randn(300, 8)
    seen, test = (Attention(q @ keys.T, torch.zeros(len(q)), torch.zeros(len(q), 8)) for q in (asked, unseen))
    kept = seen.weights.square().mean(0).topk(10).indices
    value, bias = match(seen, values, kept, bias=True, refit=True, ridge=1e-3)
    start = Rows(keys[kept], value, bias)
    moved = refined(asked, seen, keys, values, start, 30, torch.Generator().manual_seed(0))

    def error(rows: Rows) -> float:
        scores = unseen @ rows.keys.T + rows.bias
        total = torch.logaddexp(scores.logsumexp(1), test.rest)
        wrong = (scores - total[:, None]).exp() @ rows.values - test.weights @ values
        return float(wrong.square().sum())

    assert error(moved) < 0.9 * error(start)


def test_rows_that_cannot_be_refined_stay() -> None:
    attention, values = attention_of(30, 12)
    keys, queries, generator = torch.randn(12, 8), torch.randn(30, 8), torch.Generator()
    rows = Rows(keys[:4], values[:4], torch.zeros(4))
    whole = Rows(keys, values, torch.zeros(12))
    broken = Rows(keys[:4], values[:4].clone().fill_(torch.nan), torch.zeros(4))
    none = replace(attention, scores=attention.scores[:0], rest=attention.rest[:0], read=attention.read[:0])
    assert refined(queries, attention, keys, values, rows, 0, generator) is rows
    assert refined(queries, attention, keys, values, whole, 9, generator) is whole
    assert refined(queries, attention, keys, values, broken, 9, generator) is broken
    assert refined(queries[:0], none, keys, values, rows, 9, generator) is rows


def test_numbers_that_are_not_finite_are_an_error() -> None:
    attention, values = attention_of(30, 12)
    values[3] = torch.nan
    with pytest.raises(CompileError, match="ridge"):
        match(attention, values, torch.arange(4), bias=True, refit=True, ridge=1e-3)


@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_ridge_regression_is_the_minimum(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    design, target = torch.randn(shape).double(), torch.randn(shape[0], 3).double()
    start = torch.randn(shape[1], 3).double()
    penalty = 0.1 * design.square().sum() / shape[1]
    stacked = torch.cat((design, penalty.sqrt() * torch.eye(shape[1]).double()))
    wanted = torch.linalg.lstsq(stacked, torch.cat((target, penalty.sqrt() * start))).solution
    assert torch.allclose(ridge_regression(design, target, start, 0.1), wanted, atol=1e-8)


def test_nnls_finds_the_non_negative_minimum() -> None:
    torch.manual_seed(0)
    design = torch.rand(60, 5).double()
    exact = torch.tensor([0.0, 2.0, 0.5, 0.0, 1.0]).double()
    found = nnls(design, design @ exact)
    assert torch.allclose(found, exact, atol=0.02)
    assert float(found.min()) >= 0
    gradient = design.T @ (design @ found - design @ exact)
    assert float(gradient[found > 1e-6].abs().max()) < 1e-2  # the conditions of Karush, Kuhn and Tucker
    assert bool((gradient[found <= 1e-6] > -1e-2).all())
    assert float(nnls(torch.zeros(3, 2).double(), torch.ones(3).double()).min()) == 1.0
