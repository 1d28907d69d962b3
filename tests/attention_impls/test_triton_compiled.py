"""The Triton kernels as code for a Hopper GPU, which need not be there: registers, instructions, loads."""

import re
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO

import pytest
import triton
from triton import knobs
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile, make_backend  # noqa: A004

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.kernels.triton.decode_config import (
    LAYOUTS,
    DecodeConfig,
    block_dims_of,
    block_rows_of,
    tile_candidates,
)
from gqabench.attention_impls.kernels.triton.decode_kernel import decode_kernel, merge_kernel
from gqabench.attention_impls.kernels.triton.decode_launch import MERGE_ROWS, decode_constants
from gqabench.attention_impls.kernels.triton.prefill_kernel import prefill_kernel
from gqabench.attention_impls.kernels.triton.prefill_launch import prefill_candidates, prefill_constants

HOPPER = GPUTarget("cuda", 90, 32)
SHARED_MEMORY_OF_AN_SM = 227 * 1024
"""CUDA C++ Programming Guide, table of technical specifications: most of one thread block at 9.0."""
SPILLED_BYTES = {
    ("3.6", "int8 pages, window, soft cap, 4 queries"): 24,
    ("3.8", "int8 pages, window, soft cap, 4 queries"): 16,
    ("3.8", "float8 cache"): 8,
    ("3.9", "int8 pages, window, soft cap, 4 queries"): 16,
    ("3.9", "group of 71, head_dim 256, int8"): 140,
}
"""By Triton's version: of one candidate of a shape, which tuning times beside others. In 3.8 it is the first
of its layout."""
REGISTERS_OF_AN_SM = 65_536

LLAMA = "llama3_8b"
"""Of its candidates only the first are assembled: "head_dim 80" has the same tiles, and masks besides, so it
spills sooner. Multi-head attention has the very same kernel."""

SHAPES = {
    "head_dim 80": {"head_dim": 80, "num_q_heads": 24, "kv_dtype": None},
    "head_dim 256": {"head_dim": 256},
    "group of 71": {"num_q_heads": 71, "num_kv_heads": 1},
    "float8 cache": {"kv_dtype": "float8_e4m3"},
    "int8 pages, window, soft cap, 4 queries": {
        "kv_dtype": "int8", "page_size": 16, "q_len": 4, "window": 1000, "logits_soft_cap": 30.0,
    },
    "group of 32, head_dim 256": {"num_kv_heads": 1, "head_dim": 256},
    "group of 71, head_dim 256, int8": {
        "num_q_heads": 71, "num_kv_heads": 1, "head_dim": 256, "kv_dtype": "int8",
    },
    "float32": {"dtype": "float32"},
    "float32, int8 cache": {"dtype": "float32", "kv_dtype": "int8"},
    LLAMA: {},
}  # fmt: skip
OF_EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES, scope="module")
"""Tests of one shape run one after another, so that a process seldom compiles what another has compiled."""

TRITON_TYPES = {
    "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "i8", "float8_e4m3": "fp8e4nv",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """A kernel compiled for Hopper, and what the assembler says of it."""

    ttgir: str
    ptx: str
    registers: int
    spilled_bytes: int
    shared_bytes: int

    def count(self, instruction: str) -> int:
        return self.ptx.count(instruction)


def problem_of(shape: str, **fields: object) -> AttentionProblem:
    defaults = {
        "batch_size": 8,
        "q_len": 1,
        "kv_len": 8192,
        "num_q_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
    }
    return AttentionProblem(**defaults | {"dtype": "bfloat16", "device": "cuda"} | SHAPES[shape] | fields)


def source_of(kernel: object, problem: AttentionProblem, constants: dict) -> ASTSource:
    """Return a kernel to compile whose pointers and strides are multiples of 16, as PyTorch's are."""
    kv_type = TRITON_TYPES[problem.kv_dtype or problem.dtype]
    pointers = {
        "q_ptr": TRITON_TYPES[problem.dtype], "out_ptr": TRITON_TYPES[problem.dtype],
        "k_ptr": kv_type, "v_ptr": kv_type,
        "k_scales_ptr": "fp32", "v_scales_ptr": "fp32", "partial_ptr": "fp32", "log_sums_ptr": "fp32",
    }  # fmt: skip
    if problem.kv_dtype is None:
        constants = constants | {"k_scales_ptr": None, "v_scales_ptr": None}
    if problem.page_size is None:
        constants = constants | {"table_ptr": None}
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants
        else f"*{pointers.get(name, 'i32')}" if name.endswith("_ptr")
        else "fp32" if name in ("inner_scale", "outer_scale") else "i32"
        for name in names
    }  # fmt: skip
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name not in constants and name.endswith(("_ptr", "_stride"))
    }
    constants = {name: value for name, value in constants.items() if name in names}
    return ASTSource(kernel, signature, constexprs=constants, attrs=aligned)


