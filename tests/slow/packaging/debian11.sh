#!/usr/bin/env bash
# Builds roipool in Debian 11 (GCC 10, glibc 2.31), older than which torch hardly runs, and runs the quick tests and the
# C++ program there. Prints what the libraries ask of glibc and libstdc++.
#
#   tests/slow/packaging/debian11.sh TREE
#
# It runs as root, needs debootstrap, and makes the tree where there is none. Debian 11 has no Python that roipool runs
# on, so that CPython 3.11 is compiled from the sources of Debian 12. The tree takes this machine's certificates, and
# sees the folder that PIP_FIND_LINKS names, if any. What is not committed is left out. The first run takes some 20
# minutes on 2 cores.
set -euo pipefail

mkdir -p "$1"
tree=$(realpath "$1")
cd "$(dirname "$0")/../../.."

if [ ! -e "$tree/etc/debian_version" ]; then
  debootstrap --variant=minbase --include=ca-certificates bullseye "$tree" http://deb.debian.org/debian
fi
cp /etc/resolv.conf "$tree/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
rm -rf "$tree/roipool" && mkdir "$tree/roipool"
git archive HEAD | tar -x -C "$tree/roipool"
unshare --mount --propagation private bash -euo pipefail -s "$tree" <<'OUTSIDE'
for folder in /proc /sys /dev; do
  mount --rbind "$folder" "$1$folder"
done
if [ -d "${PIP_FIND_LINKS-}" ]; then
  mkdir -p "$1/$PIP_FIND_LINKS" && mount --bind "$PIP_FIND_LINKS" "$1/$PIP_FIND_LINKS"
fi
chroot "$1" bash -euo pipefail <<'INSIDE'
trap 'tail -n 50 /tmp/log' ERR
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 ROIPOOL_WERROR=1 ROIPOOL_CUDA=0
if [ ! -x /usr/local/bin/python3.11 ]; then
  echo 'deb-src http://deb.debian.org/debian bookworm main' >/etc/apt/sources.list.d/bookworm-sources.list
  apt-get update -qq
  apt-get install -y -qq build-essential libbz2-dev libffi-dev liblzma-dev libsqlite3-dev libssl-dev zlib1g-dev
  mkdir -p /python && cd /python
  apt-get source -qq --download-only python3.11
  tar xf python3.11_*.orig.tar.* --strip-components 1
  ./configure -q && make -s -j "$(nproc)" && make -s install
fi >/tmp/log 2>&1
cd /roipool
python3.11 -m venv /environment && . /environment/bin/activate
pip install -q torch==2.13.0 setuptools pybind11 ninja cmake
pip install -q --no-build-isolation -e '.[test]'
python -m roipool
for library in roipool/*.so; do
  for system in GLIBC GLIBCXX; do
    echo "$library: $(objdump -T "$library" | grep -oE "\b${system}_[0-9.]+" | sort -V | tail -n 1)"
  done
done
pytest -q
python examples/cpp/export_head.py /tmp/head
prefixes=$(python -c 'import roipool, torch; print(torch.utils.cmake_prefix_path, roipool.cmake_prefix_path, sep=";")')
cmake -S examples/cpp -B /tmp/build -DCMAKE_PREFIX_PATH="$prefixes" >/tmp/log 2>&1
cmake --build /tmp/build >/tmp/log 2>&1
/tmp/build/serve /tmp/head
INSIDE
OUTSIDE
