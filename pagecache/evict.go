package pagecache

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/log"
)

// The evictor keeps page memory within Options.CacheSize. It is a clock: a hand
// goes round the mapping table, and a page that was read since the hand last
// passed has its mark cleared and is spared. Reading a page costs no more than
// setting a mark that is not set.
//
// Evicting a page replaces its chain, by compare-and-swap, with an absent node
// that has the positions of its fragments. That needs every fragment to be
// complete in the log: a page with one that is not is passed over. A page whose
// fragments lie in too many places is first written merged. One that is updated
// and never read is not there to be merged; the evictor's goroutine reads and
// rewrites it when its places have become very many.
type evictor struct {
	// Atomic.
	hand   atomic.Uint64
	wanted atomic.Bool // the goroutine has been woken

	wake chan struct{}
	mu   sync.Mutex // one sweep at a time; only sweepers take it

	crowded []PID // Guarded by mu. To be read and rewritten.
}

const (
	sweepPages = 64 // slots looked at under one guard
	// Page memory in percent of CacheSize: the evictor starts, stops, and writers
	// begin to help.
	evictStartPercent = 97
	evictStopPercent  = 94
	evictHelpPercent  = 103
)

// noteGrowth wakes the evictor if memory has come near the budget.
func (c *Cache) noteGrowth() {
	if c.options.InMemory || c.arena.Used() < c.percentOfBudget(evictStartPercent) {
		return
	}
	if !c.evict.wanted.Load() && c.evict.wanted.CompareAndSwap(false, true) {
		select {
		case c.evict.wake <- struct{}{}:
		default:
		}
	}
}

func (c *Cache) percentOfBudget(percent int64) int64 { return c.options.CacheSize / 100 * percent }

// runEvictor is the evictor's goroutine.
func (c *Cache) runEvictor() {
	defer c.background.Done()
	for {
		select {
		case <-c.stop:
			return
		case <-c.evict.wake:
			c.evict.wanted.Store(false)
			c.sweepUntil(c.percentOfBudget(evictStopPercent))
			c.rewriteCrowded()
		}
	}
}

// sweepUntil moves the hand until at most target bytes are used. It gives up
// after two turns without success: the rest is not evictable now. Pages that the
// materializer wants kept go only when a whole turn was not enough.
func (c *Cache) sweepUntil(target int64) {
	c.evict.mu.Lock()
	defer c.evict.mu.Unlock()
	slots := int64(c.pids.max()) + 1
	for passed, turns := int64(0), 0; c.arena.Used() > target && turns < 4; {
		select {
		case <-c.stop:
			return
		default:
		}
		c.sweep(turns >= 2)
		c.epochs.TryAdvance()
		c.epochs.TryAdvance()
		if passed += sweepPages; passed > slots {
			passed = 0
			turns++
		}
	}
}

const crowdedMax = 256 // PIDs remembered; what is left out comes up again

func (c *Cache) noteCrowded(pid PID) {
	if len(c.evict.crowded) < crowdedMax {
		c.evict.crowded = append(c.evict.crowded, pid)
	}
}

// rewriteCrowded writes merged what cannot be evicted, or was evicted with too
// many positions, because it is not in memory as a whole.
func (c *Cache) rewriteCrowded() {
	c.evict.mu.Lock()
	pids := slices.Clone(c.evict.crowded)
	c.evict.crowded = c.evict.crowded[:0]
	c.evict.mu.Unlock()
	for _, pid := range pids {
		if !c.writable() || c.log.Throttle() != nil || c.stopping() {
			return
		}
		c.tryUncrowd(pid)
	}
}

func (c *Cache) stopping() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// tryUncrowd writes an absent page merged. A failure is met again by who reads
// the page.
//
// REQUIRES: the caller holds no guard.
func (c *Cache) tryUncrowd(pid PID) {
	if _, err := c.tryMoveEvicted(pid); ignoreGone(err) != nil && !errors.Is(err, ErrClosed) {
		c.options.Logger.Warn("pagecache: rewriting a page with many updates failed", "pid", uint64(pid), "error", err)
	}
}

