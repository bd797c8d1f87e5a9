// Launches of kernels that are C++ functions.
#pragma once

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>

#include "cuda/runtime.h"
#include "emulator/scheduler.h"

namespace pythia_rt::cuda::emulator {

// Does `work` now, or keeps it for the recording that is under way.
void queue(Stream stream, std::function<void()> work);

// Arguments are converted and copied once, as a launch on a device does.
template <typename... Parameters, typename... Arguments>
void launch(dim3 grid, dim3 threads, Stream stream, void (*kernel)(Parameters...),
            Arguments... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...),
                "a device gets the bytes of a kernel's arguments alone");
  static_assert((sizeof(Parameters) + ... + size_t{0}) <= 4096,
                "there is no room for so large arguments");
  auto call = std::make_tuple(kernel, static_cast<Parameters>(arguments)...);
  queue(stream, [grid, threads, call] {
    run(
        grid, threads,
        [](const void* given) {
          std::apply([](auto function, auto... values) { function(values...); },
                     *static_cast<const decltype(call)*>(given));
        },
        &call);
  });
}

}  // namespace pythia_rt::cuda::emulator
