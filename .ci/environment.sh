# Sourced by each job: the root of the checkout as the working directory, a virtual environment with roipool, a scratch
# folder. The environment is the active one, or .venv, which is made by the README's commands where it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export ROIPOOL_WERROR=${ROIPOOL_WERROR:-1} FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="7.5 9.0+PTX"

if [ -z "${VIRTUAL_ENV-}" ]; then
  if [ ! -d .venv ]; then
    (
      pytest() { :; } # what the command ends with: here only the environment is wanted
      . .ci/test_command
    )
  fi
  . .venv/bin/activate
fi
found=$(cd / && python -c 'import os, roipool; print(os.path.dirname(os.path.dirname(roipool.__file__)))')
if [ "$found" != "$PWD" ]; then
  echo "The active environment imports roipool from $found, not from $PWD."
  exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
