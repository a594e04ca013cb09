compiler: str
built_with_torch: str
cpu_capability: str
asks_for_huge_pages: bool
cuda_version: str | None
cuda_architectures: list[str]

def level_bound(level: float, canonical_scale: float, canonical_level: float, rois_are_double: bool) -> float: ...
