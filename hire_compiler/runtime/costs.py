"""What a platform charges for choosing and gathering, in bytes of a weight that it streams in the same time.

The plan weighs bytes; these numbers turn into bytes what is none. Those of the CPU are measured (docs/decisions),
those of the GPU too (docs/gpu.md), those of the TPU are read off its compiler's schedules (docs/tpu.md).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """One platform's.

    Attributes:
      choice_bytes: what choosing a head's candidates costs, for each row of a batch, as bytes of a stream.
      copied_rows: rows of a batch up to which a copy of a float32 head, read once for each of them, is read sooner than
        the head itself; None where one pass serves them all.
      worth_bytes: a block that could skip less than this has nothing to gain.
      worth_reason: what happens to fewer, for the report.
      looked_bytes: what it costs to look at one neuron of a block, whether it is zero.
      chosen_bytes: what it costs to choose a group of neurons and to find its rows, beside reading them.
      row_ratio: what a byte of a gathered row costs, as bytes of a stream.
      written_bfloat16: what a byte of a bfloat16 weight costs where the author's own product reads it: of one row in a
        block, of several in a head.
      gather_ratio: what a gathered row costs, as rows of a stream, all together.
      most_gathered: share of the rows up to which gathering them beats reading all.
      read_bytes: what a read somewhere else costs beside its bytes: it favours larger groups where little else does.
      unpacked_rows: rows of a batch up to which a packed 4-bit copy beats the dense product where each row unpacks it
        again; None where none does.
    """

    choice_bytes: int
    copied_rows: int | None
    worth_bytes: int
    worth_reason: str
    looked_bytes: int
    chosen_bytes: int
    row_ratio: float
    written_bfloat16: float
    gather_ratio: float
    most_gathered: float
    read_bytes: int
    unpacked_rows: int | None


# Measured. Choosing takes about 0.1 ms a row, in which two cores read 4 MiB; less than 1 MiB stays in the cache;
# gathers run at about half the speed of a stream. What an exact skip costs is fitted to blocks of 256 to 2048 numbers a
# neuron: so a budget pays up to half of the neurons at 1024 numbers, and to a fifth at 256 (docs/decisions/0171). An
# author's product of one bfloat16 row took 5 to 12 times as long as its bytes, that of four with a head 12 to 25 times;
# 3 is what they take at least.
CPU_COSTS = Costs(
    choice_bytes=4 << 20,
    copied_rows=3,
    worth_bytes=1 << 20,
    worth_reason="stay in the cache",
    looked_bytes=400,
    chosen_bytes=1300,
    row_ratio=1.2,
    written_bfloat16=3,
    gather_ratio=2,
    most_gathered=3 / 8,
    read_bytes=256,
    unpacked_rows=5,
)

# Estimates for v5e, 819 GB/s. Seven more rows of a batch cost a head 27 µs (d = 640) to 71 µs (d = 2048): choosing is
# 4 to 10 µs a row. A skip adds about five operations of a microsecond each; nothing stays in a cache between steps.
# Rewritten blocks take 1.2 times what their bytes would. The compiler charges nothing for a read elsewhere, so 512
# bytes, the least that one asks of the memory, are assumed; so are the 64 of looking at a neuron. 4-bit
# numbers are read as they are.
TPU_COSTS = Costs(
    choice_bytes=6 << 20,
    copied_rows=None,
    worth_bytes=4 << 20,
    worth_reason="are read sooner than a skip is prepared",
    looked_bytes=64,
    chosen_bytes=512,
    row_ratio=1.2,
    written_bfloat16=1,
    gather_ratio=1.2,
    most_gathered=1 / 2,
    read_bytes=512,
    unpacked_rows=None,
)

# Measured on an H100 (docs/gpu.md), 3 TB/s: beside its bytes a certified head of 262144 rows took 180 µs, in which the
# card reads 540 MB, and it saves half of its bytes at most; an exact block took 80 µs more. Gathers are taken to be
# as slow as on a CPU; a read elsewhere is a line of 128 bytes; 64 to look at a neuron are assumed. A whole batch
# shares one unpacking.
GPU_COSTS = Costs(
    choice_bytes=1 << 30,
    copied_rows=None,
    worth_bytes=256 << 20,
    worth_reason="are read sooner than a skip is prepared",
    looked_bytes=64,
    chosen_bytes=128,
    row_ratio=2,
    written_bfloat16=1,
    gather_ratio=2,
    most_gathered=3 / 8,
    read_bytes=128,
    unpacked_rows=None,
)
