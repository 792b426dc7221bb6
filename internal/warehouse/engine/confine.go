package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Confinement.
//
// ClickHouse reads and overwrites any file its process may touch, through
// plain SQL and even in read-only sessions: the scalar function file() and the
// clause INTO OUTFILE. So the process must not be able to. Landlock, an access
// control the kernel offers to unprivileged processes, takes away everything
// but a list of paths, before the engine's first instruction runs.
//
// Landlock restricts a thread and what descends from it, and a Go process has
// threads before main. Restricting all of them at once needs the runtime's
// all-threads system calls, which Go refuses as soon as a C library is in
// play, and loading libchdb without cgo puts one in play. Therefore: restrict
// one locked thread and let that thread execute this program again. execve
// ends all other threads and the new image inherits the restriction whole.

// Rights by the Landlock version (ABI) that introduced them. A kernel refuses
// rights it does not know.
const (
	rightsV1 = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	rightsV2 = unix.LANDLOCK_ACCESS_FS_REFER     // rename and link between directories
	rightsV3 = unix.LANDLOCK_ACCESS_FS_TRUNCATE  // truncate(2) and O_TRUNC
	rightsV5 = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV // ioctl on devices
	netV4    = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	scopesV6 = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
)

// What the engine may do with its own directory, with programs and libraries,
// and with a single file.
const (
	mayOwn = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | rightsV2 | rightsV3
	mayRead = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	mayRun  = mayRead | unix.LANDLOCK_ACCESS_FS_EXECUTE
	onFile  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
)

// allowance is one path and what may be done with it and below it.
type allowance struct {
	path     string
	rights   uint64
	optional bool // a system may lack the path
}

// allowances is the whole list. /proc is not on it but for the process' own
// entry: the parent's environment, readable there, holds provider keys. /etc
// is not needed at all, nor is the rest of /usr: /usr/local is where people
// keep configuration. No right to connect anywhere is given either.
func allowances(o Options) []allowance {
	return []allowance{
		{path: o.Dir, rights: mayOwn},
		{path: o.Library, rights: onFile},
		{path: "/proc/self/exe", rights: onFile},
		{path: "/usr/lib", rights: mayRun},
		{path: "/usr/lib64", rights: mayRun, optional: true},
		{path: "/lib", rights: mayRun, optional: true},
		{path: "/lib64", rights: mayRun, optional: true},
		{path: "/sys", rights: mayRead, optional: true},
		{path: "/proc/self", rights: mayRead},
		{path: "/proc/meminfo", rights: unix.LANDLOCK_ACCESS_FS_READ_FILE},
		{path: "/proc/cpuinfo", rights: unix.LANDLOCK_ACCESS_FS_READ_FILE},
	}
}

// LandlockABI is the version of Landlock that this kernel offers, 0 for none.
// From 1 on the engine can be confined, from 4 on also kept off the network.
func LandlockABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}

// confineAndExec restricts the calling thread and replaces the process by this
// program with args. It returns only on failure; the thread may then already
// be restricted, so the caller must exit.
func confineAndExec(o Options, args []string) error {
	runtime.LockOSThread()
	ruleset, err := newRuleset(o, LandlockABI())
	if err != nil {
		return fmt.Errorf("cannot confine the ClickHouse process: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot give up privileges: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return fmt.Errorf("cannot confine the ClickHouse process: %w", errno)
	}
	return fmt.Errorf("cannot execute weir again: %w", syscall.Exec("/proc/self/exe", args, []string{}))
}

// newRuleset makes the kernel object that forbids every right the given
// Landlock version knows, except for the allowances.
func newRuleset(o Options, abi int) (fd int, err error) {
	handled := unix.LandlockRulesetAttr{Handled_access_fs: rightsV1}
	for _, more := range []struct {
		abi             int
		fs, net, scopes uint64
	}{{2, rightsV2, 0, 0}, {3, rightsV3, 0, 0}, {4, 0, netV4, 0}, {5, rightsV5, 0, 0}, {6, 0, 0, scopesV6}} {
		if abi >= more.abi {
			handled.Handled_access_fs |= more.fs
			handled.Handled_access_net |= more.net
			handled.Scoped |= more.scopes
		}
	}
	r, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if errno != 0 {
		return 0, errno
	}
	fd = int(r)
	unix.CloseOnExec(fd)
	for _, a := range allowances(o) {
		if err := allow(fd, a, handled.Handled_access_fs); err != nil && !(a.optional && errors.Is(err, fs.ErrNotExist)) {
			return 0, fmt.Errorf("%s: %w", a.path, err)
		}
	}
	return fd, nil
}

func allow(ruleset int, a allowance, handled uint64) error {
	fd, err := unix.Open(a.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: a.rights & handled, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// verifyConfined makes sure, in the new image, that the restriction holds: a
// confinement that silently failed would be worse than none that is known of.
func verifyConfined() error {
	if _, err := os.ReadDir("/"); !errors.Is(err, fs.ErrPermission) {
		return errors.New("the ClickHouse process is not confined although it should be")
	}
	return nil
}
