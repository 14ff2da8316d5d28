package invariant

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
)

// pausing says whether Pause does anything; see SetPausing.
var pausing atomic.Bool

// SetPausing makes every Pause wait at random until it is called with false.
// It does nothing outside debug builds.
func SetPausing(on bool) { pausing.Store(on) }

// Pause stands between two instructions of a lock-free algorithm where another
// goroutine may come in. In debug builds a test can make it wait there; in
// others it does nothing. Write it within if Debug where the function around
// it is to be inlined: even an empty call counts.
func Pause() {
	if Debug {
		pause()
	}
}

//go:noinline
func pause() {
	if !pausing.Load() {
		return
	}
	switch n := rand.Uint32N(64); {
	case n == 0:
		time.Sleep(50 * time.Microsecond)
	case n < 12:
		runtime.Gosched()
	}
}
