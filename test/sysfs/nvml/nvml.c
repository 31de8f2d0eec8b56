// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// libnvidia-ml.so.1 as far as go-nvml, Railyard and nvcdi ask it for GPUs that are not there. It lists what stands in the file "gpus" two folders above it,
// a line a GPU: PCI address, UUID, minor number; and reports each line that is in the file "faults" there, UUID and XID, once.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10, MOST = 16, XID = 8 };

typedef struct { char bus[32]; char uuid[80]; unsigned minor; } gpu_t;
typedef struct { char busIdLegacy[16]; unsigned domain, bus, device, pciDeviceId, pciSubSystemId; char busId[32]; } pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { gpu_t *device; unsigned long long type, data; unsigned gi, ci; } event_t;

static gpu_t gpus[MOST];
static unsigned count;
static int told; // lines of faults

static FILE *file(const char *name) {
	Dl_info self;
	char path[4096];
	if (!dladdr(gpus, &self) || !realpath(self.dli_fname, path)) return NULL;
	char *dir = dirname(dirname(dirname(path)));
	char full[5000];
	snprintf(full, sizeof full, "%s/%s", dir, name);
	return fopen(full, "r");
}

int nvmlInit_v2(void) {
	FILE *f = file("gpus");
	if (!f) return 9; // the driver is not loaded
	for (count = 0; count < MOST && fscanf(f, "%31s %79s %u", gpus[count].bus, gpus[count].uuid, &gpus[count].minor) == 3; count++);
	fclose(f);
	return SUCCESS;
}
int nvmlInitWithFlags(unsigned flags) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return "simulated"; }
static int put(char *to, unsigned size, const char *text) { snprintf(to, size, "%s", text); return SUCCESS; }
int nvmlSystemGetDriverVersion(char *to, unsigned size) { return put(to, size, "999.99.99"); }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 13000; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, gpu_t **d) { if (i >= count) return INVALID; *d = &gpus[i]; return SUCCESS; }
int nvmlDeviceGetHandleByUUID(const char *uuid, gpu_t **d) {
	for (unsigned i = 0; i < count; i++) if (!strcmp(gpus[i].uuid, uuid)) { *d = &gpus[i]; return SUCCESS; }
	return NOT_FOUND;
}
int nvmlDeviceGetIndex(gpu_t *d, unsigned *i) { *i = d - gpus; return SUCCESS; }
int nvmlDeviceGetPciInfo_v3(gpu_t *d, pci_t *p) {
	memset(p, 0, sizeof *p);
	snprintf(p->busId, sizeof p->busId, "0000%s", d->bus);
	snprintf(p->busIdLegacy, sizeof p->busIdLegacy, "%.15s", d->bus);
	sscanf(d->bus, "%x:%x:%x", &p->domain, &p->bus, &p->device);
	p->pciDeviceId = 0x233010de;
	return SUCCESS;
}
int nvmlDeviceGetUUID(gpu_t *d, char *to, unsigned size) { return put(to, size, d->uuid); }
int nvmlDeviceGetName(gpu_t *d, char *to, unsigned size) { return put(to, size, "Simulated GPU"); }
int nvmlDeviceGetMinorNumber(gpu_t *d, unsigned *n) { *n = d->minor; return SUCCESS; }
int nvmlDeviceGetMemoryInfo(gpu_t *d, memory_t *m) { m->total = m->free = 80ull << 30; m->used = 0; return SUCCESS; }
int nvmlDeviceGetMigMode(gpu_t *d, unsigned *now, unsigned *next) { return NOT_SUPPORTED; }
int nvmlDeviceGetMaxMigDeviceCount(gpu_t *d, unsigned *n) { *n = 0; return SUCCESS; }
int nvmlDeviceIsMigDeviceHandle(gpu_t *d, unsigned *is) { *is = 0; return SUCCESS; }
int nvmlDeviceGetBrand(gpu_t *d, int *brand) { *brand = 0; return SUCCESS; }
int nvmlDeviceGetCudaComputeCapability(gpu_t *d, int *major, int *minor) { *major = 9; *minor = 0; return SUCCESS; }

int nvmlEventSetCreate(void **set) { *set = &told; return SUCCESS; }
int nvmlEventSetFree(void *set) { return SUCCESS; }
int nvmlDeviceRegisterEvents(gpu_t *d, unsigned long long types, void *set) { return SUCCESS; }
int nvmlEventSetWait_v2(void *set, event_t *e, unsigned millis) {
	FILE *f = file("faults");
	char uuid[80];
	unsigned long long xid;
	int line = 0, found = 0;
	while (f && fscanf(f, "%79s %llu", uuid, &xid) == 2 && !found) {
		if (line++ < told) continue;
		told++;
		found = nvmlDeviceGetHandleByUUID(uuid, &e->device) == SUCCESS;
		e->type = XID;
		e->data = xid;
		e->gi = e->ci = 0xffffffff;
	}
	if (f) fclose(f);
	if (found) return SUCCESS;
	usleep(millis * 1000);
	return TIMEOUT;
}
