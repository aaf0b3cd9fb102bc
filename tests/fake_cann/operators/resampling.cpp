// Pooling and resizing.
#include "operator.h"

OPERATOR(aclnnAdaptiveAvgPool2d, (In self, Integers* size, Out out), {
    give(out, at::adaptive_avg_pool2d(*self, *size));
})
OPERATOR(aclnnAvgPool2d,
         (In self, Integers* kernel, Integers* stride, Integers* padding, bool ceil_mode, bool count_padding,
          int64_t divisor, int8_t cube_math_type, Out out), {
    give(out, at::avg_pool2d(*self, *kernel, *stride, *padding, ceil_mode, count_padding,
                             divisor ? std::optional<int64_t>(divisor) : std::nullopt));
})
// The indices, which only training needs, are left as they are.
OPERATOR(aclnnMaxPool2dWithIndices,
         (In self, Integers* kernel, Integers* stride, Integers* padding, Integers* dilation, bool ceil_mode, Out out,
          Out indices), {
    give(out, at::max_pool2d(*self, *kernel, *stride, *padding, *dilation, ceil_mode));
})
OPERATOR(aclnnMaxPool2dWithMask,
         (In self, Integers* kernel, Integers* stride, Integers* padding, Integers* dilation, bool ceil_mode, Out out,
          Out mask), {
    give(out, at::max_pool2d(*self, *kernel, *stride, *padding, *dilation, ceil_mode));
})

static std::optional<double> given(double scale) {
    return scale > 0 ? std::optional<double>(scale) : std::nullopt;
}

#define RESIZING(NAME, FUNCTION)                                                                         \
    OPERATOR(NAME, (In self, Integers* size, bool align_corners, double scale_h, double scale_w, Out out), { \
        give(out, at::FUNCTION(*self, *size, align_corners, given(scale_h), given(scale_w)));            \
    })

RESIZING(aclnnUpsampleBilinear2d, upsample_bilinear2d)
RESIZING(aclnnUpsampleBicubic2d, upsample_bicubic2d)
RESIZING(aclnnUpsampleBilinear2dAA, _upsample_bilinear2d_aa)
RESIZING(aclnnUpsampleBicubic2dAA, _upsample_bicubic2d_aa)
OPERATOR(aclnnUpsampleNearest2d, (In self, Integers* size, Out out), {
    give(out, at::upsample_nearest2d(*self, *size));
})
OPERATOR(aclnnUpsampleNearestExact2d, (In self, Integers* size, double scale_h, double scale_w, Out out), {
    give(out, at::_upsample_nearest_exact2d(*self, *size, given(scale_h), given(scale_w)));
})
OPERATOR(aclnnUpsampleLinear1d, (In self, Integers* size, bool align_corners, double scale, Out out), {
    give(out, at::upsample_linear1d(*self, *size, align_corners, given(scale)));
})
