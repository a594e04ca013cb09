"""Makes a few calls of every CUDA kernel, for ncu and compute-sanitizer to watch.

    python benchmarks/gpu_calls.py [--large]

--large calls those of the fpn workload, which ncu can measure; else the problems are small, since compute-sanitizer is
slow. --rehearse runs the kernels in host execution, on the small problems.
"""

import argparse

import torch
from gpu_check import SMALL_CASES, call_all, load_kernels
from workloads import WORKLOADS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="the fpn workload")
    parser.add_argument("--rehearse", action="store_true", help="in host execution, without a GPU")
    arguments = parser.parse_args()
    ops, device = load_kernels(arguments.rehearse)
    if arguments.large and not arguments.rehearse:
        for layout in [torch.contiguous_format, torch.channels_last]:
            (part,) = WORKLOADS["fpn"].make(torch.float32, layout, "cuda")
            scales = torch.tensor([1, *[part.spatial_scale] * 4], device="cuda")
            call_all(ops, [part.input], part.rois * scales, (7, 7))
        torch.cuda.synchronize()
        return
    for case in SMALL_CASES:
        for dtype in [torch.float32, torch.bfloat16]:
            for layout in [torch.contiguous_format, torch.channels_last]:
                maps = [torch.randn(shape).to(device, dtype, memory_format=layout) for shape in case.shapes]
                rois = torch.rand(case.num_rois, 5) * torch.tensor([1.99, 10, 10, 20, 20])
                call_all(ops, maps, rois.to(device), case.output_size)
    print("all kernels were called")


if __name__ == "__main__":
    main()
