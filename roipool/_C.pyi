compiler: str
built_with_torch: str
cpu_capability: str
cuda_version: str | None
cuda_architectures: list[str]
