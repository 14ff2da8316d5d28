package tree

import (
	"sync/atomic"

	"github.com/pulkdb/db/pagecache"
)

// counters are written on slow paths only.
type counters struct {
	leafSplits    atomic.Uint64
	innerSplits   atomic.Uint64
	leafJoins     atomic.Uint64
	innerJoins    atomic.Uint64
	joined        atomic.Uint64
	rootGrowths   atomic.Uint64
	finished      atomic.Uint64
	retries       atomic.Uint64
	owned         atomic.Uint64
	batchRestarts atomic.Uint64
	conflicts     atomic.Uint64
	erasedLeaves  atomic.Uint64
	blind         atomic.Uint64
	misses        atomic.Uint64
	settled       atomic.Uint64
	tendErrors    atomic.Uint64
}

// Metrics are counts since Open, and sizes now.
type Metrics struct {
	Cache pagecache.Metrics

	LeafSplits     uint64
	InnerSplits    uint64
	LeafJoins      uint64
	InnerJoins     uint64
	JoinedNodes    uint64 // that went by those
	RootGrowths    uint64
	FinishedSplits uint64 // half-done splits that a later operation completed
	Retries        uint64 // updates that met a changed leaf
	OwnedUpdates   uint64 // single updates that took a writer bit
	BatchRestarts  uint64 // commits that met a page on the way that was not in memory
	Conflicts      uint64 // commits that answered ErrConflict
	ErasedLeaves   uint64 // leaves that range deletions went to
	ShrunkLeaves   uint64 // leaves consolidated for what nobody sees any more
	KeptLeaves     int64  // leaves with versions that only open moments see,
	KeptBytes      int64  // and the bytes of those, about
	BlindUpdates   uint64 // updates of leaves that were not in memory
	Misses         uint64 // reads of a key that waited for a node to be loaded
	Settled        uint64 // keys whose operands were folded by a write
	TendErrors     uint64 // splits and consolidations that failed and will be tried again
}

// Metrics returns the tree's and the page cache's.
func (t *Tree) Metrics() Metrics {
	c := &t.metrics
	return Metrics{
		Cache:          t.cache.Metrics(),
		LeafSplits:     c.leafSplits.Load(),
		InnerSplits:    c.innerSplits.Load(),
		LeafJoins:      c.leafJoins.Load(),
		InnerJoins:     c.innerJoins.Load(),
		JoinedNodes:    c.joined.Load(),
		RootGrowths:    c.rootGrowths.Load(),
		FinishedSplits: c.finished.Load(),
		Retries:        c.retries.Load(),
		OwnedUpdates:   c.owned.Load(),
		BatchRestarts:  c.batchRestarts.Load(),
		Conflicts:      c.conflicts.Load(),
		ErasedLeaves:   c.erasedLeaves.Load(),
		ShrunkLeaves:   t.shrinker.shrunk.Load(),
		KeptLeaves:     t.shrinker.kept.leaves.Load(),
		KeptBytes:      t.shrinker.kept.bytes.Load(),
		BlindUpdates:   c.blind.Load(),
		Misses:         c.misses.Load(),
		Settled:        c.settled.Load(),
		TendErrors:     c.tendErrors.Load(),
	}
}
