# THE list of ISAs, best first: name | processor | CPU features needed | compile flags.
# Features are those of csrc/base/cpu_features.h; each name has its header csrc/simd/<name>.h.
set(aarch64_isas
    "i8mm|aarch64|kDotprod kI8mm|-march=armv8.2-a+dotprod+i8mm"
    "neon|aarch64|kDotprod|-march=armv8.2-a+dotprod")
# No gain by i8mm is known on Apple's cores: there it is used where it is asked for.
if(APPLE)
  list(REVERSE aarch64_isas)
endif()
set(PYTHIA_RT_ALL_ISAS
    "amx|x86_64|kAvx512f kAvx512bw kAvx512vl kAvx512vnni kAvx2 kFma kF16c kAmxInt8|-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mamx-tile -mamx-int8"
    "avx512|x86_64|kAvx512f kAvx512bw kAvx512vl kAvx512vnni kAvx2 kFma kF16c|-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512vnni"
    "avxvnni|x86_64|kAvxVnni kAvx2 kFma kF16c|-mavx2 -mfma -mf16c -mavxvnni"
    "avx2|x86_64|kAvx2 kFma kF16c|-mavx2 -mfma -mf16c"
    ${aarch64_isas}
    "scalar|any|kAny|")
set(PYTHIA_RT_ONLY_ISAS "" CACHE STRING
    "Names of the ISAs to build, beside scalar, which is always there; empty for all")
option(PYTHIA_RT_AVXVNNI_AS_EVEX
       "For tests alone: avxvnni in the encoding of AVX-512 VNNI, for processors that have that only"
       OFF)
if(PYTHIA_RT_AVXVNNI_AS_EVEX)
  list(TRANSFORM PYTHIA_RT_ALL_ISAS REPLACE "kAvxVnni" "kAvx512vl kAvx512vnni")
  add_compile_definitions(PYTHIA_RT_AVXVNNI_AS_EVEX)
endif()

# Finds the ISAs of this processor whose flags the compiler knows, and writes isas.inc, the list for
# C++. Sets PYTHIA_RT_ISAS (names) and PYTHIA_RT_ISA_FLAGS_<name>.
include(CheckCXXCompilerFlag)
function(pythia_rt_generate_isas folder)
  string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
  string(REGEX REPLACE "^(amd64|x64)$" "x86_64" processor "${processor}")
  string(REGEX REPLACE "^arm64$" "aarch64" processor "${processor}")
  set(list "")
  foreach(entry IN LISTS PYTHIA_RT_ALL_ISAS)
    string(REPLACE "|" ";" fields "${entry};")
    list(GET fields 0 name)
    list(GET fields 1 wanted)
    list(GET fields 2 features)
    list(GET fields 3 flags)
    if(NOT wanted STREQUAL "any" AND NOT wanted STREQUAL processor)
      continue()
    endif()
    if(PYTHIA_RT_ONLY_ISAS AND NOT name IN_LIST PYTHIA_RT_ONLY_ISAS AND NOT wanted STREQUAL "any")
      continue()
    endif()
    if(flags)
      set(CMAKE_REQUIRED_QUIET ON)
      check_cxx_compiler_flag("${flags}" PYTHIA_RT_COMPILES_${name})
      if(NOT PYTHIA_RT_COMPILES_${name})
        message(STATUS "pythia_rt: the compiler does not know the flags of ${name}; left out")
        continue()
      endif()
    endif()
    separate_arguments(flag_list UNIX_COMMAND "${flags}")
    string(REPLACE " " " | " features "${features}")
    string(APPEND list "PYTHIA_RT_ISA_ENTRY(${name}, ${features})\n")
    list(APPEND names ${name})
    set(PYTHIA_RT_ISA_FLAGS_${name} "${flag_list}" PARENT_SCOPE)
  endforeach()
  file(CONFIGURE OUTPUT ${folder}/isas.inc CONTENT "${list}" @ONLY)
  set(PYTHIA_RT_ISAS ${names} PARENT_SCOPE)
endfunction()

# Instantiates a template once per ISA, below `folder` of the build, compiled with the ISA's flags:
# object libraries <name>_<isa>, whose objects are <name>_objects. The target isa_objects, which must
# be there, makes all of them.
function(pythia_rt_add_isa_objects name template folder)
  foreach(PYTHIA_RT_ISA IN LISTS PYTHIA_RT_ISAS)
    set(source ${CMAKE_CURRENT_BINARY_DIR}/${folder}/isa_${PYTHIA_RT_ISA}.cc)
    configure_file(${template} ${source} @ONLY)
    set(target ${name}_${PYTHIA_RT_ISA})
    add_library(${target} OBJECT EXCLUDE_FROM_ALL ${source})
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/csrc ${ARGN})
    # GCC takes the "undefined" vectors inside its own intrinsics for a mistake of ours.
    target_compile_options(${target} PRIVATE ${PYTHIA_RT_ISA_FLAGS_${PYTHIA_RT_ISA}}
                           $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized -Wno-maybe-uninitialized>)
    add_dependencies(isa_objects ${target})
    list(APPEND objects $<TARGET_OBJECTS:${target}>)
  endforeach()
  set(${name}_objects ${objects} PARENT_SCOPE)
endfunction()
