// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

// DMABuf is a piece of a GPU's memory that was exported for other devices, as the kernel describes it, and what the driver says of itself.
type DMABuf struct {
	Exporter string `json:"exporter"` // exp_name of the descriptor: nv_dmabuf
	Size     int64  `json:"size"`     // bytes
	// What the CUDA driver answers for the GPU (CUdevice_attribute): DMA_BUF_SUPPORTED, GPU_DIRECT_RDMA_SUPPORTED, GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
	// GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS; -1: it does not know.
	Supported, GPUDirect, VMM, FlushWrites int
}
