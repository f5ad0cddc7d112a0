/* The calls of the CUDA driver that Tailcut makes, over files in the place of device memory: a handle is the name of a
 * file. Like the driver, they refuse what is not there, copies past an allocation, and calls without a context. */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICES 2
#define MOST 16

typedef struct { unsigned char name[64]; } Handle;

static struct { uint64_t address; size_t size; } memory[MOST];
static int retained[DEVICES];
static _Thread_local int depth;
static int initialised;

int cuInit(unsigned flags) { initialised = 1; return flags ? 1 : 0; }

int cuGetErrorName(int code, const char **name) {
    *name = code == 1 ? "CUDA_ERROR_INVALID_VALUE" : code == 101 ? "CUDA_ERROR_INVALID_DEVICE" : "CUDA_ERROR_INVALID_HANDLE";
    return 0;
}

int cuDeviceGet(int *device, int index) {
    if (!initialised) return 3;
    if (index < 0 || index >= DEVICES) return 101;
    *device = index;
    return 0;
}

int cuDeviceGetPCIBusId(char *text, int size, int device) {
    const char *bus = device ? "0000:AF:00.0" : "0000:3B:00.0";
    if (size < 13) return 1;
    strcpy(text, bus);
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &retained[device]; retained[device]++; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return retained[device]-- > 0 ? 0 : 201; }
int cuCtxPushCurrent_v2(void *context) { depth++; return context ? 0 : 201; }
int cuCtxPopCurrent_v2(void **context) { *context = 0; return depth-- > 0 ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = memory; return depth && flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *stream) { return depth && stream == memory ? 0 : 400; }
int cuStreamDestroy_v2(void *stream) { return depth && stream == memory ? 0 : 400; }

static int place_of(uint64_t address, size_t size) {
    for (int at = 0; at < MOST; at++)
        if (memory[at].size && address >= memory[at].address && address + size <= memory[at].address + memory[at].size)
            return at;
    return -1;
}

int cuIpcOpenMemHandle_v2(uint64_t *address, Handle handle, unsigned flags) {
    struct stat status;
    int at = 0, file = handle.name[63] || !depth || flags != 1 ? -1 : open((char *)handle.name, O_RDWR);
    while (at < MOST && memory[at].size) at++;
    if (file < 0 || at == MOST || fstat(file, &status)) return 400;
    void *mapped = mmap(0, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return 400;
    memory[at].address = *address = (uint64_t)mapped;
    memory[at].size = status.st_size;
    return 0;
}

int cuMemGetAddressRange_v2(uint64_t *base, size_t *size, uint64_t address) {
    int at = place_of(address, 1);
    if (at < 0 || !depth) return 1;
    *base = memory[at].address;
    *size = memory[at].size;
    return 0;
}

int cuIpcCloseMemHandle(uint64_t address) {
    int at = place_of(address, 1);
    if (at < 0 || !depth || address != memory[at].address) return 1;
    munmap((void *)address, memory[at].size);
    memory[at].size = 0;
    return 0;
}

int cuMemcpyDtoHAsync_v2(void *host, uint64_t device, size_t size, void *stream) {
    if (!depth || place_of(device, size) < 0 || stream != memory) return 1;
    memcpy(host, (void *)device, size);
    return 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t device, const void *host, size_t size, void *stream) {
    if (!depth || place_of(device, size) < 0 || stream != memory) return 1;
    memcpy((void *)device, host, size);
    return 0;
}

/* For tests: allocations that are open, contexts that are retained. */
int tailcut_open(void) {
    int count = 0;
    for (int at = 0; at < MOST; at++) count += memory[at].size > 0;
    return count;
}
int tailcut_retained(void) { return retained[0] + retained[1]; }
