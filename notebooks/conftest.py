"""nbval starts its kernels as `make` does."""

import kernels
import nbval.kernel

nbval.kernel.KernelManager = kernels.Private