def options_of(config: object) -> dict[str, int]:
    return {"num_warps": config.num_warps, "num_stages": config.num_stages}


def compiled(kernel: object, problem: AttentionProblem, constants: dict, config: object) -> Compiled:
    """Compile a kernel, to the machine code and what the assembler says of it."""
    source, report = source_of(kernel, problem, constants), StringIO()
    with knobs.compilation.scope(), knobs.nvidia.scope(), redirect_stdout(report):
        knobs.compilation.always_compile = True  # what is taken from a cache is not assembled
        knobs.nvidia.dump_ptxas_log = True
        result = compile(source, target=HOPPER, options=options_of(config))
    registers, spilled_bytes = assembled(report.getvalue())
    return Compiled(result.asm["ttgir"], result.asm["ptx"], registers, spilled_bytes, result.metadata.shared)


def assembled(report: str) -> tuple[int, int]:
    """Registers of a thread and bytes spilled, by the assembler as Triton itself calls it."""
    (registers,) = re.findall(r"Used (\d+) registers", report)
    (stores,) = re.findall(r"(\d+) bytes spill stores", report)
    (loads,) = re.findall(r"(\d+) bytes spill loads", report)
    return int(registers), int(stores) + int(loads)


@cache
def compiled_decode(problem: AttentionProblem, config: DecodeConfig) -> Compiled:
    """Compile the decode kernel once for all tests that look at it."""
    return compiled(decode_kernel, problem, decode_constants(problem, config), config)


def pipelined_decode(problem: AttentionProblem, config: DecodeConfig) -> str:
    """Compile the decode kernel as far as its loads are in flight, before LLVM and the assembler."""
    source = source_of(decode_kernel, problem, decode_constants(problem, config))
    backend, context, stages = make_backend(HOPPER), ir.context(), {}
    options = backend.parse_options(options_of(config))
    backend.add_stages(stages, options, source.language)
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    code = source.make_ir(HOPPER, options, functions, modules, context)
    for stage in ("ttir", "ttgir"):
        code = stages[stage](code, {})
    return str(code)


def to_assemble(problem: AttentionProblem) -> list[DecodeConfig]:
    """Return the candidates that show whether any spills or asks for more than an SM has.

    Those with the tiles and warps of another, but a shallower pipeline, take less shared memory, and as many
    registers within two of 255. Not so where a quantised tile is widened: there each is a case of its own.
    """
    candidates = tile_candidates(problem)
    if problem.kv_dtype is not None:
        return candidates
    by_depth = sorted(candidates, key=lambda config: config.num_stages)
    return list({replace(config, num_stages=0): config for config in by_depth}.values())


def in_the_loop(ttgir: str) -> str:
    """The loop over keys: the deepest one that holds a matrix product."""
    lines = ttgir.splitlines()
    loops: list[list[str]] = []
    for index, line in enumerate(lines):
        if "scf.for" in line:
            indent = len(line) - len(line.lstrip())
            end = next(i for i in range(index + 1, len(lines)) if lines[i].startswith(" " * indent + "}"))
            loops.append(lines[index:end])
    products = [loop for loop in loops if any("tt.dot" in line or "warp_group_dot" in line for line in loop)]
    (loop,) = products
    return "\n".join(loop)


def loads_in_loops(ttgir: str, tile: str) -> int:
    """Loads of tiles of a shape within the loop over keys."""
    is_load = r"(async_copy_global_to_local|tt\.load|descriptor_load) .*tensor<" + tile + "x"
    return len(re.findall(is_load, in_the_loop(ttgir)))


def first_of(problem: AttentionProblem, layout: str) -> DecodeConfig | None:
    return next((config for config in tile_candidates(problem) if config.layout == layout), None)


def known_spilled_bytes(shape: str) -> int:
    version = ".".join(triton.__version__.split(".")[:2])
    return SPILLED_BYTES.get((version, shape), 0)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != LLAMA], scope="module")
def test_no_candidate_spills_or_asks_for_more_than_an_sm_has(shape):
    problem = problem_of(shape)
    for config in to_assemble(problem):
        kernel = compiled_decode(problem, config)
        assert kernel.spilled_bytes <= known_spilled_bytes(shape), config
        assert kernel.shared_bytes <= SHARED_MEMORY_OF_AN_SM, config


