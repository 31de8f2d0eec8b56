//go:build cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

// What we use of the CUDA driver API (cuda.h). It is loaded when it is asked for: few nodes have it, and nothing links it.
typedef int CUresult;
typedef int CUdevice;
typedef void *CUcontext;
typedef unsigned long long CUdeviceptr;

typedef struct {
	const char *call; // the one that failed
	int code;
	int attr[4];
	int fd;
	CUdevice device;
	CUdeviceptr memory;
	void *lib;
} export_t;

#define LOAD(name, ...) \
	CUresult (*name)(__VA_ARGS__) = (CUresult (*)(__VA_ARGS__))dlsym(e->lib, #name); \
	if (!name) { e->call = #name " is missing"; e->code = -1; return; }
#define CALL(name, ...) \
	if ((e->code = name(__VA_ARGS__)) != 0) { e->call = #name; return; }

static void export_memory(export_t *e, const char *file, const char *bus, size_t size) {
	static const int attributes[4] = {124, 116, 110, 117};
	e->fd = -1;
	if (!(e->lib = dlopen(file, RTLD_NOW | RTLD_LOCAL))) { e->call = "dlopen"; e->code = -1; return; }
	LOAD(cuInit, unsigned)
	LOAD(cuDeviceGetByPCIBusId, CUdevice *, const char *)
	LOAD(cuDeviceGetAttribute, int *, int, CUdevice)
	LOAD(cuDevicePrimaryCtxRetain, CUcontext *, CUdevice)
	LOAD(cuCtxSetCurrent, CUcontext)
	LOAD(cuMemAlloc_v2, CUdeviceptr *, size_t)
	LOAD(cuMemGetHandleForAddressRange, void *, CUdeviceptr, size_t, int, unsigned long long)
	CUcontext ctx;
	CALL(cuInit, 0)
	CALL(cuDeviceGetByPCIBusId, &e->device, bus)
	for (int i = 0; i < 4; i++) {
		if (cuDeviceGetAttribute(&e->attr[i], attributes[i], e->device) != 0) e->attr[i] = -1;
	}
	CALL(cuDevicePrimaryCtxRetain, &ctx, e->device)
	CALL(cuCtxSetCurrent, ctx)
	CALL(cuMemAlloc_v2, &e->memory, size)
	CALL(cuMemGetHandleForAddressRange, &e->fd, e->memory, size, 1, 0) // CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
}

// release gives back what export_memory took. The library stays loaded: it does not bear to be unloaded with its threads running.
static void release_memory(export_t *e) {
	if (!e->lib) return;
	CUresult (*mem_free)(CUdeviceptr) = (CUresult (*)(CUdeviceptr))dlsym(e->lib, "cuMemFree_v2");
	CUresult (*ctx_release)(CUdevice) = (CUresult (*)(CUdevice))dlsym(e->lib, "cuDevicePrimaryCtxRelease_v2");
	if (mem_free && e->memory) {
		mem_free(e->memory);
		if (ctx_release) ctx_release(e->device);
	}
}
*/
import "C"

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/rdma"
)

// ExportDMABuf allocates memory of a GPU and has the CUDA driver below root export it as a dma-buf, which is the GPU's half of GPUDirect RDMA; all is given back
// before it returns. It starts CUDA in this process, which takes some hundred megabytes of the GPU's memory as long as the process lives: it is for a
// probe. An ErrNotReady says that there is no CUDA driver.
func ExportDMABuf(root string, addr rdma.BusAddr, size int) (DMABuf, error) {
	file := findLibrary(root, "libcuda.so.1")
	if file == "" {
		return DMABuf{}, ErrNotReady
	}
	runtime.LockOSThread() // a context is a thread's
	defer runtime.UnlockOSThread()
	cFile, cBus := C.CString(file), C.CString(string(addr))
	defer C.free(unsafe.Pointer(cFile))
	defer C.free(unsafe.Pointer(cBus))
	var e C.export_t
	C.export_memory(&e, cFile, cBus, C.size_t(size))
	defer C.release_memory(&e)
	b := DMABuf{Supported: int(e.attr[0]), GPUDirect: int(e.attr[1]), VMM: int(e.attr[2]), FlushWrites: int(e.attr[3])}
	if e.call != nil {
		return b, fmt.Errorf("export memory of the GPU at %s: %s: CUDA error %d", addr, C.GoString(e.call), int(e.code))
	}
	defer unix.Close(int(e.fd))
	// The kernel's own description (dma_buf_show_fdinfo in drivers/dma-buf/dma-buf.c).
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", int(e.fd)))
	if err != nil {
		return b, err
	}
	for line := range bytes.Lines(info) {
		key, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		switch value = bytes.TrimSpace(value); string(key) {
		case "exp_name":
			b.Exporter = string(value)
		case "size":
			if b.Size, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return b, fmt.Errorf("the size of a dma-buf is %.32q: %w", value, err)
			}
		}
	}
	return b, nil
}
