package pagecache

import (
	"runtime"
	"sync"
)

// A yieldPoint names a place where a test can hold an operation up: between
// reading a head and publishing, mostly.
type yieldPoint uint8

const (
	yieldAppendPublish yieldPoint = iota
	yieldConsolidatePublish
	yieldUpdatePart
	yieldUpdateFresh
	yieldUpdatePublish
	yieldUpdateReady
	yieldEvictPublish
	yieldLoadRead
	yieldLoadPublish
	yieldCheckpointSlot
	yieldWritten
	yieldSpin // waiting for what another goroutine is about to do
)

// yieldHook is set by tests before a cache is opened and left alone afterwards.
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
