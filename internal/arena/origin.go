package arena

import (
	"sync"

	"github.com/pulkdb/db/internal/invariant"
)

// origins remembers, in debug builds, who freed the objects that are free, so that
// a second Free can name the first.
type origins struct {
	mu sync.Mutex
	by map[Ref]invariant.Stack // Guarded by mu.
}

// note remembers that the caller's caller frees r.
func (o *origins) note(r Ref) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if first, ok := o.by[r]; ok {
		invariant.Check(false, "arena: object freed twice, first by\n"+first.String())
	}
	if o.by == nil {
		o.by = make(map[Ref]invariant.Stack)
	}
	o.by[r] = invariant.Caller()
}

// forget says that r is in use.
func (o *origins) forget(r Ref) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.by, r)
}
