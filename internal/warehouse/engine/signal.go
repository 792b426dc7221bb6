package engine

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stackTraceSignal is what the engine sends to every thread of its process to
// answer SELECT … FROM system.stack_trace: SIGRTMIN of the C library.
const stackTraceSignal = 34

// sigaction is the kernel's structure of the same name.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// ignoreStackTraces takes the engine's handler of that signal away. It would
// run on the stacks of goroutines, which are too small for it, and write over
// whatever lies beside them: any reader could crash the process, or worse. The
// table then says of each thread that it gave no answer. To be called when the
// first session is open, which installs the handler.
func ignoreStackTraces() error {
	ignore := sigaction{handler: 1} // SIG_IGN
	_, _, errno := unix.Syscall6(unix.SYS_RT_SIGACTION, stackTraceSignal, uintptr(unsafe.Pointer(&ignore)), 0, unsafe.Sizeof(ignore.mask), 0, 0)
	if errno != 0 {
		return fmt.Errorf("cannot ignore signal %d: %w", stackTraceSignal, errno)
	}
	return nil
}
