package invariant

import (
	"fmt"
	"runtime"
	"strings"
)

// A Stack says by which calls a piece of code was reached. Debug builds keep the
// Stacks of who gave something up, for the message of who does so again.
type Stack [8]uintptr

// Caller returns the Stack of the caller of the function that calls it.
func Caller() (s Stack) {
	runtime.Callers(3, s[:])
	return s
}

// String has a line for each call, the innermost first.
func (s Stack) String() string {
	var b strings.Builder
	frames := runtime.CallersFrames(s[:])
	for more := s[0] != 0; more; {
		var f runtime.Frame
		f, more = frames.Next()
		if f.PC == 0 {
			break
		}
		fmt.Fprintf(&b, "\t%s:%d %s\n", f.File, f.Line, f.Function)
	}
	return b.String()
}
