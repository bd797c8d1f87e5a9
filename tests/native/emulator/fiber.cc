#include "emulator/fiber.h"

#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(PYTHIA_RT_EMULATOR_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

// Saves the registers that a function must preserve, and takes those of another stack.
extern "C" void pythia_rt_switch_stack(void** save, void* load);

#if defined(__x86_64__)
asm(".text\n.globl pythia_rt_switch_stack\n.hidden pythia_rt_switch_stack\n"
    ".type pythia_rt_switch_stack, @function\n"
    "pythia_rt_switch_stack:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
namespace {
constexpr int kSavedWords = 6;  // below the return address
constexpr int kReturnWord = 6;
}  // namespace
#elif defined(__aarch64__)
asm(".text\n.globl pythia_rt_switch_stack\n.hidden pythia_rt_switch_stack\n"
    ".type pythia_rt_switch_stack, %function\n"
    "pythia_rt_switch_stack:\n"
    " sub sp,sp,#160\n"
    " stp x19,x20,[sp]\n stp x21,x22,[sp,#16]\n stp x23,x24,[sp,#32]\n"
    " stp x25,x26,[sp,#48]\n stp x27,x28,[sp,#64]\n stp x29,x30,[sp,#80]\n"
    " stp d8,d9,[sp,#96]\n stp d10,d11,[sp,#112]\n stp d12,d13,[sp,#128]\n"
    " stp d14,d15,[sp,#144]\n"
    " mov x9,sp\n str x9,[x0]\n mov sp,x1\n"
    " ldp x19,x20,[sp]\n ldp x21,x22,[sp,#16]\n ldp x23,x24,[sp,#32]\n"
    " ldp x25,x26,[sp,#48]\n ldp x27,x28,[sp,#64]\n ldp x29,x30,[sp,#80]\n"
    " ldp d8,d9,[sp,#96]\n ldp d10,d11,[sp,#112]\n ldp d12,d13,[sp,#128]\n"
    " ldp d14,d15,[sp,#144]\n add sp,sp,#160\n ret\n");
namespace {
constexpr int kSavedWords = 20;
constexpr int kReturnWord = 11;
}  // namespace
#else
#error "the emulator knows how to switch stacks on x86-64 and aarch64 alone"
#endif

namespace pythia_rt::cuda::emulator {

namespace {

// Whose stack was left last: a stack that is arrived at learns from it where it came from.
[[maybe_unused]] Fiber* left = nullptr;

}  // namespace

void adopt_current([[maybe_unused]] Fiber& fiber) {
#if defined(PYTHIA_RT_EMULATOR_TSAN)
  fiber.sanitizer = __tsan_get_current_fiber();
#endif
}

void prepare(Fiber& fiber, size_t offset, void (*entry)()) {
  // The return address of the switch is the entry; above it the stack is aligned as after a call.
  char* end = fiber.stack + fiber.stack_bytes - offset;
  void** top = reinterpret_cast<void**>(end) - kSavedWords - 4;
  for (int i = 0; i < kSavedWords + 4; ++i) top[i] = nullptr;
  void* address;
  std::memcpy(&address, &entry, sizeof address);
  top[kReturnWord] = address;
  fiber.stack_pointer = top;
#if defined(PYTHIA_RT_EMULATOR_TSAN)
  if (fiber.sanitizer == nullptr) fiber.sanitizer = __tsan_create_fiber(0);  // takes a millisecond
#endif
}

void abandon([[maybe_unused]] Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack, fiber.stack_bytes);  // what its frames guarded
#endif
#if defined(PYTHIA_RT_EMULATOR_TSAN)
  __tsan_destroy_fiber(fiber.sanitizer);  // it remembers the frames
  fiber.sanitizer = nullptr;
#endif
}

void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  left = &from;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(PYTHIA_RT_EMULATOR_TSAN)
  __tsan_switch_to_fiber(to.sanitizer, 1);  // 1: a switch orders nothing
#endif
  pythia_rt_switch_stack(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void arrive() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t bytes;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (left->stack == nullptr) {  // the stack of whoever launched
    left->stack = static_cast<char*>(const_cast<void*>(bottom));
    left->stack_bytes = bytes;
  }
#endif
}

#if defined(PYTHIA_RT_EMULATOR_TSAN)
void release_edge(void* edge) { __tsan_release(edge); }
void acquire_edge(void* edge) { __tsan_acquire(edge); }
void release_edge_of(Fiber& fiber, Fiber& self, void* edge) {
  __tsan_switch_to_fiber(fiber.sanitizer, 1);
  __tsan_release(edge);
  __tsan_switch_to_fiber(self.sanitizer, 1);
}
#endif

}  // namespace pythia_rt::cuda::emulator
