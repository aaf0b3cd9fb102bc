/* Streams and events. Work is done at once, by the thread that submits it: torch_npu's own queue is what makes it
 * asynchronous. */
#include "fake.h"

#include "acl/acl.h"

#include <stdlib.h>
#include <time.h>

typedef struct {
    int id;
} Stream;

typedef struct {
    double recorded_ms;
} Event;

static int broken; /* the code that a kernel left behind; see fake_break_device */

void fake_break_device(int code) {
    broken = code;
}

static aclError synchronized(void) {
    return broken ? fake_failure(broken, "a kernel before this synchronisation failed on the device") : ACL_SUCCESS;
}

/* --------------------------------------------------------------------------------------------------------- streams */
aclError aclrtCreateStream(aclrtStream *stream) {
    static int next;
    Stream *made = malloc(sizeof *made);
    made->id = __atomic_add_fetch(&next, 1, __ATOMIC_SEQ_CST);
    *stream = made;
    return ACL_SUCCESS;
}

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flag) {
    return aclrtCreateStream(stream);
}

aclError aclrtDestroyStream(aclrtStream stream) {
    free(stream);
    return ACL_SUCCESS;
}

aclError aclrtDestroyStreamForce(aclrtStream stream) {
    return aclrtDestroyStream(stream);
}

aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode) {
    return ACL_SUCCESS;
}

aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag) {
    return ACL_SUCCESS;
}

aclError aclrtGetStreamOverflowSwitch(aclrtStream stream, uint32_t *flag) {
    *flag = 0;
    return ACL_SUCCESS;
}

aclError aclrtStreamGetId(aclrtStream stream, int32_t *id) {
    *id = stream ? ((Stream *)stream)->id : 0;
    return ACL_SUCCESS;
}

aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus *status) {
    *status = ACL_STREAM_STATUS_COMPLETE;
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeStream(aclrtStream stream) {
    return synchronized();
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) {
    return synchronized();
}

aclError aclrtSynchronizeDevice(void) {
    return synchronized();
}

aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) {
    return synchronized();
}

/* ---------------------------------------------------------------------------------------------------------- events */
aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag) {
    *event = calloc(1, sizeof(Event));
    return ACL_SUCCESS;
}

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flag) {
    return aclrtCreateEventWithFlag(event, flag);
}

aclError aclrtDestroyEvent(aclrtEvent event) {
    free(event);
    return ACL_SUCCESS;
}

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    ((Event *)event)->recorded_ms = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
    return ACL_SUCCESS;
}

aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end) {
    *ms = (float)(((Event *)end)->recorded_ms - ((Event *)start)->recorded_ms);
    return ACL_SUCCESS;
}

aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) {
    *status = ACL_EVENT_RECORDED_STATUS_COMPLETE;
    return ACL_SUCCESS;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus *status) {
    *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeEvent(aclrtEvent event) {
    return synchronized();
}

aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
    return ACL_SUCCESS;
}

aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) {
    return ACL_SUCCESS;
}
