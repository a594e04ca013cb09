# Sourced: sanitized NAMES makes a copy of the checkout, goes there, builds the CPU library with these sanitizers, and
# lets Python import it.
sanitized() {
  mkdir "$scratch/$1"
  git ls-files -z | xargs -0 cp --parents -t "$scratch/$1"
  cd "$scratch/$1"
  ROIPOOL_SANITIZE=$1 ROIPOOL_CUDA=0 python setup.py -q build_ext --inplace
  export PYTHONPATH=$PWD ROIPOOL_SANITIZE=$1
}
