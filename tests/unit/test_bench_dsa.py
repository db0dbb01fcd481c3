"""What `tools.bench dsa` makes of callgrind's output."""

from tools.bench.dsa import core_instructions

OUTPUT = """\
# callgrind format
version: 1
creator: callgrind-3.19.0
positions: line
events: Ir
summary: 1234

fl=/repo/core/pc_dsa.c
fn=pc_dsa_offload
10 5
11 7
fi=/usr/lib/gcc/x86_64-linux-gnu/12/include/avx2intrin.h
900 3
fe=/repo/core/pc_dsa.c
cfi=/repo/core/pc_bits.c
cfn=pc_bits_set
calls=2 20
12 100
13 1

fl=/repo/core/pc_bits.c
fn=pc_bits_set
20 40

fl=/usr/lib/gcc/x86_64-linux-gnu/12/include/avx2intrin.h
fn=pc_dsa_offload
901 2

fl=/repo/tools/bench/dsa_cost.c
fn=submit_and_answer
30 1000
cfn=pc_bits_set
calls=1 20
31 100

fl=/repo/core_of_another/pc_dsa.c
fn=another
1 10000

totals: 11058
"""


def test_self_costs_of_the_folder_with_what_was_inlined_and_nothing_else() -> None:
    assert core_instructions(OUTPUT.splitlines(), "/repo/core") == 5 + 7 + 3 + 1 + 40 + 2


def test_only_the_line_behind_calls_is_left_out() -> None:
    lines = ["fl=/c/a.c", "fn=a", "1 1", "calls=1 9", "2 1000", "3 10"]
    assert core_instructions(lines, "/c") == 11


def test_nothing_of_the_folder_costs_nothing() -> None:
    assert core_instructions(OUTPUT.splitlines(), "/elsewhere") == 0
