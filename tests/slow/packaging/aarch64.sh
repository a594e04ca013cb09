#!/usr/bin/env bash
# Cross-compiles roipool for aarch64, and runs its tests of kernels, operators and functions there, with torch, under an
# emulator: what .ci/aarch64, which runs the kernels alone, leaves out.
#
#   tests/slow/packaging/aarch64.sh FOLDER
#
# It needs Debian's g++-aarch64-linux-gnu and qemu-user, and fetches some 250 MB into FOLDER. The tests take half an
# hour, since an import of torch takes 15 s. Left out are those of torch's compiler, which would look for one there, and
# those that the emulator fails: it takes advice on huge pages, and does nothing. What is not committed is left out.
set -euo pipefail

torch=2.10.0 # the newest on PyPI for aarch64 without CUDA
mkdir -p "$1"
folder=$(realpath "$1")
cd "$(dirname "$0")/../../.."
checkout=$PWD
tree=$folder/tree site=$folder/site repository=$folder/repository
python=$tree/usr/bin/python3.11

fetch_system() { # the packages of Debian 12 for Python, by an apt of its own
  local apt=$folder/apt
  mkdir -p "$apt"/{preferences,lists/partial,archives/partial,log} "$tree"
  : >"$apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main" \
    >"$apt/sources.list"
  cat >"$apt/apt.conf" <<CONF
APT::Architecture "arm64"; APT::Architectures {"arm64";}; APT::Install-Recommends "false"; APT::Sandbox::User "root";
Dir::State "$apt"; Dir::State::status "$apt/status"; Dir::Cache "$apt"; Dir::Log "$apt/log";
Dir::Etc::sourcelist "$apt/sources.list"; Dir::Etc::sourceparts "-"; Dir::Etc::preferencesparts "$apt/preferences";
Acquire::Languages "none";
CONF
  export APT_CONFIG=$apt/apt.conf
  apt-get update -qq
  apt-get install -qq -y --download-only python3.11 libpython3.11-dev libgomp1 libstdc++6
  unset APT_CONFIG
  for package in "$apt"/archives/*.deb; do
    dpkg-deb -x "$package" "$tree"
  done
  mv "$python" "$python.real"
  printf '#!/bin/sh\nexec qemu-aarch64 -0 %s -L %s %s.real "$@"\n' "$python" "$tree" "$python" >"$python"
  chmod +x "$python"
}

fetch_packages() {
  local platforms=(--platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64)
  # A newer onnxruntime crashes when it looks at the processor, which is not what /sys says.
  pip download -q -d "$folder/wheels" "${platforms[@]}" --platform manylinux_2_27_aarch64 --python-version 311 \
    --only-binary :all: "torch==$torch" numpy pytest hypothesis onnx onnxruntime==1.23.2 'setuptools<82' pybind11
  for wheel in "$folder"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$site.part"
  done
  mv "$site.part" "$site"
}

build() {
  local include=$site/torch/include
  local compiler=(aarch64-linux-gnu-g++ -std=c++20 -O3 -ffp-contract=off -fvisibility=hidden -fPIC -shared -Wall -Wextra
    -Werror -Icsrc -Wl,--allow-shlib-undefined)
  "${compiler[@]}" -DTORCH_TARGET_VERSION=0x020a000000000000 -isystem "$include" \
    -isystem "$include/torch/csrc/api/include" csrc/build_info.cpp csrc/ops/*.cpp csrc/cpu/*.cpp csrc/cpu/simd/*.cpp \
    -Wl,-soname,libroipool.so -o roipool/libroipool.so "-L$site/torch/lib" -lstdc++ -ltorch_cpu
  "${compiler[@]}" -isystem "$site/pybind11/include" -isystem "$tree/usr/include/python3.11" -idirafter "$tree/usr/include" \
    csrc/python_module.cpp -o roipool/_C.cpython-311-aarch64-linux-gnu.so -Lroipool -lroipool '-Wl,-rpath,$ORIGIN'
}

[ -e "$python.real" ] || fetch_system
[ -d "$site" ] || fetch_packages
rm -rf "$repository" && mkdir "$repository"
git -C "$checkout" archive HEAD | tar -x -C "$repository"
cd "$repository"
build
export PYTHONNOUSERSITE=1 PYTHONPATH=$repository:$site
"$python" -m roipool
"$python" -m pytest -q -p no:cacheprovider -k "not cuda and not huge_pages and not compile and not installed_package" \
  --ignore tests/kernels/test_cpp_programs.py --ignore tests/ops/test_imports.py \
  tests/kernels tests/ops tests/api/test_{functional,main,modules,multiscale,mxnet,reference}.py
