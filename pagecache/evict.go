package pagecache

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/log"
)

// The evictor keeps memory within Options.CacheSize. It is a clock: a hand goes
// round the mapping table, and each page has a mark that says in how many of the
// hand's last rounds it was read (see marks.go). Pages that were just loaded prove
// themselves before they are the hand's business (see probation.go).
//
// What counts is memory in use, without what is retired: evicting more does not
// make readers leave. Retired memory is bounded by those who make it: who finds too
// much of it lets readers go on first.
//
// Evicting a page replaces its chain, by compare-and-swap, with an absent node
// that has the positions of its fragments. That needs every fragment to be
// complete in the log: a page with one that is not is passed over. A page whose
// fragments lie in too many places is written merged in the same step, and so is one
// that was read while it stood in several (see gatherer).
type evictor struct {
	// Atomic.
	hand    atomic.Uint64
	wanted  atomic.Bool  // the goroutine has been woken
	tight   atomic.Bool  // updates and loads are to make room first
	stalled atomic.Bool  // what is retired was waited for in vain, and the epoch has not stepped since
	places  atomic.Int64 // see PlacesMax
	holes   atomic.Int64 // bytes by which page memory that is held exceeds what is fair, see measureHoles

	wake chan struct{}

	sweeps sync.RWMutex // sweepers hold it shared; a test that wants none takes it
}

const (
	sweepPages = 64 // slots looked at under one guard
	// Memory in percent of CacheSize: the evictor starts, stops, and those who take
	// memory begin to help; above the last they wait for what is retired as well.
	evictStartPercent = 97
	evictStopPercent  = 94
	evictHelpPercent  = 102
	evictWaitPercent  = 104
	// What is retired is not waited for if it is less.
	evictRetiredPercent = 3

	// A sweep gives up after so many rounds of the hand: what is left is not
	// evictable now. Queues give more than what exceeds their shares, and pages go
	// that the materializer wants kept, only when so many rounds were not enough.
	sweepRoundsMax   = markLevelMax + 5
	sweepKeptAfter   = markLevelMax + 2
	sweepQueuesAfter = 1
)

// noteGrowth wakes the evictor if memory has come near the budget.
func (c *Cache) noteGrowth() {
	if c.options.InMemory {
		return
	}
	inUse, retired := c.inUse()
	if inUse < c.percentOfBudget(evictStartPercent)-c.evict.holes.Load() {
		return
	}
	if c.isTight(inUse, retired) && !c.evict.tight.Load() {
		c.evict.tight.Store(true)
	}
	if !c.evict.wanted.Load() && c.evict.wanted.CompareAndSwap(false, true) {
		select {
		case c.evict.wake <- struct{}{}:
		default:
		}
	}
}

func (c *Cache) percentOfBudget(percent int64) int64 { return c.options.CacheSize * percent / 100 }

// isTight reports whether memory is so far over its budget that those who want more
// have to help.
func (c *Cache) isTight(inUse, retired int64) bool {
	return inUse > c.percentOfBudget(evictHelpPercent) || c.isCrowded(inUse, retired)
}

// isCrowded reports whether it is what is retired that makes memory exceed its budget
// by much: that passes when readers leave. What else there is may not be evictable.
func (c *Cache) isCrowded(inUse, retired int64) bool {
	return inUse+retired > c.percentOfBudget(evictWaitPercent) && retired > c.percentOfBudget(evictRetiredPercent)
}

// makeRoom helps the evictor if memory is over its budget: before an update and
// before a load, with no guard held. It waits a little while it is what is retired
// that is too much: a goroutine that holds a guard may have lost its processor. If
// that does not pass, it is waited for no more until it has passed.
func (c *Cache) makeRoom() {
	for try := 0; c.evict.tight.Load() && try < roomTriesMax; try++ {
		c.help()
		inUse, retired := c.inUse()
		if !c.isTight(inUse, retired) {
			c.evict.tight.Store(false)
			return
		}
		if !c.isCrowded(inUse, retired) || c.evict.stalled.Load() {
			return // helping is enough
		}
		if try > 0 {
			time.Sleep(roomPause)
		}
		if try == roomTriesMax-1 {
			c.evict.stalled.Store(true)
		}
	}
}

