#!/usr/bin/env bash
# Builds on a machine with a GPU, then checks and measures: benchmarks/on_gpu.sh OUT [PYTHON]
#
# It needs no network: nvcc, and a Python with torch (2.10 or newer, with CUDA), torchvision, setuptools, pybind11, ninja,
# pytest, pytest-xdist, hypothesis, numpy and rich. It takes at most eight minutes; on_gpu.py says what it leaves in OUT.
set -euo pipefail
mkdir -p "$1"
out=$(cd "$1" && pwd)
python=${2:-python3}
cd "$(dirname "$0")/.."

# One architecture, that of the machine: the minutes are for measuring.
capability='import torch; print("%d.%d" % torch.cuda.get_device_capability())'
architectures=${TORCH_CUDA_ARCH_LIST:-$("$python" -c "$capability")}
export TORCH_CUDA_ARCH_LIST=$architectures FORCE_CUDA=1 PYTHONPATH=$PWD

build() {
  timeout 200 "$python" setup.py build_ext --inplace && "$python" -m roipool &&
    "$python" -m roipool --json | grep -q '"cuda_loaded": true'
}
{
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader || true
  nvcc --version | tail -n 2
} >"$out/log.txt" 2>&1
if ! build >>"$out/log.txt" 2>&1; then
  tail -n 20 "$out/log.txt"
  exit 1
fi
echo "built in $SECONDS s"
"$python" benchmarks/on_gpu.py "$out" --seconds $((470 - SECONDS))
