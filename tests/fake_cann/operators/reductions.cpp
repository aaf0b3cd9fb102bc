// Operators that make one value of many, and normalisations, which begin with it.
#include "operator.h"

#include <numeric>

// ------------------------------------------------------------------------------------------------------- reductions
// aclnn takes no dimension for all of them.
static Integers dimensions(const Integers* named, In self) {
    if (named && !named->empty())
        return *named;
    Integers all(self->dim());
    std::iota(all.begin(), all.end(), 0);
    return all;
}

OPERATOR(aclnnMean, (In self, Integers* dims, bool keep, int dtype, Out out), {
    give(out, at::mean(*self, dimensions(dims, self), keep));
})
OPERATOR(aclnnReduceSum, (In self, Integers* dims, bool keep, int dtype, Out out), {
    give(out, at::sum(*self, dimensions(dims, self), keep, out->scalar_type()));
})
OPERATOR(aclnnAmax, (In self, Integers* dims, bool keep, Out out), {
    give(out, at::amax(*self, dimensions(dims, self), keep));
})
OPERATOR(aclnnAmin, (In self, Integers* dims, bool keep, Out out), {
    give(out, at::amin(*self, dimensions(dims, self), keep));
})
OPERATOR(aclnnMax, (In self, Out out), { give(out, self->max()); })
OPERATOR(aclnnMin, (In self, Out out), { give(out, self->min()); })
OPERATOR(aclnnMaxDim, (In self, int64_t dim, bool keep, Out values, Out indices), {
    auto [largest, where] = self->max(dim, keep);
    give(values, largest);
    give(indices, where);
})
OPERATOR(aclnnArgMax, (In self, int64_t dim, bool keep, Out out), { give(out, at::argmax(*self, dim, keep)); })
OPERATOR(aclnnTopk, (In self, int64_t count, int64_t dim, bool largest, bool sorted, Out values, Out indices), {
    auto [found, where] = self->topk(count, dim, largest, sorted);
    give(values, found);
    give(indices, where);
})
OPERATOR(aclnnSort, (In self, bool stable, int64_t dim, bool descending, Out values, Out indices), {
    auto [sorted, where] = self->sort(stable, dim, descending);
    give(values, sorted);
    give(indices, where);
})
OPERATOR(aclnnAll, (In self, Integers* dims, bool keep, Out out), {
    give(out, at::all(*self, dimensions(dims, self), keep));
})
OPERATOR(aclnnAny, (In self, Integers* dims, bool keep, Out out), {
    give(out, at::any(*self, dimensions(dims, self), keep));
})
OPERATOR(aclnnNorm, (In self, Scalar* p, Integers* dims, bool keep, Out out), {
    give(out, at::linalg_vector_norm(*self, p->value, dimensions(dims, self), keep));
})
OPERATOR(aclnnLinalgVectorNorm, (In self, Scalar* p, Integers* dims, bool keep, int dtype, Out out), {
    give(out, at::linalg_vector_norm(*self, p->value, dimensions(dims, self), keep));
})
OPERATOR(aclnnVarCorrection, (In self, Integers* dims, int64_t correction, bool keep, Out out), {
    give(out, at::var(*self, at::OptionalIntArrayRef(dimensions(dims, self)), correction, keep));
})
OPERATOR(aclnnStd, (In self, Integers* dims, int64_t correction, bool keep, Out out), {
    give(out, at::std(*self, at::OptionalIntArrayRef(dimensions(dims, self)), correction, keep));
})
OPERATOR(aclnnVarMean, (In self, Integers* dims, int64_t correction, bool keep, Out variance, Out mean), {
    auto [spread, centre] = at::var_mean(*self, at::OptionalIntArrayRef(dimensions(dims, self)), correction, keep);
    give(variance, spread);
    give(mean, centre);
})
OPERATOR(aclnnCumsum, (In self, int64_t dim, int dtype, Out out), {
    give(out, at::cumsum(*self, dim, out->scalar_type()));
})

// --------------------------------------------------------------------------------------------------- normalisations
OPERATOR(aclnnSoftmax, (In self, int64_t dim, Out out), { give(out, at::softmax(*self, dim)); })
OPERATOR(aclnnLogSoftmax, (In self, int64_t dim, Out out), { give(out, at::log_softmax(*self, dim)); })

// What training needs of it, the mean and the reciprocal of the deviation, is left as it is.
#define LAYER_NORM(NAME)                                                                                   \
    OPERATOR(NAME, (In self, Integers* shape, In weight, In bias, double eps, Out out, Out mean, Out rstd), { \
        give(out, at::layer_norm(*self, *shape, optional(weight), optional(bias), eps));                   \
    })

LAYER_NORM(aclnnLayerNorm)
LAYER_NORM(aclnnFastLayerNorm)

OPERATOR(aclnnBatchNorm,
         (In self, In weight, In bias, In mean, In variance, bool training, double momentum, double eps, Out out,
          Out saved_mean, Out saved_rstd), {
    give(out, std::get<0>(at::native_batch_norm(*self, optional(weight), optional(bias), optional(mean),
                                                optional(variance), training, momentum, eps)));
})
OPERATOR(aclnnGroupNorm,
         (In self, In weight, In bias, int64_t batch, int64_t channels, int64_t area, int64_t groups, double eps,
          Out out, Out mean, Out rstd), {
    give(out, at::group_norm(*self, groups, optional(weight), optional(bias), eps));
})
