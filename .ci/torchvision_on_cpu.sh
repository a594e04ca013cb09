#!/usr/bin/env bash
# Installs torchvision beside the torch of the active environment, be that one without CUDA.
#
# PyPI's torchvision is built for CUDA, and wants two libraries that a torch without CUDA lacks. Nothing in them is called
# on CPU, so stubs in their place will do. Prints the folder that LD_LIBRARY_PATH must name, or nothing where none is
# needed.
set -euo pipefail

pip install -q --no-deps torchvision==0.28.0
pip install -q numpy pillow
works() { python -c 'import torch, torchvision; torchvision.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5)' 2>&1; }
if works >/dev/null; then
  exit 0
fi

folder=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision_stubs
mkdir -p "$folder"
library=$(dirname "$folder")/torchvision/_C.so
# Data symbols are told from functions by nothing but their names here; room for either serves both.
nm -D --undefined-only "$library" | awk '{print $NF}' | grep -E '^_ZN?K?(3c10|2at)4cuda' | sort -u |
  sed 's/.*/char &[64];/' >"$folder/stubs.c"
cc -shared -fPIC -o "$folder/libc10_cuda.so" "$folder/stubs.c"
echo 'char torchvision_stub;' | cc -shared -fPIC -o "$folder/libtorch_cuda.so" -x c -
LD_LIBRARY_PATH=$folder works >&2
echo "$folder"
