# Sourced by scripts/test: its steps, and how they are run and reported.

readonly skips=build/skipped.txt times=build/times.txt
: >"$skips"
: >"$times"
jobs="$(nproc)"
[ "$jobs" -le 8 ] || jobs=8

skip() {
  echo "SKIPPED: $*"
  echo "$*" >>"$skips"
}

# processor_seconds: what the commands of this shell have used of the processors so far, which does
# not depend on what else the machine does; leaves it in $REPLY.
processor_seconds() {
  local file="build/times-$BASHPID.txt" user system
  times >"$file" # not through a pipe: that would be another shell
  { read -r _ && read -r user system; } <"$file"
  rm "$file"
  REPLY=0
  for file in "$user" "$system"; do
    file="${file%%[.,]*}"
    REPLY=$((REPLY + 60 * ${file%m*} + 10#${file#*m}))
  done
}

minutes() {
  printf '%d:%02d' $(($1 / 60)) $(($1 % 60))
}

# took NAME START USED: notes what a step took that began at $SECONDS = START, with USED processor
# seconds before it.
took() {
  processor_seconds
  printf '%7s %10s  %s\n' "$(minutes $((SECONDS - $2)))" "$(minutes $((REPLY - $3)))" "$1" >>"$times"
}

# timed NAME COMMAND...: a step, of which the conclusion says how long it took.
timed() {
  local name="$1" start=$SECONDS used
  shift
  processor_seconds
  used=$REPLY
  step "$name"
  "$@"
  took "$name" "$start" "$used"
}

running=()
titles=()

# beside NAME COMMAND...: a step that runs while others go on; `together` waits for it.
beside() {
  local name="$1" start=$SECONDS
  shift
  (
    "$@"
    took "$name" "$start" 0
  ) >"build/beside-${#running[@]}.log" 2>&1 &
  running+=("$!")
  titles+=("$name")
}

together() {
  local i failed=""
  for i in "${!running[@]}"; do
    wait "${running[$i]}" || failed="${titles[$i]}"
    step "${titles[$i]}"
    cat "build/beside-$i.log"
  done
  running=()
  titles=()
  [ -z "$failed" ] || die "failed: $failed"
}

stop_running() {
  [ ${#running[@]} -eq 0 ] || kill "${running[@]}" 2>/dev/null || true
}
trap stop_running EXIT

conclusion() {
  step "what took how long, and how long of one processor"
  cat "$times"
  processor_seconds
  printf '%7s %10s  in all\n' "$(minutes $SECONDS)" "$(minutes "$REPLY")"
  step "skipped steps: $(wc -l <"$skips")"
  cat "$skips"
  [ ! -e build/pytest.log ] || tail -n 1 build/pytest.log
}

# Installing and building.

has_device() {
  command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1
}

# The package without CUDA, unless there is a device for the tests marked gpu: what nvcc makes is
# checked by the proofs.
install_all() {
  rm -f build/pytest.log
  timed "installing what it needs into .venv" install_requirements build
  # PyTorch is copied, not built: meanwhile the processors have time.
  beside "installing what the tests need" install_requirements build test
  timed "building and installing pythia_rt" install_testable
  together
}

install_testable() {
  local cuda=(PYTHIA_RT_CUDA=OFF)
  if has_device; then
    cuda=(PYTHIA_RT_CUDA=AUTO "PYTHIA_RT_CUDA_ARCHITECTURES=$(nvidia-smi --id=0 \
      --query-gpu=compute_cap --format=csv,noheader | tr -d .)")
  fi
  install_package "${cuda[@]}" PYTHIA_RT_TESTING=ON PYTHIA_RT_CONFORMANCE=ON
}

# install_changed: the same, if anything that is installed has changed since.
install_changed() {
  local sources
  sources="$("$bin/python" scripts/proofs.py digest \
    CMakeLists.txt LICENSE README.md cmake convert csrc pyproject.toml pythia_rt tests/native)"
  [ "$sources" != "$(cat .venv/installed.txt 2>/dev/null)" ] || return 0
  step "building and installing pythia_rt"
  install_testable
  echo "$sources" >.venv/installed.txt
}

# build_native [TARGET...]: of the tree that the package was installed from.
build_native() {
  [ $# -gt 0 ] || set -- _testing _emulated conformance emulator_checks
  make_targets native "$@"
}

make_targets() {
  local folder="build/$1"
  shift
  "$bin/cmake" --build "$folder" --target "$@" >>"$folder.log" 2>&1 ||
    { tail -n 40 "$folder.log" >&2; die "building $folder failed"; }
}

# build FOLDER TARGET... -- CMAKE_OPTION...: another tree below build/.
build() {
  local folder="$1" targets=()
  shift
  while [ "$1" != -- ]; do
    targets+=("$1")
    shift
  done
  shift
  "$bin/cmake" -S . -B "build/$folder" -G Ninja "-DCMAKE_MAKE_PROGRAM=$PWD/$bin/ninja" \
    "-DPython_EXECUTABLE=$PWD/$bin/python" "-Dpybind11_DIR=$("$bin/python" -m pybind11 --cmakedir)" \
    "$@" >"build/$folder.log" 2>&1 || { tail -n 40 "build/$folder.log" >&2; die "configuring failed"; }
  make_targets "$folder" "${targets[@]}"
}

# The best instruction set of this machine. From another folder, see in_build_folder.
best_isa() {
  (cd build && "../$bin/python" -c 'from pythia_rt import _core; print(_core.isa_names()[0])')
}

build_cuda() {
  local nvcc="${CUDACXX:-nvcc}"
  command -v "$nvcc" >/dev/null || { skip "the module with CUDA: there is no nvcc"; return; }
  build cuda _core -- -DPYTHIA_RT_CUDA=ON -DPYTHIA_RT_CUDA_ARCHITECTURES=80 \
    "-DPYTHIA_RT_ONLY_ISAS=$(best_isa)"
  export PYTHIA_RT_CUDA_DIR="$PWD/build/cuda"
}

aarch64_compiler=aarch64-linux-gnu-g++

build_aarch64() {
  [ "$(uname -m)" != aarch64 ] || { skip "emulated aarch64: this machine is one"; return; }
  if ! { command -v "$aarch64_compiler" && command -v qemu-aarch64; } >/dev/null; then
    can_install && install_packages qemu-user g++-aarch64-linux-gnu ||
      { skip "aarch64 conformance: needs the Debian packages qemu-user and g++-aarch64-linux-gnu"; return; }
  fi
  build aarch64 conformance -- -DPYTHIA_RT_PYTHON=OFF -DPYTHIA_RT_CONFORMANCE=ON \
    -DPYTHIA_RT_CUDA=OFF -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    "-DCMAKE_CXX_COMPILER=$aarch64_compiler" -DCMAKE_EXE_LINKER_FLAGS=-static
}

# Whether avxvnni can run here only in the encoding of AVX-512 VNNI (PYTHIA_RT_AVXVNNI_AS_EVEX).
wants_evex() {
  [ "$(uname -m)" = x86_64 ] && grep -qw avx512_vnni /proc/cpuinfo && ! grep -qw avx_vnni /proc/cpuinfo
}

# Of its own tree: what build/native holds is installed.
build_evex() {
  if ! wants_evex; then
    [ "$(uname -m)" != x86_64 ] || grep -qw avx_vnni /proc/cpuinfo ||
      skip "avxvnni: this processor has neither AVX-VNNI nor AVX-512 VNNI"
    return 0
  fi
  build evex conformance -- -DPYTHIA_RT_PYTHON=OFF -DPYTHIA_RT_CONFORMANCE=ON -DPYTHIA_RT_CUDA=OFF \
    -DPYTHIA_RT_ONLY_ISAS=avxvnni -DPYTHIA_RT_AVXVNNI_AS_EVEX=ON
}

# What the address sanitizer's runtime must precede: Python itself is not sanitized. libstdc++ too,
# because the sanitizer looks up __cxa_throw when it starts.
sanitizer_runtimes() {
  local library
  for library in libasan.so libubsan.so libstdc++.so; do
    library="$("$cxx" -print-file-name="$library")"
    [ -e "$library" ] || return 1
    echo "$library"
  done
}

# build_sanitized best|all: the scalar kernels and the best of this machine, or all of them and the
# bindings.
build_sanitized() {
  local isas="" with_bindings=ON evex=OFF
  sanitizer_runtimes >/dev/null ||
    { skip "sanitizers: $cxx is not a gcc that brings libasan and libubsan"; return; }
  if [ "$1" = best ]; then isas="$(best_isa)" with_bindings=OFF; fi
  ! wants_evex || evex=ON
  # At -O2 the scalar kernels alone compile for 7 minutes.
  build sanitized conformance emulator_checks _testing _emulated -- \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1 -DNDEBUG" \
    -DPYTHIA_RT_PYTHON=OFF -DPYTHIA_RT_CONFORMANCE=ON -DPYTHIA_RT_TESTING=ON \
    -DPYTHIA_RT_SANITIZE=ON "-DPYTHIA_RT_SANITIZE_BINDINGS=$with_bindings" -DPYTHIA_RT_CUDA=OFF \
    "-DPYTHIA_RT_ONLY_ISAS=$isas" "-DPYTHIA_RT_AVXVNNI_AS_EVEX=$evex"
}

# Checking.

# last_line LOG COMMAND...: runs it; its last line if it passes, what was not "ok" if it fails.
last_line() {
  local log="$1"
  shift
  "$@" >"$log" 2>&1 || { grep -v ': ok$' "$log" | tail -n 60 >&2; die "failed: $*"; }
  tail -n 1 "$log"
}

style() {
  "$bin/ruff" check --quiet .
  "$bin/ruff" format --quiet --check .
  git ls-files -z --cached --others --exclude-standard '*.h' '*.cc' '*.cu' '*.cuh' '*.inl' '*.inc' |
    xargs -0 "$bin/clang-format" --dry-run -Werror --style=file
}

# The installed package is checked, since pythia_rt.convert exists only there; from another folder,
# so that the one in the checkout is not found first.
types() {
  (cd build && "../$bin/mypy" --config-file ../pyproject.toml --cache-dir mypy -p pythia_rt)
  "$bin/mypy" --cache-dir build/mypy-bench bench
}

conformance() {
  last_line build/native.out build/native/conformance
  last_line build/emulator.out build/native/emulator_checks
}

conformance_evex() {
  ! wants_evex || last_line build/evex.out build/evex/conformance
}

# Two processors: one with every feature that the emulator knows, and one without i8mm.
conformance_aarch64() {
  [ -x build/aarch64/conformance ] || return 0
  conformance_of max i8mm ||
    skip "aarch64 conformance of i8mm: this qemu does not emulate it"
  conformance_of cortex-a76 neon || die "an emulated Cortex-A76 does not choose neon"
}

# conformance_of PROCESSOR ISA: fails if another instruction set is the best of it.
conformance_of() {
  local log="build/aarch64-$1.out"
  last_line "$log" qemu-aarch64 -cpu "$1" build/aarch64/conformance
  grep -q "^$2 *is chosen" "$log"
}

sanitized() {
  local preload
  preload="$(sanitizer_runtimes)" || return 0
  export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
  last_line build/sanitized.out build/sanitized/conformance
  last_line build/sanitized_emulator.out build/sanitized/emulator_checks
  # Python's own allocations that live until exit are not leaks of ours.
  ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="${preload//$'\n'/ }" \
    PYTHIA_RT_TESTING_DIR="$PWD/build/sanitized" "$bin/python" -m pytest -q -p no:cacheprovider \
    -n "$jobs" tests/test_kernels.py tests/test_attention.py tests/test_backends.py tests/test_norms.py \
    -k "not (test_backends or test_norms) or emulated"
}

# Which of CUDA's three tiers (docs/cuda.md) the tests include here.
cuda_tiers() {
  step "CUDA's kernels: which tiers the tests include"
  local nvcc="${CUDACXX:-nvcc}"
  echo "emulated: yes"
  if command -v "$nvcc" >/dev/null; then
    echo "nvcc's PTX, emulated: yes, $("$nvcc" --version | sed -n 's/^Cuda.*release //p')"
  else
    skip "nvcc's PTX, emulated: there is no nvcc"
  fi
  if has_device; then
    echo "on a device: yes, $(nvidia-smi -L | head -n 1)"
  else
    skip "CUDA's device tier, the tests marked gpu: there is no device"
  fi
}

# in_build_folder PYTEST_OPTION...: from another folder for the same reason as the types;
# subprocesses of the tests start there.
in_build_folder() {
  (cd build && PYTHIA_RT_TESTING_DIR="$PWD/native" "../$bin/python" -m pytest --rootdir .. \
    -c ../pyproject.toml "$@")
}

# A worker takes neighbours, which share what they set up, and then the rest of slower workers.
tests() {
  in_build_folder -n "$jobs" --dist worksteal --durations=10 "$@" ../tests 2>&1 | tee build/pytest.log
}
