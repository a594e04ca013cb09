"""Tells PyTorch of the operators: importing this package loads the native libraries and registers what they lack."""

from roipool._ops import autograd, fake, load, out, vmap

fake.register()
vmap.register()
_autograd = autograd.register()
_out = out.register()

cuda_is_loaded = load.load_cuda_kernels()
if not cuda_is_loaded:
    _cuda = load.refuse_cuda_tensors(fake.FAKE_KERNELS)
