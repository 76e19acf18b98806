"""Collectives read from the text of a compiled program: kinds, bytes, groups, loops, branches."""

from __future__ import annotations

from hire_compiler.measuring.hlo.communication import Collective, bytes_by_kind, collectives
from hire_compiler.measuring.hlo.text import read_hlo

# Lines as the compilers print them: the CPU's, the TPU's (tiled layouts, meshes), and pairs of start and done.
PROGRAM = """\
HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[2,64])) -> (s32[], f32[2,64]) {
  %p = (s32[], f32[2,64]{1,0}) parameter(0)
  %x = f32[2,64]{1,0} get-tuple-element(%p), index=1
  %all-reduce = f32[2,64]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%add, metadata={op_name="jit(f)/while/body/ffn/dot_general"}
  ROOT %t = (s32[], f32[2,64]{1,0}) tuple(%i, %all-reduce)
}

%cond (p: (s32[], f32[2,64])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%dense (p: bf16[8,1024]) -> bf16[8,4096] {
  ROOT %whole = bf16[8,4096]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=4, replica_groups=mesh['data'=2,'model'=2] {'model'}, dimensions={1}
}

ENTRY %main (x: f32[2,64]) -> f32[2,64] {
  %x = f32[2,64]{1,0} parameter(0)
  %loop = (s32[], f32[2,64]{1,0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %gather-start = (f32[4,8]{1,0}, f32[4,16]{1,0}) all-gather-start(%v), channel_id=2, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={1}, use_global_device_ids=true
  %gather = f32[4,16]{1,0} all-gather-done(%gather-start)
  %hop = s8[100]{0} collective-permute(%q), channel_id=3, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %scatter = f32[16]{0} reduce-scatter(%w), channel_id=5, dimensions={0}, to_apply=%add
  %branch = bf16[8,4096]{1,0} conditional(%bad, %p, %p), true_computation=%dense, false_computation=%cond
  ROOT %r = f32[2,64]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def _all() -> tuple[Collective, ...]:
    return collectives(read_hlo(PROGRAM), 4)


def _found(kind: str) -> Collective:
    (one,) = [c for c in _all() if c.kind == kind and not c.conditional]
    return one


def test_a_loop_multiplies_what_stands_in_its_body() -> None:
    one = _found("all-reduce")
    assert (one.result_bytes, one.group_size, one.trips) == (2 * 64 * 4, 2, 6)
    assert one.groups == ((0, 1), (2, 3))
    assert one.wire_bytes == 2 * 64 * 4  # 2·(n−1)/n with n = 2
    assert one.path.endswith("ffn/dot_general")


def test_a_start_and_its_done_are_one_collective_whose_result_counts() -> None:
    one = _found("all-gather")
    assert one.result_bytes == 4 * 16 * 4
    assert one.groups == ((0, 2), (1, 3))  # a transposed tile assignment
    assert one.wire_bytes == one.result_bytes // 2


def test_permutes_and_scatters_count_by_what_arrives() -> None:
    assert _found("collective-permute").wire_bytes == 100
    scatter = _found("reduce-scatter")
    assert scatter.groups == ()
    assert scatter.group_size == 4  # all devices
    assert scatter.wire_bytes == 3 * 64


def test_a_branch_is_marked_and_a_mesh_is_read() -> None:
    (one,) = [c for c in _all() if c.conditional]
    assert one.groups == ((0, 1), (2, 3))
    assert one.result_bytes == 8 * 4096 * 2
    assert "all-gather" in bytes_by_kind(_all())
    assert bytes_by_kind(_all(), conditional=False) == {
        "all-gather": 128,
        "all-reduce": 6 * 512,
        "collective-permute": 100,
        "reduce-scatter": 192,
    }


def test_a_program_of_one_device_says_nothing() -> None:
    assert (
        collectives(
            read_hlo("HloModule m\n\nENTRY %main (p: f32[]) -> f32[] {\n  ROOT %p = f32[] parameter(0)\n}\n"), 1
        )
        == ()
    )
