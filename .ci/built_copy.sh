# Sourced: built_copy VARIABLE=VALUE... makes a copy of the checkout, goes there, builds it with these settings, which
# stay set, and lets Python import it.
built_copy() {
  mkdir "$scratch/copy"
  git ls-files -z | xargs -0 cp --parents -t "$scratch/copy"
  cd "$scratch/copy"
  export "$@" PYTHONPATH=$scratch/copy
  python setup.py -q build_ext --inplace >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log"; exit 1; }
}
