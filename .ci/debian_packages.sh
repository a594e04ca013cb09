# Sourced: debian_packages NAME... installs what is missing. Two jobs that run side by side take turns.
debian_packages() {
  if ! dpkg-query --show "$@" >/dev/null 2>&1; then
    flock /tmp/roipool-debian-packages.lock bash -c 'apt-get update && apt-get install -y "$@"' -- "$@" \
      >"$scratch/packages.log" 2>&1 || { cat "$scratch/packages.log"; exit 1; }
  fi
}
