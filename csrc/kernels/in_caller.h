// PYTHIA_RT_IN_CALLER: a loop over sums that its caller keeps in registers, which only works as
// part of the caller. Clang finds such loops too large for that unless it is told: the sums were
// memory then, and products half as fast. GCC puts them there by itself, later, which suits its
// registers.
#pragma once

#ifdef __clang__
#define PYTHIA_RT_IN_CALLER [[gnu::always_inline]]
#else
#define PYTHIA_RT_IN_CALLER
#endif
