/* Devices: how many there are, what they are called, and which one a thread uses. */
#include "fake.h"

#include "acl/acl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION "8.5.0.simulated" /* torch_npu hands it on; it refuses a chip's name that it does not know */

static const int CORES = 20;

static __thread int device_of_thread = -1;
static __thread char recent_failure[512] = "";

int fake_failure(int code, const char *format, ...) {
    int length = snprintf(recent_failure, sizeof recent_failure, "EZ9999: [fake CANN] ");
    va_list values;
    va_start(values, format);
    vsnprintf(recent_failure + length, sizeof recent_failure - length, format, values);
    va_end(values);
    return code;
}

const char *aclGetRecentErrMsg() {
    return recent_failure;
}

aclError aclInit(const char *config) {
    int code = fake_number("FAIL_INIT", 0);
    return code ? fake_failure(code, "aclInit was told to fail") : ACL_SUCCESS;
}

aclError aclFinalize() {
    return ACL_SUCCESS;
}

/* Devices that ASCEND_RT_VISIBLE_DEVICES leaves of `there`. A list that does not ascend leaves none. */
static int visible_devices(int there) {
    const char *at = getenv("ASCEND_RT_VISIBLE_DEVICES");
    if (!at)
        return there;
    int count = 0;
    for (long last = -1; *at;) {
        char *end;
        long device = strtol(at, &end, 10);
        if (end == at || device <= last || device >= there)
            return device <= last ? 0 : count;
        last = device;
        count++;
        at = *end == ',' ? end + 1 : end;
        if (*end && *end != ',')
            break;
    }
    return count;
}

aclError aclrtGetDeviceCount(uint32_t *count) {
    *count = 0;
    int code = fake_number("FAIL_DEVICE_COUNT", 0);
    if (code)
        return fake_failure(code, "aclrtGetDeviceCount was told to fail");
    *count = visible_devices(fake_number("DEVICES", 1));
    return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
    uint32_t count;
    int code = fake_number("FAIL_SET_DEVICE", 0);
    if (code)
        return fake_failure(code, "aclrtSetDevice was told to fail");
    if (aclrtGetDeviceCount(&count) || device < 0 || device >= (int)count)
        return fake_failure(ACL_ERROR_RT_INVALID_DEVICEID, "there is no device %d", device);
    device_of_thread = device;
    return ACL_SUCCESS;
}

int fake_current_device(void) {
    return device_of_thread;
}

aclError aclrtGetDevice(int32_t *device) {
    if (device_of_thread < 0)
        return ACL_ERROR_RT_CONTEXT_NULL;
    *device = device_of_thread;
    return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t device) {
    return ACL_SUCCESS;
}

/* A context is its device's number, counted from one: NULL is none. */
aclError aclrtGetCurrentContext(aclrtContext *context) {
    if (device_of_thread < 0)
        return ACL_ERROR_RT_CONTEXT_NULL;
    *context = (aclrtContext)(intptr_t)(device_of_thread + 1);
    return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    device_of_thread = (int)(intptr_t)context - 1;
    return ACL_SUCCESS;
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
    if (flags)
        *flags = 0;
    *active = device == device_of_thread;
    return ACL_SUCCESS;
}

aclError aclrtGetLogicDevIdByUserDevId(const int32_t user_device, int32_t *const logic_device) {
    *logic_device = user_device;
    return ACL_SUCCESS;
}

const char *aclrtGetSocName() {
    const char *name = fake_text("SOC");
    return name ? name : "Ascend910B4";
}

aclError aclsysGetCANNVersion(aclCANNPackageName package, aclCANNPackageVersion *version) {
    memset(version, 0, sizeof *version);
    strcpy(version->version, VERSION);
    return ACL_SUCCESS;
}

aclError aclsysGetVersionStr(char *package, char *version) {
    strcpy(version, VERSION);
    return ACL_SUCCESS;
}

aclError aclGetCannAttribute(aclCannAttr attribute, int32_t *value) {
    *value = 0;
    return ACL_SUCCESS;
}

aclError aclrtGetDeviceInfo(uint32_t device, aclrtDevAttr attribute, int64_t *value) {
    *value = CORES;
    return ACL_SUCCESS;
}

aclError aclrtGetDeviceResLimit(int32_t device, aclrtDevResLimitType type, uint32_t *value) {
    *value = CORES;
    return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t *can_access, int32_t device, int32_t peer) {
    *can_access = 0;
    return ACL_SUCCESS;
}

aclError aclrtGetLastError(aclrtLastErrLevel level) {
    return ACL_SUCCESS;
}

aclError aclrtPeekAtLastError(aclrtLastErrLevel level) {
    return ACL_SUCCESS;
}

aclError aclGetDeviceCapability(uint32_t device, aclDeviceInfo kind, int64_t *value) {
    *value = CORES;
    return ACL_SUCCESS;
}

/* ------------------------------------------------------------------------------- settings that change nothing here */
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) {
    return ACL_SUCCESS;
}

aclError aclrtSetOpExecuteTimeOut(uint32_t seconds) {
    return ACL_SUCCESS;
}

aclError aclrtSetOpWaitTimeout(uint32_t seconds) {
    return ACL_SUCCESS;
}

aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) {
    return ACL_SUCCESS;
}

aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) {
    return ACL_SUCCESS;
}

aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t *value) {
    *value = 0;
    return ACL_SUCCESS;
}

void aclAppLog(aclLogLevel level, const char *function, const char *file, uint32_t line, const char *format, ...) {}
