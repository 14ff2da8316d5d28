package epoch

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/pulkdb/db/internal/invariant"
)

const (
	stripeBits = 5
	numStripes = 1 << stripeBits
	numBags    = 4 // epochs x-1, x, x+1 are in use; 4 makes the index a mask

	// gracePeriods is the number of steps between retiring and reclaiming.
	gracePeriods = 2

	// retireInterval is the number of items retired on a stripe between two
	// attempts to step.
	retireInterval = 64
)

// A stripe is what the goroutines whose stack hashes to it share. Its counts
// have a cache line of their own.
type stripe struct {
	counts [numBags]atomic.Int64 // guards per epoch mod 4
	_      [64 - numBags*8]byte

	bags    [numBags]atomic.Pointer[bagChunk] // what was retired, per epoch mod 4
	retired atomic.Int64                      // items ever
	spare   atomic.Pointer[bagChunk]          // one unused chunk
	_       [64 - numBags*8 - 16]byte
}

// A Domain is one set of guards and the items that wait for them. All methods
// may be called by any goroutine.
type Domain struct {
	// Immutable after New.
	reclaim func(item uint64)
	grace   uint64 // gracePeriods, except in the test that breaks it

	_     [64]byte
	epoch atomic.Uint64 // changed only by the holder of stepping
	_     [56]byte

	stripes [numStripes]stripe

	stepping  atomic.Bool // held by the goroutine in TryAdvance
	reclaimed atomic.Int64
	chunks    chunkList
	pending   origins // in debug builds
}

// New returns a Domain that hands retired items to reclaim. Calls of reclaim
// come one at a time, on the goroutines that call TryAdvance or Retire. It must
// not wait, and may pin a guard and retire items itself.
func New(reclaim func(item uint64)) *Domain {
	d := &Domain{reclaim: reclaim, grace: gracePeriods}
	d.epoch.Store(numBags) // so that the epochs before the first are positive
	return d
}

// A Guard keeps what its holder can see from being reclaimed. It belongs to one
// goroutine; the zero Guard is none.
type Guard struct {
	stripe *stripe
	epoch  uint64
}

// Pin returns a guard. Everything that can be reached after Pin returns stays
// until Unpin.
func (d *Domain) Pin() Guard {
	s := &d.stripes[stripeHash()]
	for {
		e := d.epoch.Load()
		if invariant.Debug {
			invariant.Pause()
		}
		c := &s.counts[e%numBags]
		c.Add(1)
		if d.epoch.Load() == e {
			return Guard{s, e}
		}
		c.Add(-1)
	}
}

// Unpin ends the guard.
func (g Guard) Unpin() {
	g.stripe.counts[g.epoch%numBags].Add(-1)
}

// Retire hands item over to be reclaimed when nobody can see it any more.
//
// REQUIRES: g is pinned by the caller, and nothing that a guard pinned from now
// on can follow leads to item.
func (d *Domain) Retire(g Guard, item uint64) {
	s := g.stripe
	e := d.epoch.Load()
	if invariant.Debug {
		invariant.Pause()
	}
	if invariant.Debug {
		invariant.Check(s.counts[g.epoch%numBags].Load() > 0, "epoch: Retire without a guard")
		invariant.Check(e-g.epoch <= 1, "epoch: the epoch passed a guard")
		d.pending.note(item)
	}
	d.push(s, &s.bags[e%numBags], item)
	if s.retired.Add(1)%retireInterval == 0 {
		d.TryAdvance()
	}
}

// TryAdvance steps to the next epoch if no guard is left in the one before, and
// reclaims what has become due. It returns false at once if another goroutine is
// doing so.
func (d *Domain) TryAdvance() (advanced bool) {
	if d.stepping.Load() || !d.stepping.CompareAndSwap(false, true) {
		return false
	}
	defer d.stepping.Store(false)
	e := d.epoch.Load()
	if d.anyGuard(e - 1) {
		return false
	}
	if invariant.Debug {
		invariant.Pause()
	}
	d.epoch.Store(e + 1)
	d.empty(e + 1 - d.grace)
	return true
}

// anyGuard reports whether a guard may be pinned at epoch e, which is over.
func (d *Domain) anyGuard(e uint64) bool {
	for i := range d.stripes {
		if d.stripes[i].counts[e%numBags].Load() != 0 {
			return true
		}
	}
	return false
}

// Pending returns the number of items retired and not yet reclaimed. It is exact
// when no call is under way.
func (d *Domain) Pending() int {
	reclaimed := d.reclaimed.Load()
	var retired int64
	for i := range d.stripes {
		retired += d.stripes[i].retired.Load()
	}
	return int(retired - reclaimed)
}

// Flush reclaims as much as the guards allow, and reports whether nothing is
// left.
func (d *Domain) Flush() bool {
	for d.Pending() > 0 {
		for range numBags {
			if !d.TryAdvance() {
				return d.Pending() == 0
			}
		}
	}
	return true
}

// Close waits until no guard is left and reclaims everything.
// REQUIRES: nobody pins from now on.
func (d *Domain) Close() {
	for !d.Flush() {
		runtime.Gosched()
		time.Sleep(10 * time.Microsecond)
	}
}

// stripeHash returns an index of a stripe that differs between goroutines that
// run at the same time, mostly, and costs next to nothing: a hash of the
// stack's address.
func stripeHash() uint64 {
	var here byte
	return uint64(uintptr(unsafe.Pointer(&here))>>11) * 0x9e3779b97f4a7c15 >> (64 - stripeBits)
}