// sweep looks at the next few slots.
func (c *Cache) sweep(evenKept bool) {
	g := c.Pin()
	defer g.Unpin()
	if c.closed.Load() {
		return // page memory is gone
	}
	last := uint64(c.pids.max())
	for range sweepPages {
		pid := c.evict.hand.Add(1)
		if pid > last {
			c.evict.hand.Store(0)
			return
		}
		c.sweepPage(g, PID(pid), evenKept)
	}
}

func (c *Cache) sweepPage(g epoch.Guard, pid PID, evenKept bool) {
	slot := c.table.slot(pid)
	if slot == nil {
		return
	}
	word := slot.Load()
	if word&slotRefMask == 0 || word&slotWriter != 0 || c.headerAt(word).kind == nodeFree {
		return
	}
	if h := c.headerAt(word); h.kind == nodeAbsent {
		return
	}
	marked := c.bottomOf(word).mark.Swap(0) != 0
	v, err := c.viewWord(pid, word)
	if err != nil {
		return
	}
	v.bottom.mark.Store(0)
	if marked || v.bottom.flags&nodeKeep != 0 && !evenKept {
		return
	}
	c.evictPage(g, v)
}

func (c *Cache) bottomOf(word uint64) *bottomNode {
	if h := c.headerAt(word); h.kind == nodeDelta {
		return c.bottomAt(c.deltaAt(word).bottom)
	}
	return c.bottomAt(word)
}

// evictPage replaces v's chain with its positions. It reports whether it did.
//
// REQUIRES: the caller holds evict.mu.
func (c *Cache) evictPage(g epoch.Guard, v View) bool {
	if !c.completeInLog(v) {
		return false
	}
	deltas := v.Deltas()
	n := int(v.bottom.positions) + deltas
	switch needed := c.needsStamps(v); {
	case v.Resident() && (needed || n > c.options.LoadReads && c.writable()):
		// It is evictable when the merged page is complete in the log.
		_, _ = c.consolidate(g, v, true)
		return false
	case needed:
		c.noteCrowded(v.pid) // the same, but first it has to be read
		return false
	}
	ref, b := c.newBottom(nodeAbsent, v.head.version, v.newestStamp(), n, nil)
	b.flags = v.bottom.flags
	copy(b.positionArea(), v.bottom.positionArea())
	i := n
	for d := v.top(); d != nil; d = c.olderDelta(d) {
		i--
		b.setPosition(i, d.position())
		b.flags |= d.flags & nodePartUnstamped
	}
	yield(yieldEvictPublish)
	if !c.table.slot(v.pid).CompareAndSwap(v.word, uint64(ref)) {
		c.arena.Free(ref)
		return false
	}
	c.retireChain(g, v.word)
	if n > rewritePositionsMax {
		c.noteCrowded(v.pid)
	}
	paths.Hit(paths.Evict)
	if deltas > 0 {
		paths.Hit(paths.EvictWithDeltas)
	}
	c.metrics.evictions.Add(1)
	return true
}

// completeInLog reports whether every fragment of v can be read from the log.
func (c *Cache) completeInLog(v View) bool {
	// Deltas stand in the log in the order of their versions; a merged base may
	// stand behind deltas that were appended while it was merged.
	if d := v.top(); d != nil && !c.log.Completed(d.position()) {
		return false
	}
	n := int(v.bottom.positions)
	return n == 0 || c.log.Completed(v.bottom.position(0)) && c.log.Completed(v.bottom.position(n-1))
}

// writable reports whether the log takes records: not one that is read-only or
// has failed, with which reads go on and memory stays within its budget.
func (c *Cache) writable() bool { return !c.options.ReadOnly && c.log.Err() == nil }

func endOf(p log.Position) LSN { return p.LSN + LSN(p.Size) }

// needsStamps reports whether an open read snapshot may need stamps that v's
// fragments in the log lack.
func (c *Cache) needsStamps(v View) bool {
	flags := v.bottom.flags
	for d := v.top(); d != nil; d = c.olderDelta(d) {
		flags |= d.flags
	}
	return flags&nodePartUnstamped != 0 && c.moments.any()
}
