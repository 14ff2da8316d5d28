// Package invariant holds the assertions of the store: statements that only a
// programming error can make false. Bad bytes and failed I/O are errors, never
// assertions.
//
// Check is for conditions that cost nothing to evaluate and is always on.
// CheckDebug and the constant Debug are for dear ones: they are on under the
// build tags race and pulkdebug, and compile to nothing otherwise.
package invariant

// Check panics with msg unless ok.
func Check(ok bool, msg string) {
	if !ok {
		fail(msg)
	}
}

// CheckDebug panics with msg unless ok, in builds where Debug is true. The
// argument is evaluated in every build: guard a dear one with if Debug.
func CheckDebug(ok bool, msg string) {
	if Debug && !ok {
		fail(msg)
	}
}

//go:noinline
func fail(msg string) { panic("pulk: invariant violated: " + msg) }
