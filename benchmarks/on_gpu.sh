#!/usr/bin/env bash
# Builds, tests and measures on a machine with a GPU, and leaves the results in a folder:
#
#     benchmarks/on_gpu.sh OUT [PYTHON]
#
# It needs no network: nvcc, and a Python with torch (2.10 or newer, with CUDA), torchvision, setuptools, pybind11, ninja,
# pytest, hypothesis, numpy, onnx, onnxruntime, rich and matplotlib. In under 10 minutes it leaves
#
#     log.txt               what each step printed: the build, the machine, the test suite with a GPU required, the
#                           tables, what ncu says of the forward and the backward, and tests under compute-sanitizer
#     cuda_*.json, .png     roipool beside torchvision; cuda_direct.json: without the kernels that pool from shared memory
#
# Each step has its share of the time. The next one starts whatever became of it, and the exit status is 1 if any failed.
# ROIPOOL_COMMIT says which commit this is, where git does not know.
set -uo pipefail
mkdir -p "$1"
out=$(cd "$1" && pwd)
export python=${2:-python3}
cd "$(dirname "$0")/.."
failed=0
: >"$out/log.txt"

step() {  # NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS status
  shift 2
  printf '\n=== %s\n' "$name" >>"$out/log.txt"
  timeout -s INT -k 10 "$limit" "$@" >>"$out/log.txt" 2>&1  # INT: pytest then prints what it has
  status=$?
  [ $status -eq 0 ] || failed=1
  printf '%-13s exit %d, %d s: %s\n' "$name" $status $((SECONDS - began)) "$(tail -n 1 "$out/log.txt" | cut -c1-120)"
}

compare() {  # NAME ARGUMENTS...
  local name=$1
  shift
  step "$name" 40 "$python" benchmarks/run.py --device cuda --peers torchvision \
    --json "$out/$name.json" --plot "$out/$name.png" "$@"
}

machine() {
  set -e
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  nvcc --version | tail -n 2
  ls -l roipool/*.so
  $python -m roipool
}
export -f machine

# One architecture, that of the machine: the minutes are for tests. Another list may be given.
capability='import torch; print("%d.%d" % torch.cuda.get_device_capability())'
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$($python -c "$capability")}
export FORCE_CUDA=1 ROIPOOL_REQUIRE_CUDA=1 PYTHONPATH=$PWD

step build 120 "$python" setup.py build_ext --inplace
step machine 30 bash -c machine
# The kernels first, the compiler's slow tests last, should the time run out.
step tests 200 "$python" -m pytest -q -m "not slow" \
  -k "cuda and not cuda_host and not compute_sanitizer" --durations=10 \
  tests/kernels/test_cuda.py tests/kernels tests/ops tests/api \
  tests/ops/test_compile.py
ROIPOOL_CUDA_FORWARD=direct step tests_direct 40 "$python" -m pytest -q -k "cuda and not cuda_host" \
  tests/kernels
compare cuda_float32 --workload fpn vgg --rounds 7
compare cuda_layouts --workload fpn --layout contiguous channels_last --dtype float32 bfloat16 --rounds 5
ROIPOOL_CUDA_FORWARD=direct compare cuda_direct --workload fpn vgg c5 --layout contiguous channels_last \
  --mode inference forward --rounds 5
compare cuda_large --workload c5 large --mode inference forward backward --rounds 5
step cuda_overhead 30 "$python" benchmarks/bench_overhead.py --device cuda --json "$out/cuda_overhead.json"
step cuda_pyramid 40 "$python" benchmarks/bench_pyramid.py --device cuda --rounds 5 --json "$out/cuda_pyramid.json"
compare cuda_more --workload detections few dense pixels huge --mode inference forward_backward --rounds 5
if command -v ncu >/dev/null; then
  profile=(ncu --section SpeedOfLight --section MemoryWorkloadAnalysis --section Occupancy
    --kernel-name 'regex:forward_|scatter' --launch-count 3 "$python" benchmarks/run.py --device cuda --workload fpn
    --peers torchvision --rounds 2)
  step ncu_forward 40 "${profile[@]}" --mode forward
  step ncu_backward 40 "${profile[@]}" --mode backward
fi
step sanitizer $((570 - SECONDS > 20 ? 570 - SECONDS : 20)) "$python" -m pytest -q -k compute_sanitizer \
  tests/kernels/test_cuda.py
exit $failed
