// Larger pages of the operating system's, where it gives them on demand.
#pragma once

#include <cstddef>

namespace pythia_rt {

// A wish that the memory stands in pages of 2 MiB, as far as whole ones lie in it: what is read far
// and wide is faster to find in them. They are given, zeroed, when any of their bytes is first
// used.
void prefer_large_pages(std::byte* data, size_t bytes);

}  // namespace pythia_rt
