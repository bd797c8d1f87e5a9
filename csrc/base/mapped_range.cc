#include "base/mapped_range.h"

#include <atomic>
#include <cstdint>

#if defined(__unix__) || defined(__APPLE__)
#define PYTHIA_RT_HAS_SIGBUS
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <mutex>
#endif

namespace pythia_rt {

// The signal's handler may not lock, and may come at any time: entries are never freed, only used
// again, and their list only grows.
struct MappedRange::Entry {
  std::atomic<bool> is_taken{false};
  std::atomic<uintptr_t> begin{0}, end{0};  // equal: nothing
  std::atomic<bool> is_damaged{false};
  Entry* next = nullptr;
};

namespace {

using Entry = MappedRange::Entry;

std::atomic<Entry*> entries{nullptr};
std::atomic<int64_t> n_damaged{0};  // of the ranges that live

Entry& take_entry() {
  for (Entry* entry = entries.load(); entry != nullptr; entry = entry->next) {
    if (!entry->is_taken.exchange(true)) return *entry;
  }
  auto* entry = new Entry;
  entry->is_taken = true;
  entry->next = entries.load();
  while (!entries.compare_exchange_weak(entry->next, entry)) {
  }
  return *entry;
}

bool overlaps(const Entry& entry, uintptr_t begin, uintptr_t end) {
  return entry.begin < end && begin < entry.end;
}

#ifdef PYTHIA_RT_HAS_SIGBUS

struct sigaction previous;
uintptr_t page_size;  // a power of two

// Puts pages of zeros in the place of the range's rest, so that the read can be done again.
bool fill_with_zeros(Entry& entry, uintptr_t address) {
  const uintptr_t begin = address & ~(page_size - 1);
  const uintptr_t end = (entry.end + page_size - 1) & ~(page_size - 1);
  void* const place = reinterpret_cast<void*>(begin);
  if (mmap(place, end - begin, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
      MAP_FAILED) {
    return false;
  }
  if (!entry.is_damaged.exchange(true)) n_damaged.fetch_add(1);
  return true;
}

void handle(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Entry* entry = entries.load(); entry != nullptr; entry = entry->next) {
    if (overlaps(*entry, address, address + 1) && fill_with_zeros(*entry, address)) {
      errno = saved;
      return;
    }
  }
  errno = saved;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    sigaction(signal, &previous, nullptr);  // the read is done again, and ends the process
  }
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, nullptr, &previous);  // first: the handler may be called at once
    sigaction(SIGBUS, &action, nullptr);
  });
}

#else

void install_handler() {}

#endif

}  // namespace

MappedRange::MappedRange(const void* data, size_t size) : entry_(&take_entry()) {
  install_handler();
  entry_->is_damaged = false;
  entry_->begin = reinterpret_cast<uintptr_t>(data);
  entry_->end = reinterpret_cast<uintptr_t>(data) + size;
}

MappedRange::~MappedRange() {
  entry_->end = 0;
  entry_->begin = 0;
  if (entry_->is_damaged.exchange(false)) n_damaged.fetch_sub(1);
  entry_->is_taken = false;
}

bool MappedRange::is_damaged() const { return entry_->is_damaged; }

bool is_damaged(const void* data, size_t size) {
  if (n_damaged.load(std::memory_order_relaxed) == 0) return false;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  for (Entry* entry = entries.load(); entry != nullptr; entry = entry->next) {
    if (entry->is_damaged && overlaps(*entry, begin, begin + size)) return true;
  }
  return false;
}

}  // namespace pythia_rt
