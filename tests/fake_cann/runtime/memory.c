/* Device memory: the host's, counted for each device, and filled with what nobody may rely on. */
#include "fake.h"

#include "acl/acl.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEVICES 64
#define ALIGNMENT 512 /* bytes */
#define PADDING 64
#define NOTHING 0xFF /* every byte of memory that nobody has written: NaN in each of the floating types */

typedef struct {
    size_t size;
    int device;
} Block; /* stands in front of the memory that it describes */

static size_t used[MAX_DEVICES];

static size_t capacity(void) {
    return (size_t)fake_number("MEMORY_MB", 4096) << 20;
}

static int slot(int device) {
    return device >= 0 && device < MAX_DEVICES ? device : 0;
}

aclError aclrtMalloc(void **pointer, size_t size, aclrtMemMallocPolicy policy) {
    int device = slot(fake_current_device());
    void *block;
    *pointer = NULL;
    if (__atomic_add_fetch(&used[device], size, __ATOMIC_SEQ_CST) > capacity() ||
        posix_memalign(&block, ALIGNMENT, ALIGNMENT + size + PADDING)) {
        __atomic_sub_fetch(&used[device], size, __ATOMIC_SEQ_CST);
        return fake_failure(ACL_ERROR_RT_MEMORY_ALLOCATION, "%zu bytes more than device %d has", size, device);
    }
    *(Block *)block = (Block){size, device};
    *pointer = (char *)block + ALIGNMENT;
    memset(*pointer, NOTHING, size);
    return ACL_SUCCESS;
}

aclError aclrtMallocAlign32(void **pointer, size_t size, aclrtMemMallocPolicy policy) {
    return aclrtMalloc(pointer, size, policy);
}

aclError aclrtFree(void *pointer) {
    Block *block = (Block *)((char *)pointer - ALIGNMENT);
    __atomic_sub_fetch(&used[block->device], block->size, __ATOMIC_SEQ_CST);
    free(block);
    return ACL_SUCCESS;
}

aclError aclrtGetMemInfo(aclrtMemAttr kind, size_t *free_bytes, size_t *total) {
    *total = capacity();
    *free_bytes = *total - used[slot(fake_current_device())];
    return ACL_SUCCESS;
}

/* ---------------------------------------------------------------------------------------- the host's pinned memory */
aclError aclrtMallocHost(void **pointer, size_t size) {
    return posix_memalign(pointer, ALIGNMENT, size ? size : 1);
}

aclError aclrtMallocHostWithCfg(void **pointer, uint64_t size, aclrtMallocConfig *config) {
    return aclrtMallocHost(pointer, size);
}

aclError aclrtFreeHost(void *pointer) {
    free(pointer);
    return ACL_SUCCESS;
}

/* ---------------------------------------------------------------------------------------------------------- copies */
aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t count, aclrtMemcpyKind kind) {
    if (count > room)
        return fake_failure(ACL_ERROR_RT_PARAM_INVALID, "a copy of %zu bytes into %zu", count, room);
    memcpy(to, from, count);
    return ACL_SUCCESS;
}

aclError aclrtMemcpyAsync(
    void *to, size_t room, const void *from, size_t count, aclrtMemcpyKind kind, aclrtStream stream) {
    return aclrtMemcpy(to, room, from, count, kind);
}

aclError aclrtMemset(void *pointer, size_t room, int32_t value, size_t count) {
    if (count > room)
        return fake_failure(ACL_ERROR_RT_PARAM_INVALID, "%zu bytes set in %zu", count, room);
    memset(pointer, value, count);
    return ACL_SUCCESS;
}

aclError aclrtMemsetAsync(void *pointer, size_t room, int32_t value, size_t count, aclrtStream stream) {
    return aclrtMemset(pointer, room, value, count);
}
