package log

import "fmt"

// An LSN is a position in the log: one endless byte sequence of which the
// segment files hold parts. No LSN is ever written twice.
type LSN uint64

// String gives the LSN in hexadecimal, as segment file names do.
func (l LSN) String() string { return fmt.Sprintf("%#x", uint64(l)) }

// A PID names a page. The log stores it with each update and gives it no
// meaning; package pagecache does.
type PID uint64

// A Position says where in the log one update is, so that it can be read
// alone. The zero Position names nothing.
type Position struct {
	LSN  LSN    // of the update's header
	Size uint32 // bytes of header and payload
}

// IsZero reports whether p names nothing.
func (p Position) IsZero() bool { return p == Position{} }

// String gives LSN and size, as "0x1040+96".
func (p Position) String() string { return fmt.Sprintf("%v+%d", p.LSN, p.Size) }
