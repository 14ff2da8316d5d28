package epoch

import (
	"fmt"
	"sync"

	"github.com/pulkdb/db/internal/invariant"
)

// origins remembers, in debug builds, who retired the items that wait. An item
// that waits and is retired again would be reclaimed twice; and when reclaiming
// one fails, what has to be known is who retired it.
type origins struct {
	mu sync.Mutex
	by map[uint64]invariant.Stack // Guarded by mu.
}

// note remembers that the caller's caller retires item.
func (o *origins) note(item uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if first, ok := o.by[item]; ok {
		invariant.Check(false, fmt.Sprintf("epoch: item %#x retired twice, first by\n%v", item, first))
	}
	if o.by == nil {
		o.by = make(map[uint64]invariant.Stack)
	}
	o.by[item] = invariant.Caller()
}

// reclaim hands item over, and adds to a panic who had retired it.
func (o *origins) reclaim(item uint64, reclaim func(uint64)) {
	o.mu.Lock()
	origin := o.by[item]
	delete(o.by, item)
	o.mu.Unlock()
	defer func() {
		if r := recover(); r != nil {
			panic(fmt.Sprintf("%v\nitem %#x was retired by\n%v", r, item, origin))
		}
	}()
	reclaim(item)
}