const (
	roomTriesMax = 100
	roomPause    = 200 * time.Microsecond
	helpSweeps   = 4 // at most, by one who helps
)

// help evicts a few pages, whoever else does so: the others may not get to run.
func (c *Cache) help() {
	for range helpSweeps {
		if inUse, _ := c.inUse(); inUse <= c.percentOfBudget(evictStartPercent) {
			break
		}
		c.sweep(0)
	}
	c.advance()
	c.advance()
}

// advance lets what is retired be reclaimed, if readers have left.
func (c *Cache) advance() {
	if c.epochs.TryAdvance() && c.evict.stalled.Load() {
		c.evict.stalled.Store(false)
	}
}

// runEvictor is the evictor's goroutine.
func (c *Cache) runEvictor() {
	defer c.background.Done()
	for {
		select {
		case <-c.stop:
			return
		case <-c.evict.wake:
			c.evict.wanted.Store(false)
			c.measureHoles()
			c.sweepUntil(c.percentOfBudget(evictStopPercent) - c.evict.holes.Load())
		}
	}
}

// sweepUntil moves the hand until at most target bytes are in use, or it gives up.
func (c *Cache) sweepUntil(target int64) {
	c.choosePlacesMax()
	slots := int64(c.pids.max()) + 1
	for passed, rounds := int64(0), 0; rounds < sweepRoundsMax && !c.stopping(); {
		if inUse, _ := c.inUse(); inUse <= target {
			break
		}
		c.sweep(rounds)
		c.advance()
		if passed += sweepPages; passed > slots {
			passed = 0
			rounds++
		}
	}
	c.advance()
	if inUse, retired := c.inUse(); !c.isTight(inUse, retired) {
		c.evict.tight.Store(false)
	}
}

const (
	holesFair = 10 // a part of CacheSize that may be held and not used
	holesMost = 4  // a part of CacheSize that more of it may cost
	// A part of CacheSize that may lie between spans and is not given back: more of it is
	// there when what was held is held no more, scattered.
	freeShare = 32
)

// measureHoles says how much less than CacheSize is to be used for the sake of what
// the process takes from the system. Page memory is held in spans of one size each;
// where sizes change, some are sparse for a while. What is held beyond a fair part is
// taken off the budget, so that spans become empty and serve other sizes.
func (c *Cache) measureHoles() {
	fair := c.options.CacheSize / holesFair
	holes := func() int64 { return c.arena.Held() - c.arena.Used() - fair }
	if holes() > 0 {
		c.arena.Scavenge()
	}
	c.evict.holes.Store(min(max(holes(), 0), c.options.CacheSize/holesMost))
	if free := c.arena.Resident() - c.arena.Held(); free > c.options.CacheSize/freeShare {
		c.arena.ReleaseFree(c.options.CacheSize / freeShare / 2)
	}
}

// PlacesMax is how many places in the log an absent page may have its fragments in
// before it is to be read and written merged: Options.LoadReads, or fewer, since each
// takes memory for as long as the page does not: the more pages there are for the
// cache, the fewer. Between two merges a page has half of them on the average.
func (c *Cache) PlacesMax() int { return int(c.evict.places.Load()) }

const (
	placesMin       = 2
	placesShare     = 3 // the positions of all pages may take this part of the cache
	placesOfMean    = 2 // what one page may have, over the mean
	absentPageBytes = bottomHeaderBytes + 8
)

func (c *Cache) choosePlacesMax() {
	// Not PIDs that are free: a store that was larger once would write its pages merged,
	// and have them split, sooner than it did when it was new.
	perPage := int(c.options.CacheSize/placesShare) / (int(c.pids.used()) + 1)
	n := (perPage - absentPageBytes) * placesOfMean / positionBytes
	c.evict.places.Store(int64(max(placesMin, min(n, c.options.LoadReads))))
}

