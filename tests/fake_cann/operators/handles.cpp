// aclnn's handles, made and destroyed, and the one place where operators run.
#include "operator.h"

#include <c10/core/InferenceMode.h>

static at::ScalarType dtype_of(int acl_dtype) {
    switch (acl_dtype) {  // aclDataType
        case 0: return at::kFloat;
        case 1: return at::kHalf;
        case 2: return at::kChar;
        case 3: return at::kInt;
        case 4: return at::kByte;
        case 6: return at::kShort;
        case 9: return at::kLong;
        case 11: return at::kDouble;
        case 12: return at::kBool;
        case 27: return at::kBFloat16;
        default: TORCH_CHECK(false, "the fake CANN has no aclDataType ", acl_dtype);
    }
}

int execute(Executor* executor) {
    std::unique_ptr<Executor> owned(executor);
    if (int code = fake_launch(owned->name))
        return code;
    try {
        c10::InferenceMode without_autograd;
        owned->body();
        return 0;
    } catch (const std::exception& error) {
        return fake_failure(561000, "%s: %s", owned->name, error.what());
    }
}

extern "C" {

at::Tensor* aclCreateTensor(const int64_t* sizes, uint64_t dimensions, int dtype, const int64_t* strides,
                            int64_t offset, int format, const int64_t* storage_sizes, uint64_t storage_dimensions,
                            void* data) {
    auto type = dtype_of(dtype);
    auto* first = static_cast<char*>(data) + (data ? offset * c10::elementSize(type) : 0);
    return new at::Tensor(at::from_blob(first, {sizes, dimensions}, {strides, dimensions}, type));
}

Scalar* aclCreateScalar(void* value, int dtype) {
    auto type = dtype_of(dtype);
    return new Scalar{at::from_blob(value, {}, type).item()};
}

Integers* aclCreateIntArray(const int64_t* values, uint64_t count) {
    return new Integers(values, values + count);
}

std::vector<bool>* aclCreateBoolArray(const bool* values, uint64_t count) {
    return new std::vector<bool>(values, values + count);
}

std::vector<float>* aclCreateFloatArray(const float* values, uint64_t count) {
    return new std::vector<float>(values, values + count);
}

Tensors* aclCreateTensorList(const at::Tensor* const* tensors, uint64_t count) {
    return new Tensors(tensors, tensors + count);
}

int aclDestroyTensor(const at::Tensor* tensor) {
    delete tensor;
    return 0;
}

int aclDestroyScalar(const Scalar* scalar) {
    delete scalar;
    return 0;
}

int aclDestroyIntArray(const Integers* array) {
    delete array;
    return 0;
}

int aclDestroyBoolArray(const std::vector<bool>* array) {
    delete array;
    return 0;
}

int aclDestroyFloatArray(const std::vector<float>* array) {
    delete array;
    return 0;
}

int aclDestroyTensorList(const Tensors* list) {
    for (auto* tensor : *list)
        delete tensor;
    delete list;
    return 0;
}

int aclnnInit(const char*) {
    return 0;
}

int aclnnFinalize() {
    return 0;
}

}  // extern "C"
