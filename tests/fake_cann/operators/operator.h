// How an operator of aclnn is written here: its name, its parameters, and what it does to torch tensors on the host.
//
// aclnn calls an operator in two steps: aclnnXGetWorkspaceSize takes the parameters and gives an executor, aclnnX runs
// it. OPERATOR makes both from one body.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "../runtime/fake.h"

// ------------------------------------------------------------------------------------------------- aclnn's handles
// What they point to is our own affair: only handles.cpp makes them, and torch_npu does not look inside.
using In = const at::Tensor*;    // null for one that is left out
using Out = const at::Tensor*;   // a view of the device's memory, which the operator fills
struct Scalar {
    at::Scalar value;
};
using Integers = std::vector<int64_t>;
using Tensors = std::vector<const at::Tensor*>;

inline std::optional<at::Tensor> optional(In tensor) {
    return tensor ? std::optional<at::Tensor>(*tensor) : std::nullopt;
}

inline std::optional<at::Scalar> optional(const Scalar* scalar) {
    return scalar ? std::optional<at::Scalar>(scalar->value) : std::nullopt;
}

// Fill `out`, which may be of another dtype but not of another number of elements.
inline void give(Out out, const at::Tensor& result) {
    TORCH_CHECK(out->numel() == result.numel(), "a result of ", result.sizes(), " for a tensor of ", out->sizes());
    out->copy_(result.reshape(out->sizes()));
}

// -------------------------------------------------------------------------------------------------------- operators
struct Executor {
    const char* name;
    std::function<void()> body;
};

// Run an operator once, as the knobs say, and give aclnn's code: 0, or why it failed.
int execute(Executor* executor);

#define WITH_EXECUTOR(...) (__VA_ARGS__, uint64_t* workspace_size, Executor** executor)

// The symbol of the first step is an indirect function: the loader asks NAME_resolve for its address, and does not get
// one where FAKE_CANN_LACKS lists the operator. So a CANN without it takes no other build.
#define OPERATOR(NAME, PARAMETERS, ...)                                              \
    static int NAME##_prepare WITH_EXECUTOR PARAMETERS {                             \
        *workspace_size = 0;                                                         \
        *executor = new Executor{#NAME, [=] __VA_ARGS__};                            \
        return 0;                                                                    \
    }                                                                                \
    extern "C" decltype(&NAME##_prepare) NAME##_resolve() {                          \
        return fake_lists("LACKS", #NAME) ? nullptr : &NAME##_prepare;               \
    }                                                                                \
    extern "C" int NAME##GetWorkspaceSize WITH_EXECUTOR PARAMETERS                   \
        __attribute__((ifunc(#NAME "_resolve")));                                    \
    extern "C" int NAME(void*, uint64_t, Executor* executor, void*) {                \
        return execute(executor);                                                    \
    }