@OF_EACH_SHAPE
def test_tiles_are_on_their_way_while_another_is_computed_with(shape):
    problem = problem_of(shape)
    first = tile_candidates(problem)[0]
    require_two_tiles_in_flight(compiled_decode(problem, first).ttgir)


@OF_EACH_SHAPE
def test_pages_are_on_their_way_too(shape):
    problem = replace(problem_of(shape), page_size=16)
    require_two_tiles_in_flight(pipelined_decode(problem, tile_candidates(problem)[0]))


def require_two_tiles_in_flight(ttgir: str) -> None:
    waits = re.findall(r"async_wait .*num = (\d+)", in_the_loop(ttgir))
    assert waits
    assert all(int(left_flying) >= 2 for left_flying in waits), "K and V of one tile at least"


@OF_EACH_SHAPE
def test_the_first_of_a_layout_spills_as_little_and_reads_keys_and_values_once(shape):
    problem = problem_of(shape)
    for config in filter(None, (first_of(problem, layout) for layout in LAYOUTS)):
        kernel = compiled_decode(problem, config)
        assert kernel.spilled_bytes <= known_spilled_bytes(shape), config
        assert kernel.shared_bytes <= SHARED_MEMORY_OF_AN_SM, config
        tile = f"{config.block_n}x{block_dims_of(problem)}"
        assert loads_in_loops(kernel.ttgir, tile) == 2, config  # one of K and one of V


def test_shapes_without_a_kernel_of_their_own_have_that_of_another():
    llama, mha, narrow = (problem_of(shape) for shape in (LLAMA, LLAMA, "head_dim 80"))
    mha = replace(mha, num_kv_heads=mha.num_q_heads)
    assert tile_candidates(llama) == tile_candidates(mha) == tile_candidates(narrow)
    for config in tile_candidates(llama):
        constants = decode_constants(llama, config)
        assert decode_constants(mha, config) == constants
        assert decode_constants(narrow, config) == constants | {"HEAD_DIM": 80}


def test_decode_uses_the_instructions_of_its_layout():
    problem = problem_of(LLAMA)
    padded = compiled_decode(problem, first_of(problem, "padded"))
    assert padded.count("mma.sync.aligned.m16n8k16") > 0
    assert padded.count("wgmma.mma_async") == 0
    swapped = compiled_decode(problem, first_of(problem, "swapped"))
    assert swapped.count("wgmma.mma_async.sync.aligned.m64n16k16") > 0
    assert swapped.count("mma.sync") == 0
    for kernel in (padded, swapped):
        assert kernel.count("cp.async") > 0
        assert 2 * 128 * kernel.registers <= REGISTERS_OF_AN_SM  # two programs of four warps on an SM
        assert kernel.count("atom.global.gpu.acq_rel.add") == 1


def test_float32_decode_is_multiply_adds():
    """TF32 would keep ten bits of what was asked for as float32."""
    problem = problem_of("float32")
    kernel = compiled_decode(problem, first_of(problem, "padded"))
    assert kernel.count("mma") == 0
    assert kernel.count("fma.rn.f32") > 100


def test_the_whole_group_is_in_one_tile():
    assert [block_rows_of(problem_of(LLAMA, num_kv_heads=heads)) for heads in (32, 8)] == [16, 16]
    assert block_rows_of(problem_of(LLAMA, num_kv_heads=1)) == 32
    assert block_rows_of(problem_of(LLAMA, q_len=16)) == 64
    assert block_rows_of(problem_of("group of 71")) == 128


def test_the_second_kernel_spills_nothing():
    config = tile_candidates(problem_of("head_dim 256"))[0]
    constants = {"HEAD_DIM": 256, "BLOCK_D": 256, "BLOCK_ROWS": MERGE_ROWS}
    assert compiled(merge_kernel, problem_of("head_dim 256"), constants, config).spilled_bytes == 0


@pytest.mark.parametrize(
    "fields", [{}, {"window": 512, "logits_soft_cap": 30.0}, {"head_dim": 256}, {"dtype": "float32"}], ids=str
)
def test_prefill_spills_nothing(fields):
    problem = problem_of(LLAMA, **{"batch_size": 2, "q_len": 4096, "kv_len": 4096} | fields)
    config = prefill_candidates(problem)[0]
    kernel = compiled(prefill_kernel, problem, prefill_constants(problem, config), config)
    assert kernel.spilled_bytes == 0
    assert kernel.shared_bytes <= SHARED_MEMORY_OF_AN_SM
    assert 256 * kernel.registers <= REGISTERS_OF_AN_SM
    if problem.dtype != "float32":
        assert kernel.count("wgmma.mma_async.sync.aligned.m64n") > 0
        assert kernel.count("mma.sync") == 0
