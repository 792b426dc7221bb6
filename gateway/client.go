package gateway

import (
	"net"
	"syscall"
	"time"
)

// watch calls left, on a goroutine of its own, once the peer of conn has
// closed or reset it: nobody else would notice while the upstream is silent,
// for nothing is read from the connection meanwhile and nothing written to it.
// A client that has already sent its next request is not seen leaving.
//
// stop ends watching; after it has returned left is not called any more and
// the connection is as it was. stop is nil where conn cannot be watched.
func watch(conn net.Conn, left func()) (stop func()) {
	raw := rawConn(conn)
	if raw == nil || conn.SetReadDeadline(time.Time{}) != nil { // the deadline of the request that was read
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var gone bool
		err := raw.Read(func(fd uintptr) bool {
			var silent bool
			gone, silent = peek(fd)
			return !silent
		})
		if err == nil && gone {
			left()
		}
	}()
	return func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // ends raw.Read; fails only on a closed connection, which ends it too
		<-ended
		_ = conn.SetReadDeadline(time.Time{})
	}
}

// hasLeft tells whether the peer of conn has closed or reset it by now.
func hasLeft(conn net.Conn) bool {
	raw := rawConn(conn)
	if raw == nil {
		return false
	}
	var gone bool
	err := raw.Control(func(fd uintptr) { gone, _ = peek(fd) })
	return err != nil || gone
}

// rawConn is nil for connections that are no sockets.
func rawConn(conn net.Conn) syscall.RawConn {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// peek looks at what can be read next without taking it: the connection's end,
// or nothing yet.
func peek(fd uintptr) (gone, silent bool) {
	var b [1]byte
	n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	switch err {
	case nil:
		return n == 0, false
	case syscall.EAGAIN, syscall.EINTR:
		return false, true
	}
	return true, false
}
