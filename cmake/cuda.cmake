# THE list of CUDA architectures, and how the CUDA backend is built: AUTO where nvcc is found.
#
# The runtime is linked statically, so one binary also imports where there is no driver. nvcc comes
# from a system toolkit or from wheels (docs/cuda.md); CUDACXX names another one.
set(PYTHIA_RT_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set_property(CACHE PYTHIA_RT_CUDA PROPERTY STRINGS AUTO ON OFF)
set(PYTHIA_RT_CUDA_ARCHITECTURES 75 80 86 89 90 100 120
    CACHE STRING "Compute capabilities to compile for, times ten, and PTX of the newest")
# Rounded as on the CPU: nothing is contracted, divisions and roots are exact. Fallbacks by
# architecture are in the kernels.
set(PYTHIA_RT_CUDA_FLAGS -fmad=false --expt-relaxed-constexpr -Xcompiler=-fno-strict-aliasing
    -Xfatbin=-compress-all)

set(PYTHIA_RT_HAS_CUDA OFF)
if(NOT PYTHIA_RT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "PYTHIA_RT_CUDA must be AUTO, ON or OFF, not ${PYTHIA_RT_CUDA}")
endif()
if(NOT PYTHIA_RT_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  set(CMAKE_CUDA_ARCHITECTURES 75)  # for the check alone: the default may be unknown to nvcc
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(PYTHIA_RT_HAS_CUDA ON)
  elseif(PYTHIA_RT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PYTHIA_RT_CUDA is ON and no working nvcc was found: install a CUDA "
                        "toolkit, or set CUDACXX to its nvcc")
  endif()
endif()

# Makes `target` contain the CUDA backend instead of its absence.
function(pythia_rt_add_cuda target)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE known)
  set(architectures)
  foreach(architecture IN LISTS PYTHIA_RT_CUDA_ARCHITECTURES)
    if(known MATCHES "sm_${architecture}[ \r\n]")
      list(APPEND architectures ${architecture}-real)
      set(newest ${architecture})
    endif()
  endforeach()
  if(NOT architectures)
    message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} compiles for none of the architectures "
                        "${PYTHIA_RT_CUDA_ARCHITECTURES}; it knows\n${known}")
  endif()
  # PTX for devices between these, and for what comes after them.
  list(APPEND architectures 80-virtual ${newest}-virtual)
  file(GLOB sources CONFIGURE_DEPENDS csrc/cuda/*.cu csrc/cuda/kernels/*.cu csrc/cuda/*.cc)
  list(FILTER sources EXCLUDE REGEX "/absent\\.cc$")
  target_sources(${target} PRIVATE ${sources})
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${PYTHIA_RT_CUDA_FLAGS}>")
  set_target_properties(${target} PROPERTIES
    CUDA_ARCHITECTURES "${architectures}" CUDA_RUNTIME_LIBRARY Static CUDA_STANDARD 17
    CUDA_VISIBILITY_PRESET hidden CUDA_SEPARABLE_COMPILATION OFF)
  message(STATUS "CUDA backend: ${architectures}")
endfunction()