func (c *Cache) stopping() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// sweep evicts some of the pages on probation or, if those have no more than their
// share, looks at the next few slots. round says how often the hand has gone round
// without success. Any number may sweep at once: each page is evicted by its
// compare-and-swap, and the hand is one number.
func (c *Cache) sweep(round int) {
	if !c.evict.sweeps.TryRLock() {
		return
	}
	defer c.evict.sweeps.RUnlock()
	g := c.Pin()
	defer g.Unpin()
	if c.closed.Load() {
		return // page memory is gone
	}
	for n := range sweepPages {
		pid, why, ok := c.probation.leave(c.options.CacheSize, round >= sweepQueuesAfter)
		switch {
		case ok:
			c.endProbation(g, pid, why)
			continue
		case n > 0:
			return
		}
		break
	}
	last := uint64(c.pids.max())
	for range sweepPages {
		pid := c.evict.hand.Add(1)
		if pid > last {
			c.evict.hand.CompareAndSwap(pid, 0)
			return
		}
		c.sweepPage(g, PID(pid), round >= sweepKeptAfter)
	}
}

// endProbation evicts a page that leaves its queue, unless it proved worth keeping.
func (c *Cache) endProbation(g epoch.Guard, pid PID, why loadReason) {
	if v, ok := c.evictable(pid); ok && v.Resident() && !v.bottom.mark.release() && v.bottom.flags&nodeKeep == 0 {
		c.evictPage(g, v, why == loadedToRead)
	}
}

func (c *Cache) sweepPage(g epoch.Guard, pid PID, evenKept bool) {
	v, ok := c.evictable(pid)
	if !ok {
		return
	}
	// Updates of a page that is not in memory do not make it worth more than that
	// they can be read again for a while.
	if v.bottom.mark.pass(!v.Resident()) || v.bottom.flags&nodeKeep != 0 && v.Resident() && !evenKept {
		return
	}
	c.evictPage(g, v, false)
}

// evictable returns the page if it is in use, nobody owns it, and some of it is in
// memory.
func (c *Cache) evictable(pid PID) (View, bool) {
	slot := c.table.slot(pid)
	if slot == nil {
		return View{}, false
	}
	word := slot.Load()
	if word&slotRefMask == 0 || word&slotWriter != 0 {
		return View{}, false
	}
	switch c.headerAt(word).kind {
	case nodeAbsent:
		c.bottomAt(word).mark.forgetGhost()
		return View{}, false
	case nodeFree:
		return View{}, false
	}
	v, err := c.viewWord(pid, word)
	return v, err == nil
}

func (c *Cache) bottomOf(word uint64) *bottomNode {
	if h := c.headerAt(word); h.kind == nodeDelta {
		return c.bottomAt(c.deltaAt(word).bottom)
	}
	return c.bottomAt(word)
}

// evictPage replaces v's chain with its positions. It reports whether it did. With
// ghost, the page is known again if it comes back soon.
func (c *Cache) evictPage(g epoch.Guard, v View, ghost bool) bool {
	if !c.completeInLog(v) {
		return false
	}
	deltas := v.Deltas()
	n := int(v.bottom.positions) + deltas
	again := n > gatheredPlaces && v.bottom.flags&nodeRead != 0 && c.mayGather(false)
	switch needed := c.needsStamps(v); {
	case v.Resident() && (needed || again || n > c.PlacesMax() && c.writable()):
		if done, _ := c.consolidate(g, v, true); !done {
			return false
		}
		if again {
			c.noteGathered(g, v.pid)
		}
		// It is evictable once the merged page is complete in the log: now, as a rule.
		v, ok := c.evictable(v.pid)
		return ok && v.Resident() && v.bottom.positions == 1 && v.Deltas() == 0 && c.evictPage(g, v, ghost)
	case needed:
		c.MergeSoon(v.pid) // the same, but first it has to be read
		return false
	}
	ref, b := c.newBottom(nodeAbsent, v.head.version, v.newestStamp(), n, nil)
	b.flags = v.bottom.flags &^ nodeRead
	if ghost || !v.Resident() && v.bottom.mark.isGhost() {
		b.mark.setGhost()
	}
	copy(b.positionArea(), v.bottom.positionArea())
	i := n
	for d := v.top(); d != nil; d = c.olderDelta(d) {
		i--
		b.setPosition(i, d.position())
		b.flags |= d.flags & nodePartUnstamped
	}
	yield(yieldEvictPublish)
	if !c.table.slot(v.pid).CompareAndSwap(v.word, uint64(ref)) {
		c.dropNode(ref)
		return false
	}
	c.retireChain(g, v.word)
	if n > c.PlacesMax() {
		c.MergeSoon(v.pid)
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
