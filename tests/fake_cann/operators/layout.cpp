// Operators that fill, copy, move, join and pick elements, and compute nothing.
#include "operator.h"

#include <ATen/CPUGeneratorImpl.h>


// ---------------------------------------------------------------------------------------------------------- filling
OPERATOR(aclnnInplaceZero, (Out self), { self->zero_(); })
OPERATOR(aclnnInplaceOne, (Out self), { self->fill_(1); })
OPERATOR(aclnnInplaceFillScalar, (Out self, Scalar* value), { self->fill_(value->value); })
OPERATOR(aclnnInplaceFillTensor, (Out self, In value), { self->fill_(*value); })
OPERATOR(aclnnEye, (int64_t rows, int64_t columns, Out out), { give(out, at::eye(rows, columns, out->options())); })
OPERATOR(aclnnArange, (Scalar* start, Scalar* end, Scalar* step, Out out), {
    give(out, at::arange(start->value, end->value, step->value, out->options()));
})
OPERATOR(aclnnLinspace, (Scalar* start, Scalar* end, int64_t steps, Out out), {
    give(out, at::linspace(start->value, end->value, steps, out->options()));
})
OPERATOR(aclnnInplaceNormal, (Out self, float mean, float deviation, int64_t seed, int64_t offset), {
    self->normal_(mean, deviation, at::make_generator<at::CPUGeneratorImpl>(seed + offset));
})
OPERATOR(aclnnInplaceUniform, (Out self, double from, double to, int64_t seed, int64_t offset), {
    self->uniform_(from, to, at::make_generator<at::CPUGeneratorImpl>(seed + offset));
})

// ---------------------------------------------------------------------------------------------------------- copying
OPERATOR(aclnnInplaceCopy, (Out self, In source), { self->copy_(*source); })
OPERATOR(aclnnCast, (In self, int dtype, Out out), { give(out, *self); })
OPERATOR(aclnnRepeat, (In self, Integers* times, Out out), { give(out, self->repeat(*times)); })
OPERATOR(aclnnPermute, (In self, Integers* dims, Out out), { give(out, self->permute(*dims)); })
OPERATOR(aclnnRoll, (In self, Integers* shifts, Integers* dims, Out out), {
    give(out, at::roll(*self, *shifts, *dims));
})
OPERATOR(aclnnFlip, (In self, Integers* dims, Out out), { give(out, at::flip(*self, *dims)); })
OPERATOR(aclnnTriu, (In self, int64_t diagonal, Out out), { give(out, at::triu(*self, diagonal)); })
OPERATOR(aclnnTril, (In self, int64_t diagonal, Out out), { give(out, at::tril(*self, diagonal)); })
OPERATOR(aclnnInplaceTriu, (Out self, int64_t diagonal), { self->triu_(diagonal); })

// ----------------------------------------------------------------------------------------------- joining and padding
static std::vector<at::Tensor> values_of(const Tensors* list) {
    std::vector<at::Tensor> values;
    for (auto* tensor : *list)
        values.push_back(*tensor);
    return values;
}

OPERATOR(aclnnCat, (Tensors* list, int64_t dim, Out out), { give(out, at::cat(values_of(list), dim)); })
OPERATOR(aclnnStack, (Tensors* list, int64_t dim, Out out), { give(out, at::stack(values_of(list), dim)); })
OPERATOR(aclnnConstantPadNd, (In self, Integers* padding, Scalar* value, Out out), {
    give(out, at::constant_pad_nd(*self, *padding, value->value));
})
OPERATOR(aclnnReflectionPad2d, (In self, Integers* padding, Out out), {
    give(out, at::reflection_pad2d(*self, *padding));
})
OPERATOR(aclnnIm2col,
         (In self, Integers* kernel, Integers* dilation, Integers* padding, Integers* stride, Out out), {
    give(out, at::im2col(*self, *kernel, *dilation, *padding, *stride));
})
OPERATOR(aclnnIm2colBackward,
         (In self, Integers* size, Integers* kernel, Integers* dilation, Integers* padding, Integers* stride,
          Out out), {
    give(out, at::col2im(*self, *size, *kernel, *dilation, *padding, *stride));
})

// ----------------------------------------------------------------------------------------------------------- picking
// A tensor without elements stands for a dimension that is taken whole.
static c10::List<std::optional<at::Tensor>> indices_of(const Tensors* list) {
    c10::List<std::optional<at::Tensor>> indices;
    for (auto* tensor : *list)
        indices.push_back(tensor && tensor->numel() ? optional(tensor) : std::nullopt);
    return indices;
}

OPERATOR(aclnnIndex, (In self, Tensors* indices, Out out), { give(out, at::index(*self, indices_of(indices))); })
OPERATOR(aclnnIndexPutImpl, (Out self, Tensors* indices, In values, bool accumulate, bool unsafe), {
    self->index_put_(indices_of(indices), *values, accumulate);
})
OPERATOR(aclnnInplaceScatterValue, (Out self, int64_t dim, In index, Scalar* value, int64_t reduction), {
    TORCH_CHECK(reduction == 0, "a scatter that reduces");
    self->scatter_(dim, *index, value->value);
})
OPERATOR(aclnnIndexSelect, (In self, int64_t dim, In index, Out out), {
    give(out, at::index_select(*self, dim, *index));
})
OPERATOR(aclnnGather, (In self, int64_t dim, In index, Out out), { give(out, at::gather(*self, dim, *index)); })
OPERATOR(aclnnEmbedding, (In weight, In indices, Out out), { give(out, at::embedding(*weight, *indices)); })
