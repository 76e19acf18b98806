"""Other budgets, from what was counted: larger, smaller, none, or the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hire_compiler.passes.plan.adapted import BlockCounts, better_budgets
from hire_compiler.reports.findings import Certificate, Decision, Findings, Site, bytes_read
from hire_compiler.runtime.costs import CPU_COSTS
from hire_compiler.runtime.skip_zeros import SHARES

D, WIDTH = 1024, 4096
HALF = 4 * D * WIDTH  # bytes of each of two matrices
SITE = Site(id="ffn/0", kind="ffn", path="", batch=1, d=D, width=WIDTH, dtype="float32")
LADDER = (WIDTH // 16, WIDTH // 8, WIDTH // 4)


def decided(site: Site = SITE, budgets: tuple[int, ...] = LADDER) -> Decision:
    """Of a block with two matrices."""
    half = 4 * site.d * site.width

    def read(neurons: int) -> int:
        return half + half * neurons // site.width

    return Decision(
        site=site.id,
        action="rewritten",
        reason="",
        candidates=budgets[-1],
        budgets=tuple((n, read(n)) for n in budgets[:-1]),
        dense_bytes=2 * half,
        sparse_bytes=read(budgets[-1]),
        failed_bytes=2 * half,
    )


def counted(times: dict[int, int], site: Site = SITE, decision: Decision | None = None) -> BlockCounts:
    """What a block counts that has so often that share of its neurons active, in percent."""
    decision = decision or decided(site)
    tried = [*(n for n, _ in decision.budgets), decision.candidates]
    shares, ran = [0] * (SHARES + 1), [0] * (len(tried) + 1)
    for percent, often in times.items():
        neurons = percent * site.width // 100
        shares[-(-neurons * SHARES // site.width)] += often
        ran[sum(neurons > budget for budget in tried)] += often
    return BlockCounts(site.batch * sum(ran[:-1]), tuple(ran), tuple(shares))


def proven(counts: BlockCounts) -> Certificate:
    """The same for a report, of one row a call."""
    return Certificate(site=SITE.id, rows=sum(counts.ran), proven=counts.held, ran=counts.ran)


def shown(budgets: tuple[int, ...] | None) -> list[int] | None:
    return None if budgets is None else [round(100 * n / WIDTH) for n in budgets]


@pytest.mark.parametrize(
    ("times", "better"),
    [
        ({2: 64}, None),  # the smallest budget holds: another would save little
        ({10: 64}, None),
        ({15: 64}, [16]),  # ran in the budget of 25 %
        ({30: 64}, [31]),
        ({40: 64}, [41]),
        ({60: 64}, []),
        ({60: 16, 5: 48}, None),  # where it holds it saves more than is lost where it does not
        ({20: 32, 40: 32}, [20, 41]),
        ({40: 61, 60: 3}, [41]),
        ({100: 64}, []),
        ({0: 64}, None),
    ],
    ids=str,
)
def test_budgets_follow_from_how_many_neurons_were_active(times: dict[int, int], better: list[int] | None) -> None:
    counts = counted(times)
    assert shown(better_budgets(SITE, decided(), counts, CPU_COSTS)) == better


def test_new_budgets_hold_for_what_was_counted_in_whole_groups() -> None:
    decision = replace(decided(), group=8)
    counts = counted({37: 64})
    (budget,) = better_budgets(SITE, decision, counts, CPU_COSTS) or ()
    assert budget % 8 == 0
    assert 0.37 * WIDTH <= budget <= (0.37 + 1 / SHARES) * WIDTH


def test_short_rows_cost_more_to_choose_than_to_read() -> None:
    narrow = replace(SITE, d=128)
    counts = counted({30: 64}, narrow)
    assert better_budgets(narrow, decided(narrow), counts, CPU_COSTS) == ()


def test_one_bfloat16_row_is_worth_a_skip_that_rarely_holds() -> None:
    """The author's own product reads it at a fraction of the memory's speed."""
    narrow = replace(SITE, dtype="bfloat16")
    counts = counted({60: 64}, narrow)
    assert better_budgets(narrow, decided(narrow), counts, CPU_COSTS) is None
    several = replace(narrow, batch=4)
    counts = counted({60: 64}, several)
    assert better_budgets(several, decided(several), counts, CPU_COSTS) == ()


def test_a_block_that_never_is_ordinary_is_given_up_though_its_budget_holds() -> None:
    counts = counted({10: 64})
    assert better_budgets(SITE, decided(), replace(counts, held=0), CPU_COSTS) == ()


def test_without_counts_nothing_changes() -> None:
    counts = counted({60: 64})
    assert better_budgets(SITE, decided(), replace(counts, ran=()), CPU_COSTS) is None
    assert better_budgets(SITE, decided(), replace(counts, ran=(0,) * 4), CPU_COSTS) is None
    assert better_budgets(SITE, decided(budgets=(WIDTH,)), counts, CPU_COSTS) is None


def test_bytes_are_those_of_the_budgets_that_ran() -> None:
    decision = decided()
    found = Findings(sites=(replace(SITE, repeat=2),), decisions=(decision,))
    assert bytes_read(found)[1] == 2 * decision.sparse_bytes
    for percent, half in ((3, 1 / 16), (10, 1 / 8), (20, 1 / 4), (60, 1)):
        assert bytes_read(found, [proven(counted({percent: 64}))])[1] == round(2 * HALF * (1 + half))
    mixed = proven(counted({10: 32, 60: 32}))
    assert bytes_read(found, [mixed])[1] == round(2 * HALF * (1 + (1 / 8 + 1) / 2))
    doubted = replace(proven(counted({10: 64})), proven=48)  # in a quarter of the runs the order of sums decided
    assert bytes_read(found, [doubted])[1] == round(2 * HALF * (1 + 1 / 8 + 2 / 4))
