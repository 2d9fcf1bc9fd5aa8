"""The Triton kernels: numbers in Triton's interpreter, machine code for GPUs that are not here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "fixtures" / "deformable_triton_run.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

# float32 sums in another order; half precision rounds results and the value gradient, of size 2 to 16, once.
ATOL = {"float32": 2e-4, "bfloat16": 0.07, "float16": 0.01}


def run(what, folder):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), what], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_interpreted_kernels_equal_the_plain_form(tmp_path):
    found = run("interpret", tmp_path)
    assert len(found) == 6
    for name, case in found.items():
        dtype = case["dtypes"][0]
        assert case["dtypes"] == [dtype, dtype, "float32", "float32"], name
        assert case["shapes_equal"], name
        limits = [ATOL[dtype], ATOL[dtype], ATOL["float32"], ATOL["float32"]]
        assert all(d <= limit for d, limit in zip(case["differences"], limits, strict=True)), (name, case)
        assert all(case["sizes"]) != (name == "no queries"), name
    assert {case["dtypes"][0] for case in found.values()} == set(ATOL)


def test_kernels_compile_for_gpus(tmp_path):
    found = run("compile", tmp_path)
    assert set(found) == {
        "_forward_kernel fp32 sm_80",
        "_backward_kernel fp32 sm_80",
        "_forward_kernel bf16 sm_90",
        "_backward_kernel bf16 sm_90",
    }
    for name, built in found.items():
        assert built["bytes"] > 1000, name
        assert built["wide_loads"] > 0, f"{name}: channels of a pixel are read one by one"


def test_triton_is_not_imported_before_it_is_needed():
    code = (
        "import sys, torch; from deformable_cases import random_case;"
        "from skillbank_models.layers import deformable_attention as layers;"
        "from skillbank_models.ops.deformable_attention import deformable_attention;"
        "case = random_case();"
        "deformable_attention(case.value, case.shapes, case.locations, case.weights, deterministic=False);"
        "assert not {'skillbank_models.ops._deformable_triton', 'triton'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
