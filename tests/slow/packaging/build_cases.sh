#!/usr/bin/env bash
# Builds whole wheels where that might go wrong, and prints a line for each case. test_build.py has the cases that take
# seconds; these take ten minutes, and pip must be able to fetch torch.
#
#   tests/slow/packaging/build_cases.sh
#
# PYTHON chooses the interpreter, BUILD_CASES_LOGS a folder where the output of each build is kept.
set -euo pipefail
cd "$(dirname "$0")/../../.."

scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
logs=${BUILD_CASES_LOGS:-$scratch/logs}
mkdir -p "$logs"
logs=$(realpath "$logs")
unset CC CXX CUDA_HOME FORCE_CUDA ROIPOOL_CUDA ROIPOOL_SANITIZE
export TORCH_CUDA_ARCH_LIST="9.0"
status=0

copy() { mkdir -p "$1" && git ls-files -z | xargs -0 cp --parents -t "$1"; }

succeeds() { # CASE FOLDER COMMAND...: COMMAND puts a wheel into FOLDER that can be installed and used
  local name=$1 folder=$2 log="$logs/$1.log"
  shift 2
  if "$@" &> "$log" && "$scratch/env/bin/pip" install -q --no-deps --force-reinstall "$folder"/*.whl &>> "$log" &&
    (cd "$scratch" && env/bin/python -m roipool) &>> "$log"; then
    echo "$name: $(basename "$folder"/*.whl), $(grep '^CUDA kernels  ' "$log" | tr -s ' ')"
  else
    echo "$name: FAILED: $(tail -n 1 "$log")"
    status=1
  fi
}

refused() { # CASE SENTENCE COMMAND...: COMMAND fails and says SENTENCE
  local name=$1 sentence=$2 log="$logs/$1.log"
  shift 2
  if ! "$@" &> "$log" && grep -qF -- "$sentence" "$log"; then
    echo "$name: $(grep -F -- "$sentence" "$log" | sed 's/^ *//')"
  else
    echo "$name: FAILED: it does not fail with '$sentence'"
    status=1
  fi
}

both() { # FOLDER TREE FOLDER TREE: two wheels at a time
  "${wheel[@]}" "$1" "$2" &
  local first=$!
  "${wheel[@]}" "$3" "$4"
  wait "$first"
}

read_only() { # TREE COMMAND...: root may write where the permissions say no
  if [ "$(id -u)" = 0 ]; then
    unshare --mount sh -c 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"' "$@"
  else
    chmod -R a-w "$1" && "${@:2}"
  fi
}

"${PYTHON:-python3}" -m venv "$scratch/bare"
"${PYTHON:-python3}" -m venv "$scratch/env"
"$scratch/bare/bin/pip" install -q setuptools &> "$logs/pip.log"
"$scratch/env/bin/pip" install -q torch==2.13.0 setuptools pybind11 ninja &>> "$logs/pip.log"
isolated=("$scratch/bare/bin/pip" wheel -q --no-deps --wheel-dir)
wheel=("$scratch/env/bin/pip" wheel -q --no-deps --no-build-isolation --wheel-dir)
tree="$scratch/tree"
none="$scratch/none"
copy "$tree"
copy "$scratch/untouched"

succeeds "no torch, isolated" "$scratch/1" "${isolated[@]}" "$scratch/1" "$tree"
refused "no torch, not isolated" "roipool cannot be built here: No module named" \
  "${isolated[@]}" "$none" --no-build-isolation "$tree"
CXX=/nonexistent/c++ refused "no compiler" "roipool needs a C++ compiler" "${wheel[@]}" "$none" "$tree"
mkdir -p "$scratch/cuda/bin"
install -m 755 /dev/stdin "$scratch/cuda/bin/nvcc" <<< $'#!/bin/sh\nexit 1'
CUDA_HOME="$scratch/cuda" refused "broken nvcc" "roipool's CUDA kernels need" "${wheel[@]}" "$none" "$tree"
CUDA_HOME="$scratch" FORCE_CUDA=1 refused "no nvcc, FORCE_CUDA=1" "FORCE_CUDA=1 asks" "${wheel[@]}" "$none" "$tree"

copy "$scratch/a tree/with spaces"
succeeds "spaces in the path" "$scratch/2" "${wheel[@]}" "$scratch/2" "$scratch/a tree/with spaces"

copy "$scratch/read only"
succeeds "read-only tree" "$scratch/3" \
  read_only "$scratch/read only" "${isolated[@]}" "$scratch/3" "$scratch/read only"

copy "$scratch/copy"
succeeds "two copies at once, the first" "$scratch/4" both "$scratch/4" "$tree" "$scratch/5" "$scratch/copy"
succeeds "two copies at once, the second" "$scratch/5" true
succeeds "one tree twice at once, the first" "$scratch/6" both "$scratch/6" "$tree" "$scratch/7" "$tree"
succeeds "one tree twice at once, the second" "$scratch/7" true
if left=$(diff -r "$scratch/untouched" "$tree"); then
  echo "what the builds have left in the tree: nothing"
else
  echo "what the builds have left in the tree: FAILED: $left"
  status=1
fi
exit $status
