# Sourced by scripts/demo and scripts/test: checks the machine, prepares .venv and installs into it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

readonly bin=.venv/bin
readonly cxx="${CXX:-g++}"

die() {
  echo "error: $*" >&2
  exit 1
}

step() {
  printf '\n== %d:%02d %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"
}

# can_install: whether this user may install Debian packages without being asked.
can_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

# install_packages NAME...: Debian packages; silent unless it fails. The lists of a new machine are
# empty or old, so a first failure is followed by an update.
install_packages() {
  local log=build/apt.log
  mkdir -p build
  echo "installing with apt-get: $*"
  local get=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -qq)
  "${get[@]}" install -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null && return
  { "${get[@]}" update && "${get[@]}" install -y --no-install-recommends "$@"; } \
    >>"$log" 2>&1 </dev/null || { tail -n 5 "$log" >&2; return 1; }
}

# require_package NAME REASON: installs a Debian package, or says what to do.
require_package() {
  can_install && install_packages "$1" && return
  die "$2; install it (on Debian or Ubuntu: apt-get install $1) and run this again"
}

check_machine() {
  local python="${PYTHON:-python3}"
  command -v "$python" >/dev/null || die "no $python; install Python 3.10 or newer, or name one: PYTHON=..."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$("$python" --version) is too old; name a Python 3.10 or newer: PYTHON=python3.x $0"
  command -v "$cxx" >/dev/null || die "no C++ compiler $cxx; install one (g++), or name one: CXX=..."
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    require_package python3-venv "this Python cannot make virtual environments"
  # Debian keeps Python.h in a package of its own.
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    require_package python3-dev "Python's C headers are missing"
  # A moved or upgraded environment is made anew.
  "$bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
}

# install_requirements EXTRA...: what pyproject.toml asks for, unless that was installed before.
install_requirements() {
  local listed="build/requirements-$*.txt" installed=".venv/requirements-$*.txt"
  "$bin/python" scripts/requirements.py "$@" >"$listed"
  cmp -s "$listed" "$installed" && return
  "$bin/pip" install --quiet --progress-bar off -r "$listed"
  cp "$listed" "$installed"
}

# install_package CMAKE_DEFINITION...: builds the core in build/native, the tree of everything that
# is built for this machine, where it stays, and installs the package from there.
install_package() {
  local definitions=()
  for definition in "$@"; do
    definitions+=(-C "cmake.define.$definition")
  done
  # What is in the environment already, the wheel's own build may use: nothing is built twice.
  "$bin/pip" install --quiet --progress-bar off --no-deps --no-build-isolation \
    -C build-dir=build/native "${definitions[@]}" .
}

check_machine
mkdir -p build
