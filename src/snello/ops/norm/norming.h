// Root-mean-square norm, row by row, so that threads can share the rows. Knows nothing of who calls.
#pragma once

namespace snello {

using NormRow = void (*)(const float* x, const float* weight, float eps, long size, float* out);

NormRow choose_norm();

}  // namespace snello
