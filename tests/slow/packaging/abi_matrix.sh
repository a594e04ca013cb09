#!/usr/bin/env bash
# One wheel on every torch: installs it beside each version in a fresh virtual environment, runs the tests there, and
# prints a row of a table for each. The builds of PyPI bring several gigabytes of CUDA libraries each, one at a time.
#
#   pip wheel --no-deps --wheel-dir dist . && tests/slow/packaging/abi_matrix.sh dist/roipool-*.whl [VERSION]...
#
# PYTHON chooses the interpreter, ABI_MATRIX_LOGS a folder where the output of each run is kept.
set -euo pipefail

wheel=$(realpath "$1")
shift
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(2.10.0 2.11.0 2.12.1 2.13.0 2.14.1 2.15.0)
cd "$(dirname "$0")/../../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
logs=${ABI_MATRIX_LOGS:-$scratch}
mkdir -p "$logs" "$scratch/checkout"
logs=$(realpath "$logs")
# Without the roipool folder, so that nothing but the wheel can be imported.
git archive HEAD pyproject.toml csrc tests | tar -x -C "$scratch/checkout"
cd "$scratch/checkout"

echo "| torch | Python | CUDA kernels | tests |"
echo "| --- | --- | --- | --- |"
status=0
for version in "${versions[@]}"; do
  log="$logs/torch-$version.log"
  environment="$scratch/environment"
  rm -rf "$environment"
  "${PYTHON:-python3}" -m venv "$environment"
  "$environment/bin/pip" install -q --no-cache-dir "torch==$version" "$wheel[test]" &> "$log" || { cat "$log"; exit 1; }
  facts=$("$environment/bin/python" -c '
import platform, torch, roipool._ops
kernels = "loaded" if roipool._ops.cuda_is_loaded else "none: a torch without CUDA"
print(f"| {torch.__version__} | {platform.python_version()} | {kernels} |")')
  # The CUDA kernels on the host are compiled by the tests: they are not what is in the wheel.
  PATH="$environment/bin:$PATH" "$environment/bin/pytest" -q -rfE -p no:cacheprovider -k "not cuda_host" \
    --ignore tests/cuda_host --ignore tests/slow/planted_bugs tests &>> "$log" || { status=1; tail -n 100 "$log" >&2; }
  echo "$facts $(grep -E '^[=0-9].* in [0-9.]+s' "$log" | tail -n 1 | sed -E 's/ in [0-9.]+s.*//; s/=+ ?//g') |"
done
exit $status
