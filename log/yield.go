package log

import (
	"runtime"
	"sync"
)

// A yieldPoint names a place between two steps that others can get between.
type yieldPoint uint8

const (
	yieldReserve  yieldPoint = iota // before the CAS that takes space
	yieldSeal                       // before the CAS that seals
	yieldAdvance                    // before the CASes that add a buffer and make it current
	yieldComplete                   // before a writer leaves its buffer
	yieldWrite                      // before a run of buffers is written
	yieldSync                       // before files are synced
	yieldRead                       // between finding where an update is and reading it
	yieldSpin                       // waiting for what another goroutine is about to do
)

// yieldHook, if not nil, is called at every yield point; it may delay. Tests
// set it while no log is open.
var yieldHook func(yieldPoint)

func yield(p yieldPoint) {
	if yieldHook != nil {
		yieldHook(p)
	}
}

// lock locks a mutex that may be held across yield points: a test that runs one
// goroutine at a time must be able to hold up who waits for it.
func lock(mu *sync.Mutex) {
	if yieldHook == nil {
		mu.Lock()
		return
	}
	for !mu.TryLock() {
		spin()
	}
}

// spin lets others run: what the caller waits for is about to be done by one of
// them.
func spin() {
	yield(yieldSpin)
	runtime.Gosched()
}
