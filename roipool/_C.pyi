compiler: str
built_with_torch: str
cuda_version: str | None
cuda_architectures: list[str]

def simd_level() -> str: ...
