// The ways in which processors restore weights, for the codec and for remainders alike.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")))
#define MIDDLE __attribute__((target("avx2,bmi,bmi2,popcnt")))
#else
#define X86 0
#endif

namespace {

// The fastest way of this processor: 2 AVX-512, 1 AVX2 and BMI2, 0 plain.
inline int best_way() {
#if X86
  if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return 1;
#endif
  return 0;
}

}  // namespace
